"""The suite `instructions` where there is no judge: its file, the answers of a real model, and the words that they share."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from calltune import models, storage
from calltune.errors import DataError
from calltune.records import question_sha256
from components.evaluate import measuring, step
from components.evaluate import served as served_as
from components.evaluate.config import EvaluateConfig
from components.evaluate.served import Served
from components.evaluate.suites.instructions.questions import questions
from components.evaluate.suites.instructions.rouge import exact_match, rouge_l

BUNDLED = Path(__file__).parents[5] / "examples" / "instructions" / "rows.jsonl"
ALPACA = [
    {"instruction": "Edit for grammar.", "input": "He go home.", "output": "He goes home."},
    {"instruction": "Name a color.", "input": "", "output": "Blue"},
]
RECORDS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "4"},
        ]
    },
    {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "tools": [],
        "source": {"row": 1},
    },
]


def served(folder, which="candidate"):
    return Served(models.ModelFolder(folder), models.tokenizer(folder), "hermes", [2], {"which": which})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The file


def test_rows_of_alpaca_and_records_of_the_house_are_questions_with_an_answer(tmp_path):
    (tmp_path / "array.json").write_text("\ufeff" + json.dumps(ALPACA), encoding="utf-8")
    for file in (write(tmp_path / "lines.jsonl", ALPACA), tmp_path / "array.json"):
        first, second = questions(file)
        assert first == {
            "id": "1",
            "messages": [
                {"role": "user", "content": "Edit for grammar.\n\nHe go home."},
                {"role": "assistant", "content": "He goes home."},
            ],
            "tools": [],
        }
        assert second["messages"][-1]["content"] == "Blue"
    found = questions(write(tmp_path / "records.jsonl", RECORDS))
    assert [record["messages"] for record in found] == [row["messages"] for row in RECORDS]
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
    (shown,) = questions(write(tmp_path / "with-tools.jsonl", [{**RECORDS[0], "tools": [tool]}]))
    assert shown["tools"] == [], "what a row has for tools is not shown"


def test_equal_rows_are_one_question_and_the_first_so_many_are_taken(tmp_path):
    file = write(tmp_path / "rows.jsonl", [ALPACA[0], ALPACA[0], ALPACA[1]])
    assert [record["id"] for record in questions(file)] == ["1", "3"]
    assert [record["id"] for record in questions(file, limit=1)] == ["1"]


def test_the_bundled_instructions_can_be_read():
    assert len(questions(BUNDLED)) > 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no row in it"),
        ("[]", "no row in it"),
        ("{", r"line 1: not JSON: .*; JSON lines or a JSON array would be right"),
        ('{"instruction": "a", "output": "b"}\n\nx', r"line 3: not JSON"),
        ("[1", r"rows\.jsonl: not JSON"),
        ("[1]", "row 1: a row must be a JSON object"),
        ('{"a": 1}', "the rows have the fields of no known dialect"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a"}', r"row 2: output: must be a string, not nothing"),
        ('{"instruction": "a", "output": " "}', r"row 1: messages\[1\]: the assistant neither says nor calls anything"),
        ('{"instruction": "a", "output": "\\ud83d"}', r"row 1: half of a surrogate pair"),
        (json.dumps({"messages": [{"role": "user", "content": "Hi"}]}), "row 1: messages: the last turn must be the assistant's"),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                    ],
                    "tools": [
                        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
                    ],
                }
            ),
            "row 1: the reference answer must be a text, and calls a tool",
        ),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=message) as it:
        questions(tmp_path / "rows.jsonl")
    assert str(tmp_path / "rows.jsonl") in str(it.value) and "\n" not in str(it.value)


def test_a_file_of_bytes_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text in UTF-8"):
        questions(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        questions(tmp_path)


# The words


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # the example of Lin 2004, section 3.1, beta 1
        ("the gunman kill police", "police kill the gunman", 2 / 4),
        ("the cat sat on the mat", "the cat is on the mat", 5 / 6),
        ("a b c d e", "a c e", 2 * (3 / 5) * (3 / 3) / (3 / 5 + 3 / 3)),
        ("a", "a b c d", 2 * 1 * 0.25 / 1.25),
        ("The CAT, sat!", "the cat sat", 1.0),
        ("one two", "three four", 0.0),
        ("", "a", 0.0),
        ("a", "...", 0.0),
        ("🙂", "🙂", 1.0),
        ("🙂", "!", 0.0),
        ("Москва большая", "москва большой город", 2 / 5),
        ("北京很大", "北京大", 6 / 7),
    ],
)
def test_rouge_l_is_what_it_is_by_hand(answer, reference, expected):
    assert rouge_l(answer, reference) == pytest.approx(expected)


def test_rouge_l_is_that_of_googles_library_on_real_rows():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    dice = random.Random(0)
    rows = [json.loads(line) for line in BUNDLED.read_text().splitlines()]
    rows = [row for row in rows if row["output"].isascii() and "_" not in row["output"]]
    compared = 0
    for row in dice.sample(rows, 200):
        reference, words = row["output"], row["output"].split()
        others = [dice.choice(rows)["output"] for _ in range(3)]
        changed = [word for word in words if dice.random() < 0.7] + others[0].split()[: dice.randrange(5)]
        for answer in (row["instruction"], others[1], " ".join(changed), " ".join(dice.sample(words, len(words)))):
            assert rouge_l(answer, reference) == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure, abs=1e-12)
            compared += 1
    assert compared == 800


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Blue", "Blue", 1),
        (" blue\n", "Blue", 1),
        ("He  goes\nhome.", "he goes home.", 1),
        ("He goes home", "He goes home.", 0),
        ("3.5", "35", 0),
        ("", "Blue", 0),
    ],
)
def test_an_exact_match_looks_neither_at_case_nor_at_spacing(answer, reference, expected):
    assert exact_match(answer, reference) == expected


# The model


def test_a_model_is_asked_as_it_is_served_without_tools_and_its_answers_can_be_read(tiny_model, tmp_path, monkeypatch):
    asked = []
    prompt_ids = served_as.prompt_ids
    monkeypatch.setattr(served_as, "prompt_ids", lambda *given: asked.append(given[1:]) or prompt_ids(*given))
    file = write(tmp_path / "rows.jsonl", [*ALPACA, {"instruction": "Say one two three.", "input": "", "output": "x"}])
    config = EvaluateConfig(instructions={"questions": str(file), "max_new_tokens": 8})
    first = measuring.measured(served(tiny_model), config, beside=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "instructions.jsonl").read_text().splitlines()]
    assert measuring.rows_at(served(tiny_model), config, beside=tmp_path) == {
        "instructions": str(tmp_path / "instructions.jsonl")
    }
    assert asked[0] == ([{"role": "user", "content": "Edit for grammar.\n\nHe go home."}], [])
    assert list(first) == ["instructions.rouge_l", "instructions.exact_match"]

    import torch
    from transformers import AutoModelForCausalLM

    network, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), models.tokenizer(tiny_model)
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = network.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert row["answer"] == tokenizer.decode(ids).removesuffix("<|im_end|>").strip()
        assert row["rouge_l"] == rouge_l(row["answer"], row["reference"]) == first["instructions.rouge_l"]["items"][row["id"]]

    write(file, [{**row, "output": rows[number]["answer"]} for number, row in enumerate(ALPACA)])
    again = measuring.measured(served(tiny_model), config)
    assert again["instructions.rouge_l"]["value"] == again["instructions.exact_match"]["value"] == 1.0
    assert again["instructions.exact_match"]["sha256"] != first["instructions.exact_match"]["sha256"], (
        "other answers, other measure"
    )


def test_a_stop_token_ends_an_answer_and_is_not_in_it(tiny_model, tmp_path):
    config = EvaluateConfig(instructions={"questions": str(write(tmp_path / "rows.jsonl", ALPACA[:1])), "max_new_tokens": 4})
    model = served(tiny_model)
    measuring.measured(model, config, beside=tmp_path)
    whole = json.loads((tmp_path / "instructions.jsonl").read_text())
    ids = model.tokenizer(whole["answer"], add_special_tokens=False)["input_ids"]
    assert whole["stop"] == "length" and len(ids) > 1
    measuring.measured(replace(model, stop_ids=[ids[-1]]), config, beside=tmp_path)
    ended = json.loads((tmp_path / "instructions.jsonl").read_text())
    assert ended["stop"] == "stop"
    assert ended["answer"] == model.tokenizer.decode(ids[: ids.index(ids[-1])]).strip()


@pytest.mark.parametrize(("which", "refused"), [("candidate", True), ("base", False), ("champion", False)])
def test_a_candidate_that_was_trained_on_the_questions_is_refused_with_the_rows(tiny_model, tmp_path, which, refused):
    folder, file = tmp_path / "model", write(tmp_path / "rows.jsonl", ALPACA)
    folder.mkdir()
    for part in tiny_model.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / models.TRAINED_ON).write_text(json.dumps([question_sha256(questions(file)[1])]))
    said = f"evaluate.instructions: the {which} was trained on 1 of its questions, rows 2"
    config = EvaluateConfig(instructions={"questions": str(file), "max_new_tokens": 2})
    if refused:
        with pytest.raises(DataError, match=f"^{re.escape(said)}: take them out of the file"):
            measuring.measured(served(folder, which), config)
        return
    assert measuring.measured(served(folder, which), config)["instructions.rouge_l"]["n"] == 2
    assert said in (tmp_path / "events.jsonl").read_text(), "only harder to beat, and said"


def test_a_question_that_does_not_fit_the_model_is_named(tiny_model, tmp_path):
    long = {"instruction": "word " * 2040, "output": "x"}
    config = EvaluateConfig(instructions={"questions": str(write(tmp_path / "rows.jsonl", [ALPACA[0], long]))})
    with pytest.raises(
        DataError, match=r"questions, row 2: 20\d\d tokens and 256 for the answer are more than the model's 2048$"
    ):
        measuring.measured(served(tiny_model), config)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ 1 // (messages | length - 1) }}", "integer division or modulo by zero"),
    ],
)
def test_a_template_that_does_not_take_a_question_is_named(tiny_model, tmp_path, template, says):
    model = served(tiny_model)
    model.tokenizer.chat_template = template
    config = EvaluateConfig(instructions={"questions": str(write(tmp_path / "rows.jsonl", ALPACA))})
    with pytest.raises(DataError, match=f"row 1: the candidate's chat template does not take it: {says}"):
        measuring.measured(model, config)


def test_results_are_kept_by_the_files_content_and_each_models_rows_by_themselves(tiny_model, tmp_path):
    file = write(tmp_path / "rows.jsonl", ALPACA)
    config = EvaluateConfig(instructions={"questions": str(file), "max_new_tokens": 4})
    found = measuring.measured(served(tiny_model), config, "code")
    place = measuring.rows_at(served(tiny_model), config, "code")["instructions"]
    assert len(storage.of_run().get(place.removeprefix(f"{storage.of_run().uri}/")).splitlines()) == 2
    moved = EvaluateConfig(instructions={"questions": str(write(tmp_path / "moved.jsonl", ALPACA)), "max_new_tokens": 4})
    assert measuring.rows_at(served(tiny_model), moved, "code")["instructions"] == place
    write(file, ALPACA[:1])
    assert measuring.rows_at(served(tiny_model), config, "code")["instructions"] != place
    assert measuring.measured(served(tiny_model), config, "code")["instructions.rouge_l"]["n"] == 1
    assert measuring.measured(served(tiny_model), moved, "code") == found
    assert len(storage.of_run().list("evaluations/suites")) == 4
    assert measuring.rows_at(served(tiny_model), EvaluateConfig(), "code") == {}


def test_a_file_is_read_once_to_be_named_by_its_content(tiny_model, tmp_path, monkeypatch):
    config = EvaluateConfig(instructions={"questions": str(write(tmp_path / "rows.jsonl", ALPACA))})
    model, read, sha256 = served(tiny_model), [], models.file_sha256
    monkeypatch.setitem(measuring._SUITES, "instructions", lambda *_: {})
    monkeypatch.setattr(models, "file_sha256", lambda file: read.append(file.name) or sha256(file))
    found = step._beside(model, config, "code", tmp_path)
    assert found["settings"]["instructions"]["questions"] == sha256(tmp_path / "rows.jsonl") and found["rows"]
    assert read.count("rows.jsonl") == 1


def test_the_gate_can_ask_for_them_and_for_how_much_may_be_lost(tiny_model, tmp_path):
    from components.gate.config import GateConfig
    from components.gate.suites import checks

    file = write(tmp_path / "rows.jsonl", ALPACA)
    config = EvaluateConfig(instructions={"questions": str(file), "max_new_tokens": 8})
    measuring.measured(served(tiny_model), config, beside=tmp_path)
    answers = [json.loads(line)["answer"] for line in (tmp_path / "instructions.jsonl").read_text().splitlines()]
    write(file, [{**ALPACA[0], "output": answers[0]}, ALPACA[1]])
    found = {"suites": measuring.measured(served(tiny_model), config)}
    for least, passes in ((0.5, True), (0.6, False)):
        asked = GateConfig(suites={"instructions.exact_match": least}, regression={"instructions.rouge_l": 0.0})
        made = {check.name: check.passed for check in checks(found, found, asked)}
        assert made["suite: instructions.exact_match"] is passes
        assert made["regression: instructions.rouge_l"] and made["candidate: suites"]
    (unmeasured,) = (
        check for check in checks(found, found, GateConfig(suites={"instructions.win_rate": 0.1})) if not check.passed
    )
    assert unmeasured.reason == "cannot be judged: instructions.win_rate was not measured."
