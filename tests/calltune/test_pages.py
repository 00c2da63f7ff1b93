"""The pages' layout and plots: complete in one file, escaped, and coloured by the page."""

import re
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

from calltune.errors import UserError
from calltune.pages import plots, render_page

COUNTS = {"base": {"correct": 3, "malformed": 17}, "tuned": {"correct": 19, "malformed": 1}}
CELLS = {"search_web": {"search_web": 41, "find_employee": 2}, "find_employee": {"find_employee": 17}}


def texts(svg: str) -> list[str]:
    """The drawing's texts; fails when it is not well-formed."""
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg.replace("xlink:href", "href")).iter()
        if element.tag == "text"
    ]


def drawings() -> dict[str, str]:
    return {
        "loss": plots.loss_curve([(0.5, 2.0), (1, 1.0), (2, 0.4)], [(1, 0.9), (2, 0.5)], 2),
        "verdicts": plots.verdict_bars(COUNTS),
        "confusion": plots.confusion_heatmap(CELLS),
        "tokens": plots.token_histogram([500, 510, 512, 560], 600, "tokens of a row", "rows"),
    }


def test_layout_needs_nothing_from_outside() -> None:
    html = render_page("calltune.pages/layout.html.jinja")
    assert html.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert not re.search(r"<script|<link|<img|@import|url\(|https?:", html)


def test_every_colour_of_a_plot_is_a_variable_of_the_layout() -> None:
    html = render_page("calltune.pages/layout.html.jinja")
    for svg in drawings().values():
        for name in re.findall(r"var\((--[\w-]+)", svg):
            assert html.count(f"{name}:") == 2, f"{name} must be set for light and for dark"


@pytest.mark.parametrize("name", ["loss", "verdicts", "confusion", "tokens"])
def test_a_plot_has_no_fixed_colour_that_would_vanish_on_dark(name: str) -> None:
    bare = re.sub(r"var\([^)]*\)", "", drawings()[name])
    assert re.findall(r"#[0-9a-f]{6}\b", bare) == []


def test_ids_of_two_plots_do_not_collide() -> None:
    ids = [found for svg in drawings().values() for found in re.findall(r' id="([^"]+)"', svg)]
    assert ids and len(ids) == len(set(ids))


def test_a_plot_is_the_same_each_time() -> None:
    assert drawings() == drawings()


def test_the_kept_epoch_is_marked() -> None:
    assert "kept: epoch 2, loss 0.500" in [text.strip() for text in texts(drawings()["loss"])]
    assert not [t for t in texts(plots.loss_curve([(1, 1.0)], [(1, 0.9)], None)) if "kept" in t]


def test_verdict_bars_print_every_count() -> None:
    found = texts(plots.verdict_bars(COUNTS))
    assert {"3", "17", "19", "base", "tuned"} <= set(found)


def test_verdict_bars_without_a_question_are_drawn() -> None:
    assert "0" in texts(plots.verdict_bars({"base": {"correct": 0}, "tuned": {"correct": 0}}))


def test_confusion_shows_counts_row_sums_and_labels() -> None:
    found = texts(plots.confusion_heatmap(CELLS))
    assert {"41", "2", "17", "search_web", "search_web (43)", "find_employee (17)"} <= set(found)


def test_confusion_paints_right_and_wrong_differently() -> None:
    right = plots.confusion_heatmap({"a": {"a": 5}})
    wrong = plots.confusion_heatmap({"a": {"b": 5}})
    assert "--plot-tuned" in right and "--plot-wrong" not in right
    assert "--plot-wrong" in wrong and "--plot-tuned" not in wrong


def test_a_label_that_looks_like_markup_stays_text() -> None:
    svg = plots.confusion_heatmap({"<script>alert(1)</script>": {"a & b": 1}})
    assert "<script" not in svg
    assert {"<script>alert(1)</script> (1)", "a & b"} <= set(texts(svg))


def test_a_label_with_dollars_is_not_read_as_mathematics() -> None:
    assert "price_$x^2$" in texts(plots.confusion_heatmap({"price_$x^2$": {"price_$x^2$": 1}}))


@pytest.mark.parametrize("limit", [600, 4096])
def test_max_tokens_is_named_near_and_far(limit: int) -> None:
    assert any(f"max_tokens {limit}" in text for text in texts(plots.token_histogram([500, 560], limit, "tokens", "rows")))


def test_a_histogram_of_equal_lengths_is_drawn() -> None:
    assert "tokens" in texts(plots.token_histogram([7] * 20, None, "tokens", "rows"))


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(UserError, match=r"calltune\.pages/absent\.html\.jinja: not in this installation"):
        render_page("calltune.pages/absent.html.jinja")


def test_a_value_that_was_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render_page("components.report/page.html.jinja")
