"""What a run looks like: at any width no name is cut, and a path stays in one piece."""

import io
import re

import pytest
from rich.console import Console

from calltune.metrics import METRICS
from pipelines.screen import Screen, closing

ROW = {"value": 0.9, "low": 0.858, "high": 0.938, "n": 210}
PATH = "/home/somebody/a/rather/long/path/to/where/the/bundled/model/is/unpacked/once/and/for/all/models/x"


def said(width, show):
    """What `show` prints on a console of the given width, without a terminal."""
    file = io.StringIO()
    show(Console(file=file, width=width))
    return file.getvalue()


def summary(champion):
    results = dict.fromkeys(METRICS, ROW)
    check = {"name": "threshold: tool_accuracy", "passed": True, "observed": 0.9, "required": 0.8, "reason": "It is."}
    return {
        "outcome": "refused",
        "baseline": results,
        "candidate": results,
        "champion": results if champion else None,
        "gate": {"passed": False, "checks": [check]},
        "steps": [{"name": "evaluate-candidate", "seconds": 61.0, "peak_rss_mib": 1800, "cached": False}],
        "promoted": None,
    }


@pytest.mark.parametrize("champion", [False, True])
@pytest.mark.parametrize("width", [50, 60, 80, 99, 100, 120, 200])
def test_no_width_cuts_anything(width, champion):
    text = said(width, lambda console: closing(console, summary(champion), []))
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    table = text.split("The gate")[0]
    names = "".join(re.findall(r"^(?:│ )?([a-z_]+)", table, re.MULTILINE))
    assert names == "".join(METRICS), "each name is on one line, or folded"
    assert table.count("210") == len(METRICS)


def test_eighty_columns_have_room_for_everything_in_one_piece():
    text = said(80, lambda console: closing(console, summary(champion=True), []))
    assert all(name in text for name in METRICS)
    assert text.count("(0.858–0.938)") == 3 * (len(METRICS) - 1)


def test_a_number_that_fails_is_not_rounded_up_to_the_one_that_was_asked_for():
    failed = {"name": "threshold: tool_accuracy", "passed": False, "observed": 327 / 409, "required": 0.8, "reason": "It is."}
    gate = {"passed": False, "checks": [failed]}
    text = said(120, lambda console: closing(console, {**summary(champion=False), "gate": gate}, []))
    assert re.search(r" 0\.7995 +│ 0\.800 ", text)


def test_where_the_gate_has_passed_promotes_reason_is_said():
    passed = {**summary(champion=False), "gate": {"passed": True, "checks": []}, "reason": "somebody was faster"}
    assert said(120, lambda console: closing(console, passed, [])).endswith(
        "refused: somebody was faster; the alias stays where it was\n"
    )


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "note", "message": f"unpacking into {PATH} (once)"},
        {
            "kind": "progress",
            "name": f"fetch {PATH}",
            "time": 0,
            "done": 1,
            "total": 1,
            "unit": "files",
            "detail": "",
            "left_s": 0.0,
        },
    ],
    ids=lambda event: event["kind"],
)
def test_a_path_stays_on_one_line(event):
    assert PATH in said(40, lambda console: Screen(console).show(event))


def test_the_first_errors_text_is_left_to_the_commands_last_line():
    def show(console):
        screen = Screen(console)
        screen.show({"kind": "error", "step": "look", "message": "no such data file"})
        screen.show({"kind": "note", "message": "helpdesk: run 1: failed at look: no such data file"})
        screen.show({"kind": "error", "step": "notify", "message": f"{PATH}: another one"})
        screen.show({"kind": "note", "message": "notify: email: sent"})

    assert said(40, show).splitlines() == [
        "✗ look",
        "  helpdesk: run 1: failed at look",
        f"✗ notify: {PATH}: another one",
        "  notify: email: sent",
    ]


@pytest.mark.parametrize(
    ("left_s", "words"),
    [(None, ""), (0.0, ""), (0.4, " 1 s left"), (59, " 59 s left"), (61, " 2 min left"), (3900, " 1 h 05 min left")],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_left_is_said_beside_the_count(left_s, words, terminal):
    def show(console):
        event = {"kind": "progress", "name": "train", "total": 9, "unit": "steps", "detail": "loss 0.5", "left_s": left_s}
        with Screen(console) as screen:
            screen.show({**event, "done": 0, "time": 0.0, "left_s": None})
            screen.show({**event, "done": 3, "time": 100.0})

    file = io.StringIO()
    show(Console(file=file, width=160, force_terminal=terminal, color_system=None))
    text = file.getvalue()
    assert "3/9" in text and "loss 0.5" in text
    assert words in text if words else "left" not in text


def test_a_phase_of_the_command_is_shown_when_it_has_ended():
    def show(console):
        with Screen(console) as screen, screen.phase("start the S3 server"):
            assert console.file.getvalue() == ""

    assert said(80, show) == "  start the S3 server: 1/1\n"


def test_a_run_with_nothing_new_says_so_and_nothing_else():
    assert said(80, lambda console: closing(console, {"outcome": "nothing_new"}, [])).startswith("Nothing new")
