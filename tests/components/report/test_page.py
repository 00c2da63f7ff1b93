"""The report of a run: complete, escaped, and readable whatever the outcome."""

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from calltune import stats
from components.report import beside, words
from components.report.page import Material, folded_confusion, headline, render, side_by_side

HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x.png onerror=alert(1)>'


def refused(material: Material) -> Material:
    checks = [dict(check) for check in material.decision["checks"]]
    checks[1] |= {"passed": False, "required": 0.999, "reason": "0.890 is below 0.999"}
    promotion = material.promotion | {"promoted": False, "version": "4", "reason": "the gate refused"}
    return replace(
        material,
        summary=material.summary | {"outcome": "refused"},
        decision={"passed": False, "checks": checks, "champion": material.decision["champion"]},
        promotion=promotion,
    )


def section(html: str, name: str) -> str:
    """A section's text without its tags."""
    body = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    assert body, f"no section {name}"
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body[1])).split())


def test_the_report_has_every_section_in_reading_order(material: Material) -> None:
    html = render(material)
    assert re.findall(r'<section id="(\w+)">', html) == [
        "numbers",
        "gate",
        "training",
        "verdicts",
        "tools",
        "answers",
        "data",
        "chosen",
        "steps",
        "origin",
    ]
    assert html.count("<svg ") == 5
    assert "Left out by their weight 7" in section(html, "data")


def test_the_report_is_one_small_file_that_fetches_nothing(material: Material) -> None:
    html = render(material)
    assert len(html.encode()) < 3_000_000
    assert not re.search(r"<script|<link|<img|<iframe|@import|https?://|\bon\w+=", html)
    assert set(re.findall(r'(?:href|src)="(.)', html)) <= {"#"}


def test_the_numbers_of_the_run_appear(material: Material) -> None:
    html = render(material)
    numbers = section(html, "numbers")
    for metrics in (material.base, material.candidate, material.champion):
        found = metrics["metrics"]["tool_accuracy"]
        assert f"{100 * found['value']:.1f} % {100 * found['low']:.1f} to {100 * found['high']:.1f}" in numbers
    before, after = (m["metrics"]["tool_accuracy"]["value"] for m in (material.base, material.candidate))
    outcomes = (metrics["outcomes"]["tool_accuracy"] for metrics in (material.candidate, material.base))
    paired = stats.paired_difference(*outcomes)
    assert paired.low is not None and paired.high is not None
    assert f"+{100 * (after - before):.1f} {100 * paired.low:.1f} to {100 * paired.high:.1f}" in numbers
    assert "561.4" in numbers
    assert "362" in section(html, "data") and "2,048" in section(html, "data")
    assert "14 min 34 s" in section(html, "steps") and "2.8 GiB" in section(html, "steps")
    assert "4,884,480" in section(html, "training")
    assert "0d" * 32 in section(html, "origin")


def test_what_training_cost_is_told_and_only_once(material: Material) -> None:
    told = section(render(material), "training")
    for said in (
        "Time 14 min 34 s",
        "246.8 a second, 16.98 supervised",
        "31.2 % of 0.244 TFLOP/s",
        "Peak memory 2.8 GiB",
        "GPU-hours 0, trained on the CPU",
        "Energy of the GPU not known: no GPU",
        "Price 0.15",
    ):
        assert told.count(said) == 1, said
    assert "MFU: FLOPs / seconds / device_tflops." in told and "Device tflops" not in told


def test_on_a_gpu_its_memory_hours_and_energy_are_told_and_no_price_where_none_is_set(material: Material) -> None:
    on_gpu = {"peak_gpu_mib": 40960, "gpu_hours": 2.5, "energy_kwh": 1.234, "energy_source": "NVML, the whole GPU", "price": None}
    told = section(render(replace(material, train=material.train | on_gpu)), "training")
    assert "GPU 40.0 GiB" in told and "GPU-hours 2.5" in told and "1.23 kWh (NVML, the whole GPU)" in told
    assert "on the CPU" not in told and "Price" not in told


def test_tools_and_arguments_are_shown_worst_first(material: Material) -> None:
    shown = section(render(material), "tools")
    tools = material.candidate["tools"]
    worst = sorted(tools, key=lambda tool: (tools[tool]["recall"]["value"], -tools[tool]["recall"]["n"]))
    assert [shown.index(f" {tool} ") for tool in worst] == sorted(shown.index(f" {tool} ") for tool in worst)
    assert re.search(r"book_room\.start ast 50\.0 % .* search_web\.query any 83\.3 % .* book_room\.note any –", shown)


def test_what_was_asked_again_is_among_the_numbers(material: Material) -> None:
    again = {"value": 0.75, "low": 0.69, "high": 0.8, "n": 210}
    sides = [
        side
        | {
            "metrics": {**side["metrics"], "tool_accuracy_rephrased": again},
            "settings": {"robustness": ["rephrased", "distractor"]},
        }
        for side in (material.base, material.candidate)
    ]
    html = render(replace(material, base=sides[0], candidate=sides[1]))
    assert "tool_accuracy with courtesy, typos, small letters" in section(html, "numbers")
    assert "Evaluated with robustness rephrased, distractor" in section(html, "origin")


def suites(acc: list[float], loss: float) -> dict[str, Any]:
    """As evaluate writes them: a share, a loss, and a metric in a unit of its own."""
    measured = {
        "general.knowledge.acc": {f"knowledge/{n}": one for n, one in enumerate(acc)},
        "general.text_loss": {"1": loss, "2": loss},
        "general.tales.bleu": {"a": 20.0, "b": 10.0 * loss},
    }
    return {name: {**stats.of_items(items).as_dict(), "sha256": "x", "items": items} for name, items in measured.items()}


def test_what_was_measured_beside_the_questions_is_a_table(material: Material) -> None:
    assert "Beside the tool questions" not in render(material)
    sides = {
        "base": material.base | {"suites": suites([1.0] * 8 + [0.0] * 2, 3.0)},
        "candidate": material.candidate | {"suites": suites([1.0] * 7 + [0.0] * 3, 3.1)},
    }
    shown = section(render(replace(material, **sides)), "beside")
    # exp(3.0) = 20.09, exp(3.1) = 22.2, exp(0.1) = 1.105
    assert re.search(
        r"general\.knowledge\.acc 80\.0 % 49\.0 to 94\.3 70\.0 % 39\.7 to 89\.2 −10\.0 −30\.0 to 0\.0 – – 10 ", shown
    )
    assert re.search(
        r"general\.text_loss perplexity .* 20\.09 20\.09 to 20\.09 22\.2 22\.2 to 22\.2 \+10\.5 % \+10\.5 to \+10\.5 – – 2 ",
        shown,
    )
    assert re.search(r"general\.tales\.bleu 25 20 to 30 25\.5 20 to 31 \+0\.5 \+0 to \+1 – – 2", shown)


def test_a_model_that_has_diverged_has_a_report(material: Material) -> None:
    sides = {
        "base": material.base | {"suites": suites([1.0], 3.0)},
        "candidate": material.candidate | {"suites": suites([1.0], 800)},
    }
    shown = section(render(replace(material, **sides)), "beside")
    assert re.search(r"general\.text_loss perplexity .* ∞ ∞ to ∞ ∞ ∞ to ∞ – – 2 ", shown)


def test_instructions_are_shown_with_their_meaning_and_where_every_answer_is(material: Material) -> None:
    items = {"instructions.win_rate": {"1": 1.0, "2": 0.5}, "instructions.judge_agreement": {"1": 1.0, "2": 0.0}}
    found = {name: {**stats.of_items(one).as_dict(), "sha256": "x", "items": one} for name, one in items.items()}
    sides = {
        "base": material.base | {"suites": found, "rows": {"instructions": "s3://bucket/base.jsonl"}},
        "candidate": material.candidate | {"suites": found, "rows": {"instructions": "s3://bucket/tuned.jsonl"}},
    }
    shown = section(render(replace(material, **sides)), "beside")
    assert re.search(r"instructions\.win_rate answers that the judge prefers .* 75\.0 % .* 75\.0 % .* 0\.0 .* 2 ", shown)
    assert re.search(r"instructions\.judge_agreement of the judge: .* 50\.0 %", shown)
    assert re.search(r"Every answer in instructions : s3://bucket/tuned\.jsonl , the base model's s3://bucket/base\.jsonl", shown)


def test_sides_that_were_asked_something_else_have_no_difference(material: Material) -> None:
    base, tuned = (suites([1.0, 0.0], loss) for loss in (3.0, 3.1))
    base["general.text_loss"]["sha256"] = "another text"
    models = {"base": material.base | {"suites": base}, "tuned": material.candidate | {"suites": tuned}}
    by_name = {row["name"]: row for row in beside.rows(models)}
    assert by_name["general.text_loss"]["changes"] == {"base": ("–", "", "")}
    assert by_name["general.knowledge.acc"]["changes"]["base"][0] == "0.0"
    models["base"] = material.base
    assert [row["cells"]["base"] for row in beside.rows(models)] == [("–", "")] * 3


def test_a_higher_share_and_a_lower_loss_look_good(material: Material) -> None:
    worse, better = suites([1.0] + [0.0] * 9, 3.1), suites([1.0] * 8 + [0.0] * 2, 3.0)
    for base, tuned, look in ((worse, better, "good"), (better, worse, "bad")):
        rows = beside.rows({"base": material.base | {"suites": base}, "tuned": material.candidate | {"suites": tuned}})
        assert [row["changes"]["base"][2] for row in rows[:2]] == [look, look]


def test_what_may_be_chance_has_no_colour(material: Material) -> None:
    assert [words.look(low, high) for low, high in ((-0.045, 0.063), (0.0, 0.1), (None, None))] == ["", "", ""]
    assert (words.look(0.01, 0.1), words.look(-0.1, -0.01)) == ("good", "bad")
    assert (words.look(0.01, 0.1, lower_is_better=True), words.look(-0.1, -0.01, lower_is_better=True)) == ("bad", "good")
    better = {id_: int(place < 6) for place, id_ in enumerate(material.base["outcomes"]["tool_accuracy"])}
    sides = [side | {"outcomes": {"tool_accuracy": better}} for side in (material.base, material.candidate)]
    assert '<span class="good">' in render(material)
    assert not re.search(r'<span class="(good|bad)">', render(replace(material, base=sides[0], candidate=sides[1], champion={})))


def test_the_champion_stands_beside_with_version_and_difference(material: Material) -> None:
    ours, theirs = (metrics["outcomes"]["tool_accuracy"] for metrics in (material.candidate, material.champion))
    gain = stats.paired_difference(ours, theirs)
    assert gain.value is not None and gain.low is not None and gain.high is not None
    numbers = section(render(material), "numbers")
    assert "the champion, version 2, with" in numbers and "Tuned − base Champion Tuned − champion n" in numbers
    assert f"{words.difference('', 0.0, gain.value)} {words.interval('', gain.low, gain.high)} 210 " in numbers
    champions = words.metric("", material.champion["metrics"]["tool_accuracy"]["value"])
    assert (
        f" · champion {champions}</div>" in render(material).replace("\u00a0", " ")
        and f"the champion's {champions}." in headline(material)[2]
    )


def test_an_interval_stands_by_the_number_that_it_is_of(material: Material) -> None:
    found = material.candidate["metrics"]["tool_accuracy"]
    spread = words.interval("", found["low"], found["high"])
    assert f'<div class="sub">95 % interval {spread} · base ' in render(material).replace("\u00a0", " ")


def test_a_cell_that_counts_another_number_of_questions_says_so(material: Material) -> None:
    base = material.base["metrics"]["valid_call_rate"]
    assert 0 < base["n"] != material.candidate["metrics"]["valid_call_rate"]["n"]
    html = render(material)
    assert re.search(rf"valid_call_rate of attempted .*? % [\d.]+ to [\d.]+, n {base['n']} ", section(html, "numbers"))
    for tool in material.candidate["tools"].values():
        assert tool["precision"]["n"] == tool["recall"]["n"] or f", n {tool['precision']['n']} " in section(html, "tools")


def test_a_number_that_failed_is_not_rounded_to_the_one_that_was_asked_for(material: Material) -> None:
    checks = [material.decision["checks"][1] | {"passed": False, "observed": 0.79996, "low": 0.7, "high": 0.9}]
    html = render(replace(material, decision=material.decision | {"passed": False, "checks": checks}))
    assert "tool_accuracy 0.79996 0.7 to 0.9 0.8 failed" in section(html, "gate")


def test_the_gate_shows_each_check_with_its_reason(material: Material) -> None:
    shown = section(render(refused(material)), "gate")
    for check in refused(material).decision["checks"]:
        assert check["name"] in shown and check["reason"] in shown
    assert shown.count("failed") == 1 and shown.startswith("Gate refused")


def test_a_promotion_says_what_changed(material: Material) -> None:
    outcome, look, why = headline(material)
    assert (outcome, look) == ("promoted", "good")
    assert "all 4 checks" in why and "helpdesk version 3 is now champion; before, it was version 2." in why


def test_the_first_promotion_names_no_version_before(material: Material) -> None:
    first = replace(material, promotion=material.promotion | {"previous": None})
    assert headline(first)[2].endswith("is now champion, the first one.")


def test_a_refusal_names_the_failed_check(material: Material) -> None:
    outcome, look, why = headline(refused(material))
    assert (outcome, look) == ("refused", "bad")
    assert why == "1 of 4 checks failed (tool_accuracy): 0.890 is below 0.999. The alias champion stays where it was."
    assert why in unescape(render(refused(material)))


def test_losing_the_race_to_another_promoter_is_said(material: Material) -> None:
    raced = replace(material, promotion=material.promotion | {"promoted": False, "reason": "the champion changed meanwhile"})
    assert headline(raced)[2] == "Passed the gate, but was not promoted: the champion changed meanwhile"


def test_an_unchanged_champion_is_said(material: Material) -> None:
    same = replace(material, promotion=material.promotion | {"unchanged": True})
    assert headline(same)[0] == "unchanged"
    assert "stays champion" in render(same)


def test_a_champion_that_could_not_be_evaluated_is_said_and_has_no_column(material: Material) -> None:
    gone = {"present": True, "which": "champion", "version": "2", "model_digest": "c4", "error": "s3://x/models/c4: <it> is gone"}
    html = render(replace(material, champion=gone))
    assert ">Champion</th>" not in html and "no champion to compare with" not in html
    assert "The champion, version 2, could not be evaluated: s3://x/models/c4: &lt;it&gt; is gone." in html


def test_without_a_champion_there_is_no_column_for_it(material: Material) -> None:
    html = render(replace(material, champion={"present": False, "which": "champion"}))
    assert ">Champion</th>" not in html and "no champion to compare with" in html
    assert ">Champion</th>" in render(material)


def test_a_metric_with_nothing_to_count_is_a_dash(material: Material) -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    metrics = {name: dict(nothing) for name in material.base["metrics"]}
    html = render(replace(material, base=material.base | {"metrics": metrics}, champion={"present": False}))
    row = re.search(r"<code>tool_accuracy</code>.*?</tr>", html, re.DOTALL)
    assert row and row[0].count(words.NOTHING) == 2  # the base model's value, and the difference
    assert "None" not in html and "nan" not in html.lower().replace("finance", "")


def test_whether_training_overfitted_is_said(material: Material) -> None:
    html = render(material)
    assert "Overfitting shows: the validation loss was lowest after epoch 3, 0.2874, and 0.3141 at the end (+9%)." in html
    validated = [row for row in material.loss if row["validation_loss"]]
    assert "lowest at the end: overfitting does not show" in render(replace(material, loss=validated[:3]))
    assert "verfitting" not in render(replace(material, loss=validated[:1]))


def test_tools_that_no_question_expects_are_named(material: Material) -> None:
    assert "no test question expects" not in render(material)
    some = render(replace(material, candidate=material.candidate | {"untested_tools": ["refund", "<b>"]}))
    assert "whether they are called: refund, &lt;b&gt;." in some
    many = render(replace(material, candidate=material.candidate | {"untested_tools": [f"tool_{n}" for n in range(20)]}))
    assert "tool_11 and 8 more." in many


def test_a_run_without_loss_lengths_or_questions_is_rendered(material: Material) -> None:
    empty = replace(
        material,
        loss=[],
        notes=[],
        stats=material.stats | {"tokens": {"rows": [], "prefix": 0, "supervised": []}, "strata": {"train": {}, "test": {}}},
        base_predictions=[],
        candidate_predictions=[],
        base=material.base | {"verdicts": {}, "confusion": {}, "tools": {}, "arguments": {}},
        candidate=material.candidate | {"verdicts": {}, "confusion": {}, "tools": {}, "arguments": {}},
        champion={"present": False},
    )
    html = render(empty)
    assert html.count("<svg ") == 1 and "No loss was logged." in html and "the config sets everything itself" in html


def test_hostile_text_comes_out_as_text(material: Material) -> None:
    row = material.candidate_predictions[0] | {
        "question": HOSTILE,
        "verdict": "malformed",
        "text": HOSTILE,
        "reason": HOSTILE,
        "calls": [{"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}],
        "expected": [{"name": HOSTILE, "arguments": {HOSTILE: [HOSTILE]}}],
    }
    check = material.decision["checks"][0] | {"name": HOSTILE, "reason": HOSTILE}
    html = render(
        replace(
            material,
            candidate_predictions=[row],
            candidate=material.candidate | {"confusion": {HOSTILE: {HOSTILE: 1}}, "settings": {HOSTILE: HOSTILE}},
            decision=material.decision | {"checks": [check]},
            promotion=material.promotion | {"model": HOSTILE, "alias": HOSTILE},
            profile=material.profile | {"tools": {HOSTILE: 3}},
            stats=material.stats | {"strata": {HOSTILE: {HOSTILE: 1}}, "warnings": {"ordered": HOSTILE}},
            notes=[HOSTILE],
        )
    )
    assert "<script" not in html and "<img" not in html
    assert all(HOSTILE in section(html, name) for name in ("answers", "chosen", "data"))


def test_wrong_answers_come_first_then_those_that_tuning_changed(material: Material) -> None:
    shown = side_by_side(material.base_predictions, material.candidate_predictions)
    right = [row["tuned"]["verdict"] == "correct" for row in shown]
    assert len(shown) == 20 and right == sorted(right) and not right[0]
    wrong = {row["id"] for row in material.candidate_predictions if row["verdict"] != "correct"}
    assert {row["id"] for row in shown} <= wrong or wrong <= {row["id"] for row in shown}
    changed = side_by_side(
        [{**material.base_predictions[0], "id": i, "verdict": v} for i, v in (("a", "correct"), ("b", "missing_call"))],
        [{**material.candidate_predictions[0], "id": i, "verdict": "correct"} for i in ("a", "b")],
    )
    assert [row["id"] for row in changed] == ["b", "a"]


def test_calls_are_printed_as_code() -> None:
    made = {"name": "find_employee", "arguments": {"name": 'Ana "AS" Souza', "floor": 3, "vip": True}}
    assert words.call(made) == 'find_employee(name="Ana \\"AS\\" Souza", floor=3, vip=true)'
    wanted = {"name": "search_web", "arguments": {"query": ["a", "b"], "recency": ["day", ""]}}
    assert words.accepted_call(wanted) == 'search_web(query="a" | "b", [recency="day"])'


def test_an_interval_below_zero_has_minus_signs() -> None:
    assert words.interval("call_accuracy", -0.0801, -0.0001) == "−8.0 to 0.0"


def test_a_long_answer_is_cut_with_an_ellipsis() -> None:
    assert words.shortened("word " * 100).endswith("…") and len(words.shortened("word " * 100)) <= words.TEXT_LIMIT
    assert words.shortened("two\n lines") == "two lines"


def test_rare_combinations_share_a_row_and_their_mistakes_stay_visible() -> None:
    confusion = {
        "a": {"a": 90, "a + b": 1},
        "a + b": {"a + b": 2, "b + c": 1, "a": 1},
        "b + c": {"b + c": 1},
        "no call": {"no call": 10, "zeta": 2},
    }
    assert folded_confusion(confusion) == {
        "a": {"a": 90, "several tools": 1},
        "no call": {"no call": 10, "zeta": 2},
        "several tools": {"several tools": 3, "several, wrong ones": 1, "a": 1},
    }


def test_a_frequent_combination_has_its_own_row() -> None:
    assert folded_confusion({"a": {"a": 9}, "a + b": {"a + b": 8, "a": 1}}) == {"a": {"a": 9}, "a + b": {"a + b": 8, "a": 1}}


def test_of_many_tools_the_rare_ones_share_a_row() -> None:
    confusion = {f"t{i:02d}": {f"t{i:02d}": 100 - i} for i in range(40)}
    confusion["t39"]["t38"] = 2
    folded = folded_confusion(confusion)
    assert len(folded) == 13 and folded["other tools"]["others, wrong ones"] == 2
    assert sum(sum(row.values()) for row in folded.values()) == sum(sum(row.values()) for row in confusion.values())


def test_of_many_invented_tools_the_rare_ones_share_a_column() -> None:
    invented = {f"x{i:02d}": 40 - i for i in range(40)}
    folded = folded_confusion({"a": {"a": 9, **invented}})
    assert list(folded["a"]) == ["a", *list(invented)[:12], "other tools"]
    assert folded["a"]["other tools"] == sum(list(invented.values())[12:])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0002, "0.0002"), (0.99957, "0.9996"), (1234.0, "1,234"), (246.81, "246.8"), ("hf", "hf"), (0, "0")],
)
def test_numbers_are_written_for_readers(value: Any, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(3.21, "3.2 s"), (65, "1 min 05 s"), (3725, "1 h 02 min"), (None, "–")])
def test_durations_are_written_for_readers(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"), [(0.1, 0.9, "+80.0"), (0.5, 0.4, "−10.0"), (0.5, 0.49996, "0.0"), (None, 1.0, "–")]
)
def test_differences_have_a_sign_unless_nothing_changed(before: float | None, after: float, shown: str) -> None:
    assert words.difference("tool_accuracy", before, after) == shown
