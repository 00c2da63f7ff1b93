"""Evaluation with vLLM, against a stand-in: vLLM needs a GPU, and has not been run. What is asked of it, and how its answers
are read; its parameters are held against its sources by `benchmarks/vllm_prompts.py`."""

import random

import pytest

from calltune import models
from calltune.errors import ConfigError
from calltune.records import read_jsonl
from components.evaluate import engines, measuring, step
from components.evaluate.config import EvaluateConfig
from components.evaluate.engines import hf, vllm
from components.evaluate.served import of_folder
from components.evaluate.step import decided, run

LIMIT = 12


@pytest.fixture(scope="module")
def prompts():
    dice = random.Random(1)
    prefix = [dice.randrange(10, 40_000) for _ in range(60)]
    return [prefix + [dice.randrange(10, 40_000) for _ in range(length)] for length in range(1, 13)]


@pytest.fixture(scope="module")
def of_hf(tiny_model):
    return hf.load(tiny_model)


def by_row(answers):
    return sorted(answers, key=lambda answer: answer.row)


def test_answers_are_those_of_the_other_engine(tiny_model, of_hf, prompts, stand_in):
    model = vllm.load(tiny_model, max(map(len, prompts)) + LIMIT)
    free = by_row(hf.answers(of_hf, prompts, [], LIMIT))
    # Two tokens that some of these very answers hold, and some do not.
    held = {token: sum(token in answer.ids for answer in free) for answer in free for token in answer.ids}
    stops = sorted(token for token, count in held.items() if 0 < count < len(free) / 3)[:2]
    expected = by_row(hf.answers(of_hf, prompts, stops, LIMIT))
    came = list(vllm.answers(model, prompts, stops, LIMIT))
    assert by_row(came) == expected
    assert {answer.stopped for answer in came} == {True, False}
    assert [len(answer.ids) for answer in came] == sorted(len(answer.ids) for answer in came), "each comes when it has ended"
    assert by_row(vllm.answers(model, prompts, [], LIMIT)) == free, "asked once more, as another way of asking is"


def test_only_the_stop_tokens_end_an_answer_and_they_are_in_it(tiny_model, prompts, stand_in):
    model = vllm.load(tiny_model, 200)
    (free,) = vllm.answers(model, prompts[:1], [], LIMIT)
    assert len(free.ids) == LIMIT and not free.stopped
    model.tokenizer.eos_token_id = free.ids[3]
    assert list(vllm.answers(model, prompts[:1], [], LIMIT)) == [free], "the tokenizer's eos is not among them"
    (ended,) = vllm.answers(model, prompts[:1], [free.ids[3]], LIMIT)
    assert ended.stopped and ended.ids == free.ids[: free.ids.index(free.ids[3]) + 1]


def test_an_answer_is_handed_out_before_the_others_are_there(tiny_model, prompts, stand_in):
    model = vllm.load(tiny_model, 200)
    free = list(vllm.answers(model, prompts, [], LIMIT))
    first = next(vllm.answers(model, prompts, [free[4].ids[0]], LIMIT))
    assert first.stopped and len(model.llm_engine.waiting) > 0


def test_prefixes_are_cached_and_a_row_gets_the_room_that_it_needs(tiny_model, stand_in, monkeypatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    model = vllm.load(tiny_model, 321)
    assert (model.prefix_caching, model.max_model_len, model.backend) == (True, 321, "guidance")
    assert list(vllm.answers(model, [], [2], 5)) == []


def test_a_model_that_vllm_refuses_is_one_line(tiny_model, stand_in):
    with pytest.raises(
        ConfigError,
        match=r"^evaluate\.engine: vllm cannot load the model with room for 99999 tokens, .*: User-specified .*; hf may$",
    ):
        vllm.load(tiny_model, 99_999)


def test_a_request_that_vllm_gave_up_is_no_answer(tiny_model, prompts, stand_in):
    model = vllm.load(tiny_model, 200)
    written = model._written
    model._written = lambda *asked: stand_in.CompletionOutput(0, "", written(*asked).token_ids[:3], "abort", None)
    with pytest.raises(RuntimeError, match="vLLM gave up on question 0: abort"):
        list(vllm.answers(model, prompts[:1], [], LIMIT))


def test_without_vllm_auto_is_hf_and_vllm_is_refused(gpu):
    assert engines.chosen("auto") == ("hf", "vLLM is not installed")
    with pytest.raises(ConfigError, match=r"evaluate\.engine: vllm cannot run here: vLLM is not installed; auto or hf can"):
        engines.chosen("vllm")


def test_without_a_gpu_auto_is_hf_and_vllm_is_refused(stand_in):
    assert engines.chosen("auto") == ("hf", "vLLM is installed, but there is no GPU that torch can use")
    with pytest.raises(ConfigError, match="vllm cannot run here: vLLM is installed, but there is no GPU"):
        engines.chosen("vllm")


def test_with_both_auto_is_vllm_unless_hf_is_asked_for(stand_in, gpu):
    assert engines.chosen("auto") == ("vllm", "vLLM is installed, and there is a GPU")
    assert engines.chosen("vllm")[0] == "vllm" and engines.chosen("hf")[0] == "hf"


def test_what_auto_was_is_said(tmp_path):
    assert decided(EvaluateConfig(), "candidate").engine == "hf"
    (said,) = read_jsonl(tmp_path / "events.jsonl")
    assert said["message"] == "evaluate candidate: engine auto: hf, since vLLM is not installed"
    decided(EvaluateConfig(engine="hf"), "candidate")
    assert len(list(read_jsonl(tmp_path / "events.jsonl"))) == 1


def test_the_step_says_which_engine_it_was_and_keeps_its_results_apart(exported, dataset, tiny, tmp_path, monkeypatch, stand_in):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))

    def measured(name, engine):
        out = tmp_path / name
        settings = {"model": tiny.model_dump(), "max_new_tokens": LIMIT, "engine": engine}
        result = run("candidate", exported("full").json, dataset, settings, "code", out / "m.json", out / "p.jsonl")
        return result, (out / "p.jsonl").read_bytes()

    of_hf, said = measured("hf", "auto")
    assert of_hf["settings"]["engine"] == "hf" and not stand_in.MADE
    # As if there were a GPU: torch itself would believe it too, and hf would then go there.
    monkeypatch.setattr(engines, "lacking", lambda: "")
    of_vllm, same = measured("vllm", "auto")
    assert of_vllm["settings"] == {**of_hf["settings"], "engine": "vllm"} and len(stand_in.MADE) == 1
    assert same == said and of_vllm["verdicts"] == of_hf["verdicts"]
    assert measured("again", "vllm")[0] == of_vllm and len(stand_in.MADE) == 1, "measured before"


def test_suites_are_measured_before_vllm_takes_the_memory(exported, dataset, tmp_path, monkeypatch, stand_in):
    order, served = [], of_folder(models.ModelFolder(exported("full").folder), {"which": "candidate"})
    load = vllm.load
    monkeypatch.setattr(vllm, "load", lambda *asked: order.append("vllm") or load(*asked))
    monkeypatch.setattr(engines, "lacking", lambda: "")
    measured = measuring.measured
    monkeypatch.setattr(measuring, "measured", lambda *asked: order.append("suites") or measured(*asked))
    config = EvaluateConfig(engine="vllm", max_new_tokens=1, general={"text": __file__})
    found = step.evaluate(served, dataset / "test.jsonl", config, tmp_path / "m.json", tmp_path / "p.jsonl")
    assert order == ["suites", "vllm"] and found["suites"].keys() == {"general.text_loss"}
