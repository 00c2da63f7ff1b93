"""Evaluation of real exported models: what it writes holds together, and the gate believes it."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jinja2 import TemplateError

from calltune import grammar, models, runtime, stats
from calltune.errors import ConfigError, DataError
from calltune.records import expected_calls, question_sha256, read_jsonl, turns_sha256, write_jsonl
from components.evaluate import engines, served
from components.evaluate.config import EvaluateConfig
from components.evaluate.engines import hf
from components.evaluate.questions import fingerprint as fingerprint_of
from components.evaluate.questions import require_rules, seen_in_training
from components.evaluate.served import exported as served_export
from components.evaluate.step import evaluate, run
from components.gate.config import GateConfig
from components.gate.evidence import examine
from components.gate.predictions import check_predictions
from components.gate.step import gate

NEW_TOKENS = 24
CODE = "code-1"
WAYS = ["rephrased", "shuffled_tools", "distractor"]


TEXT = Path(__file__).parents[3] / "LICENSE"
"""A text that no training has seen: beside the questions each model's loss on it is measured."""


def settings(tiny, **changes):
    return {"model": tiny.model_dump(), "max_new_tokens": NEW_TOKENS, "general": {"text": str(TEXT)}, **changes}


@pytest.fixture(scope="module")
def measured(exported, dataset, tiny, tmp_path_factory):
    """Base, candidate, champion and an absent champion, each evaluated once: name → (metrics, folder)."""
    place = tmp_path_factory.mktemp("measured")
    full = exported("full")
    champion = json.dumps({**json.loads(exported("lora").json.read_text()), "version": "4"})
    sources = {
        "base": ("base", ""),
        "candidate": ("candidate", full.json),
        "champion": ("champion", champion),
        "absent": ("champion", ""),
        "again": ("candidate", full.json),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_STORAGE", str(place / "store"))
        patch.setenv("CALLTUNE_EVENTS", str(place / "events.jsonl"))
        patch.setenv("CALLTUNE_CACHE", str(place / "cache"))
        found = {}
        for name, (which, source) in sources.items():
            out = place / name
            config = settings(tiny, robustness=WAYS if name == "again" else [])
            result = run(which, source, dataset, config, CODE, out / "metrics.json", out / "predictions.jsonl")
            assert json.loads((out / "metrics.json").read_text()) == result
            found[name] = (result, out)
    return found


@pytest.mark.parametrize("name", ["base", "candidate", "champion", "again"])
def test_the_gate_believes_what_evaluate_writes(measured, name):
    result, folder = measured[name]
    evidence = examine(result)
    check_predictions(evidence, folder / "predictions.jsonl")
    assert evidence.n == 20


def test_the_gate_judges_the_three_against_each_other(measured):
    (candidate, folder), (base, _), (champion, _) = (measured[name] for name in ("candidate", "base", "champion"))
    config = GateConfig(
        min_questions=20,
        thresholds={"tool_accuracy": 0.001},
        over_baseline={"tool_accuracy": 0.0},
        against_champion={"tool_accuracy": {"test": "point", "margin": -1.0}},
    )
    decision = gate(candidate, base, champion, config, folder / "predictions.jsonl")
    assert {check.name for check in decision.checks if not check.passed} <= {"threshold: tool_accuracy"}
    assert decision.champion == {"version": "4", "digest": champion["model_digest"]}
    first = gate(candidate, base, measured["absent"][0], config, folder / "predictions.jsonl")
    assert first.champion == {"version": None, "digest": None}


def test_the_gate_judges_what_was_measured_beside_the_questions(measured):
    (candidate, folder), (base, _), (champion, _) = (measured[name] for name in ("candidate", "base", "champion"))
    before, after = (found["suites"]["general.text_loss"] for found in (base, candidate))
    assert before["items"].keys() == after["items"].keys() and before["sha256"] == after["sha256"]
    loss = after["value"] - before["value"]
    assert loss != 0, "the tuned model is another one"
    for allowed, passes in ((max(0.0, loss + 0.01), True), (max(0.0, loss - 0.01), loss <= 0)):
        config = GateConfig(min_questions=20, thresholds={"tool_accuracy": 0.001}, regression={"general.text_loss": allowed})
        decision = gate(candidate, base, champion, config, folder / "predictions.jsonl")
        (check,) = (check for check in decision.checks if check.name == "regression: general.text_loss")
        assert check.passed == passes, check.reason
        assert check.observed == pytest.approx(loss)


def test_a_limit_on_what_may_be_lost_is_no_condition_by_itself(measured):
    (candidate, folder), (base, _) = measured["candidate"], measured["base"]
    decision = gate(candidate, base, None, GateConfig(regression={"general.text_loss": 9}), folder / "predictions.jsonl")
    assert [check.name for check in decision.checks if not check.passed] == [
        "questions",
        "conditions",
        "items in general.text_loss",
    ]
    asked = GateConfig(min_questions=1, suites={"general.knowledge.acc": 0.5})
    decision = gate(candidate, base, None, asked, folder / "predictions.jsonl")
    failed = [check.name for check in decision.checks if not check.passed]
    assert failed == ["items in general.knowledge.acc", "suite: general.knowledge.acc"]


def test_results_that_cannot_be_believed_are_not_judged_by_their_suites(measured):
    (candidate, folder), (base, _) = measured["candidate"], measured["base"]
    config = GateConfig(min_questions=1, thresholds={"tool_accuracy": 0.001}, regression={"general.text_loss": 9})
    spoilt = {**base, "n": 7}
    decision = gate(candidate, spoilt, None, config, folder / "predictions.jsonl")
    failed = {check.name for check in decision.checks if not check.passed}
    assert {"base: results", "base: suites", "regression: general.text_loss"} <= failed
    decision = gate(candidate, None, None, config, folder / "predictions.jsonl")
    assert "regression: general.text_loss" in {check.name for check in decision.checks if not check.passed}


def test_predictions_say_everything_about_every_question_in_order(measured, questions):
    _, folder = measured["candidate"]
    rows = list(read_jsonl(folder / "predictions.jsonl"))
    assert [row["id"] for row in rows] == [record["id"] for record in questions]
    fields = ["id", "expected", "question", "text", "calls", "verdict", "reason", "stop", "prompt_tokens", "new_tokens"]
    assert all(list(row) == fields for row in rows)
    assert all(row["question"] == record["messages"][0]["content"] for row, record in zip(rows, questions, strict=True))
    assert all((row["stop"] == "length") == (row["new_tokens"] == NEW_TOKENS) or row["stop"] == "stop" for row in rows)


def test_metrics_follow_from_the_predictions(measured):
    result, folder = measured["candidate"]
    rows = list(read_jsonl(folder / "predictions.jsonl"))
    same = [Counter(c["name"] for c in row["calls"]) == Counter(c["name"] for c in row["expected"]) for row in rows]
    right = sum(ok and row["verdict"] not in ("malformed", "unwanted_call") for ok, row in zip(same, rows, strict=True))
    assert result["metrics"]["tool_accuracy"]["value"] == pytest.approx(right / 20)
    assert result["metrics"]["max_length_stop_rate"]["value"] == pytest.approx(sum(r["stop"] == "length" for r in rows) / 20)
    assert result["metrics"]["prompt_tokens_mean"]["value"] == pytest.approx(sum(r["prompt_tokens"] for r in rows) / 20)
    assert result["verdicts"] == {row["id"]: row["verdict"] for row in rows}


def test_answers_are_those_of_plain_transformers_in_a_process_of_its_own(measured, plain_answers):
    _, folder = measured["candidate"]
    rows = list(read_jsonl(folder / "predictions.jsonl"))
    assert [row["text"] for row in rows] == [answer["text"].removesuffix("<|im_end|>") for answer in plain_answers]


def test_each_model_is_named_by_its_digest_and_asked_the_same(measured, exported, questions):
    base, candidate, champion = (measured[name][0] for name in ("base", "candidate", "champion"))
    assert candidate["model_digest"] == exported("full").result.digest
    assert champion["model_digest"] == exported("lora").result.digest and champion["version"] == "4"
    assert len({result["model_digest"] for result in (base, candidate, champion)}) == 3
    for key in ("test_fingerprint", "settings", "template_sha256"):
        assert base[key] == candidate[key] == champion[key]
    assert base["test_fingerprint"] == fingerprint_of(questions)
    assert [result["which"] for result in (base, candidate, champion)] == ["base", "candidate", "champion"]


def test_questions_asked_again_are_metrics_of_their_own_and_change_nothing_else(measured, questions):
    again, folder = measured["again"]
    rows = list(read_jsonl(folder / "predictions.jsonl"))
    before, one = {**measured["candidate"][0]}, {**again}
    for way in WAYS:
        metric = f"tool_accuracy_{way}"
        for row in rows:
            wanted, said = Counter(c["name"] for c in row["expected"]), row["robustness"][way]
            if said["verdict"] != "malformed":  # which may be right or wrong by its tools
                assert one["outcomes"][metric][row["id"]] == int(Counter(c["name"] for c in said["calls"]) == wanted)
        assert one["metrics"][metric] == stats.wilson(sum(one["outcomes"][metric].values()), 20).as_dict()
        assert all((row["question"] != row["robustness"][way]["question"]) == (way == "rephrased") for row in rows)
    tokens = {way: [row["robustness"][way]["prompt_tokens"] - row["prompt_tokens"] for row in rows] for way in WAYS}
    assert min(tokens["distractor"]) > 20 and len(set(tokens["distractor"])) == 1
    assert one["settings"]["robustness"] == WAYS and before["settings"]["robustness"] == []
    assert {name: one["metrics"][name] for name in before["metrics"]} == before["metrics"]
    assert [{**row, "robustness": None} for row in rows] == [
        {**row, "robustness": None} for row in read_jsonl(measured["candidate"][1] / "predictions.jsonl")
    ]


def test_numbers_by_tool_and_argument_are_of_the_expected_ones(measured, questions):
    result = measured["candidate"][0]
    expected = {call["name"] for record in questions for call in expected_calls(record)}
    assert result["tools"].keys() == expected
    asked = Counter(name for record in questions for name in {call["name"] for call in expected_calls(record)})
    assert {tool: parts["recall"]["n"] for tool, parts in result["tools"].items()} == asked
    assert all(key.split(".")[0] in expected for key in result["arguments"])


def test_an_exported_model_says_what_it_was_trained_on(measured, exported, dataset, small_records, questions):
    assert [measured[name][0]["seen_in_training"] for name in ("base", "candidate", "champion")] == [None, [], []]
    ids = set(pq.read_table(dataset / "train.parquet")["id"].to_pylist())
    learnt = {question_sha256(record) for record in read_jsonl(small_records / "records.jsonl") if record["id"] in ids}
    assert json.loads((exported("full").folder / "trained_on.json").read_text()) == sorted(learnt)
    assert not learnt & {question_sha256(record) for record in questions}


def test_test_questions_that_the_model_was_trained_on_are_named(exported, dataset, tmp_path, small_records):
    ids = pq.read_table(dataset / "train.parquet")["id"].to_pylist()[:2]
    learnt = [record for record in read_jsonl(small_records / "records.jsonl") if record["id"] in ids]
    asked = learnt[0]["messages"][-2]
    asked["content"] = f"  {asked['content'].upper()}"
    write_jsonl(tmp_path / "test.jsonl", [*read_jsonl(dataset / "test.jsonl"), *learnt])
    served = served_export(json.loads(exported("full").json.read_text()), "candidate")
    result = evaluate(
        served, tmp_path / "test.jsonl", EvaluateConfig(max_new_tokens=1), tmp_path / "m.json", tmp_path / "p.jsonl"
    )
    assert result["seen_in_training"] == [record["id"] for record in learnt]


def test_a_question_of_a_later_turn_was_seen_too_and_a_word_of_thanks_was_not(tmp_path):
    def asking(*turns):
        return {"id": turns[-1], "messages": [{"role": "user", "content": turn} for turn in turns]}

    asked = "What is the reimbursement limit for travel meals?"
    learnt = asking("Who leads the travel desk in Leeds?", asked, "Thanks.")
    test = [asking(asked), asking("Hello", f" {asked.upper()}"), asking("Who is Ana?", "Thanks."), asking("Thanks.")]
    listed = [question_sha256(learnt), *(f"turn:{turn}" for turn in turns_sha256(learnt))]
    runtime.write_json(tmp_path / models.TRAINED_ON, listed)
    assert seen_in_training(tmp_path, test, "candidate") == [asked, f" {asked.upper()}"]
    assert seen_in_training(tmp_path, test, "champion") == [], "no split keeps out of the test what a later turn asked"
    # A turn that many conversations have counts where it is all that is asked.
    runtime.write_json(tmp_path / models.TRAINED_ON, [f"phrase:{turn}" for turn in turns_sha256(learnt)])
    assert seen_in_training(tmp_path, test, "candidate") == [asked]
    # A whole question counts for both.
    runtime.write_json(tmp_path / models.TRAINED_ON, ["cc284d564217364e"])
    assert seen_in_training(tmp_path, test, "candidate") == [asked, f" {asked.upper()}"]
    assert seen_in_training(tmp_path, test, "champion") == [asked]


def test_a_step_that_is_started_again_goes_on_where_it_was(measured, exported, dataset, tiny, tmp_path, monkeypatch):
    asked, whole = [], hf.answers

    def cut_off(model, prompts, *others):
        asked.append(len(prompts))
        for count, answer in enumerate(whole(model, prompts, *others)):
            if asked == [20] and count == 7:
                raise MemoryError("killed here")
            yield answer

    monkeypatch.setattr(hf, "answers", cut_off)
    out = tmp_path / "out"

    def run_it():
        results = (out / "metrics.json", out / "predictions.jsonl")
        return run("candidate", exported("full").json, dataset, settings(tiny), CODE, *results)

    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "one machine"))
    with pytest.raises(MemoryError):
        run_it()
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "another machine"))
    again = run_it()
    assert asked == [20, 13]
    assert "7 answers were written before; goes on from there" in (tmp_path / "events.jsonl").read_text()
    before, folder = measured["candidate"]
    assert (out / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()
    assert {**again, "seconds": 0} == {**before, "seconds": 0}
    assert not list((tmp_path / "store").rglob("answers/*"))


@pytest.mark.parametrize("which", ["candidate", "champion"])
def test_a_template_that_does_not_take_a_question_is_an_error_and_of_a_champion_what_the_gate_refuses_it_for(
    which, exported, dataset, tiny, tmp_path, monkeypatch
):
    def refuses(*_):
        raise TemplateError("System role not supported")

    monkeypatch.setattr(served, "prompt_ids", refuses)
    model, results = exported("full").json, (tmp_path / "metrics.json", tmp_path / "predictions.jsonl")
    id_ = next(read_jsonl(dataset / "test.jsonl"))["id"]
    says = f"question {id_}: the {which}'s chat template does not take it: System role not supported"
    if which == "candidate":
        with pytest.raises(DataError, match=f"^{says}$"):
            run(which, model, dataset, settings(tiny), CODE, *results)
        assert not results[0].exists()
        return
    told = json.loads(model.read_text())
    result = run(which, json.dumps({**told, "version": "4"}), dataset, settings(tiny), CODE, *results)
    assert result == {"present": True, "which": which, "version": "4", "model_digest": told["digest"], "error": says}
    assert json.loads(results[0].read_text()) == result and results[1].read_text() == ""


def test_a_champion_whose_calls_have_no_grammar_is_refused_by_the_gate(exported, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(grammar, "EDGES", {})
    results, told = (tmp_path / "metrics.json", tmp_path / "predictions.jsonl"), json.loads(exported("full").json.read_text())
    held = {**settings(tiny), "decoding": "tools"}
    result = run("champion", json.dumps({**told, "version": "4"}), dataset, held, CODE, *results)
    assert result["error"].startswith("evaluate.decoding: tools: the call syntax hermes has no grammar")
    assert result == {
        "present": True,
        "which": "champion",
        "version": "4",
        "model_digest": told["digest"],
        "error": result["error"],
    }


def test_no_champion_is_said_and_not_an_error(measured):
    result, folder = measured["absent"]
    assert result == {"present": False, "which": "champion"}
    assert (folder / "predictions.jsonl").read_text() == ""


def test_what_was_measured_once_is_not_measured_again(measured, exported, dataset, tiny, tmp_path, monkeypatch):
    _, before = measured["candidate"]
    monkeypatch.setenv("CALLTUNE_STORAGE", str(before.parent / "store"))
    told = json.dumps({**json.loads(exported("full").json.read_text()), "version": "7"})
    out = tmp_path / "out"
    again = run("champion", told, dataset, settings(tiny), CODE, out / "metrics.json", out / "predictions.jsonl")
    assert "measured before on the same questions" in (tmp_path / "events.jsonl").read_text()
    assert (again["which"], again["version"]) == ("champion", "7")
    assert (out / "predictions.jsonl").read_bytes() == (before / "predictions.jsonl").read_bytes()
    check_predictions(examine(again), out / "predictions.jsonl")


def test_rows_that_stand_elsewhere_in_the_data_now_are_the_same_questions(
    measured, exported, dataset, tiny, tmp_path, monkeypatch
):
    _, before = measured["candidate"]
    monkeypatch.setenv("CALLTUNE_STORAGE", str(before.parent / "store"))
    monkeypatch.setattr(hf, "answers", None)
    moved = [
        {**row, "source": {**row["source"], "uri": "s3://new/rows.jsonl", "row": row["source"]["row"] + 5}}
        for row in read_jsonl(dataset / "test.jsonl")
    ]
    write_jsonl(tmp_path / "data" / "test.jsonl", moved)
    results = (tmp_path / "metrics.json", tmp_path / "predictions.jsonl")
    run("candidate", exported("full").json, tmp_path / "data", settings(tiny), CODE, *results)
    assert "measured before on the same questions" in (tmp_path / "events.jsonl").read_text()


def test_one_more_suite_does_not_ask_the_questions_again(measured, exported, dataset, tiny, tmp_path, monkeypatch):
    _, before = measured["candidate"]
    monkeypatch.setenv("CALLTUNE_STORAGE", str(before.parent / "store"))
    monkeypatch.setattr(hf, "answers", None)
    (tmp_path / "other.txt").write_text("Another text, of some words.")
    config = {**settings(tiny), "general": {"text": str(tmp_path / "other.txt")}}
    again = run(
        "candidate", exported("full").json, dataset, config, CODE, tmp_path / "metrics.json", tmp_path / "predictions.jsonl"
    )
    assert list(again["suites"]) == ["general.text_loss"] and again["suites"]["general.text_loss"]["n"] == 1
    assert list(again["settings"]["general"]["text"]) and examine(again)


def test_whether_training_saw_a_question_is_asked_anew_for_the_champion(measured, exported, dataset, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_STORAGE", str(measured["candidate"][1].parent / "store"))
    monkeypatch.setattr("components.evaluate.step.seen_in_training", lambda folder, records, which: [which, len(records)])
    told = json.dumps({**json.loads(exported("full").json.read_text()), "version": "7"})
    again = run("champion", told, dataset, settings(tiny), CODE, tmp_path / "metrics.json", tmp_path / "predictions.jsonl")
    assert again["seen_in_training"] == ["champion", 20]


@pytest.mark.parametrize("changed", ["code", "settings", "questions", "device"])
def test_another_code_setting_question_or_device_is_measured_anew(
    measured, exported, dataset, tiny, tmp_path, monkeypatch, changed
):
    _, before = measured["candidate"]
    monkeypatch.setenv("CALLTUNE_STORAGE", str(before.parent / "store"))
    test = list(read_jsonl(dataset / "test.jsonl"))
    write_jsonl(tmp_path / "data" / "test.jsonl", test[:3] if changed == "questions" else test)
    (tmp_path / "data" / "stats.json").write_text((dataset / "stats.json").read_text())
    config = settings(tiny, max_new_tokens=2 if changed == "settings" else NEW_TOKENS)
    code = "code-2" if changed == "code" else CODE
    device = "cuda" if changed == "device" else "cpu"
    monkeypatch.setattr(engines, "device", lambda: device)
    out = tmp_path / "out"
    again = run(
        "candidate", exported("full").json, tmp_path / "data", config, code, out / "metrics.json", out / "predictions.jsonl"
    )
    assert "measured before" not in (tmp_path / "events.jsonl").read_text()
    assert json.loads(examine(again).settings)["device"] == device


@pytest.mark.parametrize("lost", [False, True])
def test_tampered_or_lost_stored_results_are_not_reused(lost, measured, exported, dataset, tiny, tmp_path, monkeypatch):
    import shutil

    _, before = measured["candidate"]
    shutil.copytree(before.parent / "store", tmp_path / "store", dirs_exist_ok=True)
    for file in (tmp_path / "store" / "evaluations").rglob("predictions.jsonl"):
        file.write_text("{}\n")
        if lost:
            file.unlink()
    out = tmp_path / "out"
    again = run(
        "candidate", exported("full").json, dataset, settings(tiny), CODE, out / "metrics.json", out / "predictions.jsonl"
    )
    check_predictions(examine(again), out / "predictions.jsonl")


def test_no_questions_are_a_data_error(exported, tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [])
    served = served_export(json.loads(exported("full").json.read_text()), "candidate")
    with pytest.raises(DataError, match=r"test.jsonl: no questions to evaluate with"):
        evaluate(served, tmp_path / "test.jsonl", EvaluateConfig(), tmp_path / "m.json", tmp_path / "p.jsonl")


def test_match_rules_are_held_against_the_tools_of_all_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))

    def question(*arguments):
        parameters = {"type": "object", "properties": {key: {} for key in arguments}}
        return {"tools": [{"type": "function", "function": {"name": "web.search", "parameters": parameters}}]}

    records = [question("query", "limit"), question("query")]
    require_rules({"web.search.limit": "any", "web.search.query": "ast"}, records)
    assert not (tmp_path / "events.jsonl").exists()
    require_rules({"web.serch.query": "any"}, records)
    (said,) = read_jsonl(tmp_path / "events.jsonl")
    assert "'web.serch.query' names no tool of the test questions, and has no effect" in said["message"]
    with pytest.raises(ConfigError, match=r"'web\.search\.qeury' is no tool's argument; there is web\.search\.query"):
        require_rules({"web.search.qeury": "any"}, records)


def test_a_match_rule_for_an_argument_that_does_not_exist_is_refused_before_generating(exported, dataset, tmp_path):
    served = served_export(json.loads(exported("full").json.read_text()), "candidate")
    rules = {"search_web.qeury": "any"}
    with pytest.raises(ConfigError, match=r"'search_web\.qeury' is no tool's argument"):
        evaluate(served, dataset / "test.jsonl", EvaluateConfig(arguments=rules), tmp_path / "m.json", tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()
