"""Answers held to the tools' schemas, from real models: valid whatever the model wants, and untouched where they are text."""

import json

import pytest
from transformers import AddedToken

from calltune import models, tools
from calltune.errors import ConfigError
from calltune.grammar import grammar
from calltune.guard import check_all
from calltune.parse import PARSERS
from calltune.records import prompt_of
from calltune.render import Renderer, answer_text, prompt_ids, template_of
from components.evaluate.config import EvaluateConfig
from components.evaluate.engines import hf
from components.evaluate.engines.constraint import Constraint, special_marks
from components.evaluate.served import Unaskable, of_folder
from components.evaluate.served import exported as served_export
from components.evaluate.step import evaluate
from tests.conftest import HELPDESK

BEGUN = '<tool_call>\n{"name": "'


def is_valid(text, given):
    parsed = PARSERS["hermes"](text)
    return parsed.malformed is None and all(one.accepted for one in check_all(parsed.calls, given))


@pytest.mark.slow
def test_an_untrained_model_writes_only_text_and_valid_calls(base_folder, helpdesk_records):
    tokenizer, given = models.tokenizer(base_folder), tools.load(HELPDESK / "tools.py")
    renderer = Renderer(tokenizer, template_of("hermes"))
    asked = [prompt_ids(tokenizer, prompt_of(record), given) for record in helpdesk_records[:6]]
    begun = tokenizer(BEGUN, add_special_tokens=False)["input_ids"]
    network = hf.load(base_folder)

    def said(prompts, held, limit):
        answers = sorted(hf.answers(network, prompts, renderer.stop_ids, limit, held), key=lambda answer: answer.row)
        return [(answer_text(tokenizer, answer.ids, renderer.stop_ids), answer.stopped) for answer in answers]

    held = Constraint(tokenizer, [grammar("hermes", given, renderer.stop_ids)] * len(asked))
    free, bound = said(asked, None, 24), said(asked, held, 24)
    assert all(is_valid(text, given) for text, stopped in bound if stopped or "<tool_call>" not in text)
    as_they_were = [one == other for one, other in zip(free, bound, strict=True) if "tool_call>" not in one[0]]
    assert as_they_were and all(as_they_were), "an answer that is text is not touched"
    # It calls nothing by itself: begun for it, a call is one of a tool that there is, with its arguments.
    free = said([ids + begun for ids in asked], None, 80)
    held = Constraint(tokenizer, [grammar("hermes", given, renderer.stop_ids)] * len(asked))
    for token in begun:
        held.wrote(range(len(asked)), [token] * len(asked))
    called = [BEGUN + text for text, stopped in said([ids + begun for ids in asked], held, 80) if "</tool_call>" in text]
    assert len(called) >= 3
    assert all(is_valid(text[: text.rindex("</tool_call>") + len("</tool_call>")], given) for text in called)
    assert not all(stopped and is_valid(BEGUN + text, given) for text, stopped in free), "else this shows nothing"


def test_with_the_setting_what_ends_by_itself_is_never_malformed(exported, dataset, tmp_path):
    served = served_export(json.loads(exported("full").json.read_text()), "candidate")
    config = EvaluateConfig(max_new_tokens=64, decoding="tools")
    metrics = evaluate(served, dataset / "test.jsonl", config, tmp_path / "m.json", tmp_path / "p.jsonl")
    assert metrics["settings"]["decoding"] == "tools"
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert [row["id"] for row in rows if row["stop"] == "stop" and row["verdict"] == "malformed"] == []


def test_a_padded_vocabulary_is_no_token(tokenizer):
    held = Constraint(tokenizer, [grammar("hermes", [], [2])] * 2)
    allowed = held.allowed([1, 0], len(tokenizer) + 100)
    assert allowed.shape == (2, len(tokenizer) + 100) and allowed[:, 2].all()
    assert not allowed[:, len(tokenizer) :].any() and not allowed[:, 1].any()


def test_a_token_that_was_not_allowed_is_not_passed_over(tokenizer):
    held = Constraint(tokenizer, [grammar("hermes", [], [2])])
    with pytest.raises(RuntimeError, match="token 1 of row 0"):
        held.wrote([0], [1])


def test_a_grammar_that_the_library_refuses_is_one_line(tokenizer):
    with pytest.raises(
        ConfigError, match=r"^evaluate\.decoding: tools: no grammar of the tools together \(.*\): set it to free$"
    ):
        Constraint(tokenizer, ["start: nothing"])


def test_the_marks_that_are_special_tokens_are_found(tokenizer):
    assert special_marks(tokenizer, "hermes") == {}
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    assert special_marks(tokenizer, "hermes") == {"<tool_call>": len(tokenizer) - 1}
    assert special_marks(tokenizer, "json") == {}


def test_a_model_whose_calls_have_no_grammar_is_refused_before_it_is_loaded(exported, dataset, tmp_path):
    served = of_folder(models.ModelFolder(exported("full").folder), {"which": "candidate"})
    other = type(served)(served.folder, served.tokenizer, "functiongemma", served.stop_ids, served.identity)
    with pytest.raises(Unaskable, match=r"^evaluate\.decoding: tools: the call syntax functiongemma has no grammar"):
        evaluate(other, dataset / "test.jsonl", EvaluateConfig(decoding="tools"), tmp_path / "m.json", tmp_path / "p.jsonl")
