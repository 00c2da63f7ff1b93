"""Our prompts beside those that vLLM 0.33.0 rendered from the same chat requests: `python -m benchmarks.vllm_prompts --freeze`
wrote them, by vLLM's own code, which is not needed here."""

import json

import pytest

from benchmarks.vllm_cases import CASES, KNOWN
from benchmarks.vllm_prompts import NAMES, difference, ours, request, tokenizer_with
from calltune import tools
from tests.conftest import REPO

FROZEN = {
    (one["template"], one["id"]): one["text"]
    for one in json.loads((REPO / "tests" / "golden" / "vllm_prompts.json").read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("template", NAMES)
def test_our_prompt_is_the_one_that_vllm_renders(template, cache):
    tokenizer = tokenizer_with(template)
    assert {id_ for name, id_ in FROZEN if name == template} == {case.id for case in CASES}
    for case in CASES:
        text, ids = ours(tokenizer, case.messages, [tools.normalise(one, case.id) for one in case.tools])
        same = text == FROZEN[template, case.id]
        assert same != (case.id in KNOWN), f"{case.id}: {difference(text, FROZEN[template, case.id])}"
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_request_is_as_openais_api_has_it():
    (case,) = (case for case in CASES if case.id == "two calls and their results")
    sent = request(case.messages, case.tools)
    assert sent["tools"] == case.tools
    _, called, first, second = sent["messages"]
    assert (
        [call["id"] for call in called["tool_calls"]] == [first["tool_call_id"], second["tool_call_id"]] == ["call_0", "call_1"]
    )
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"day": "Montag <früh>", "seats": 4, "quiet": True}
    assert "tool_calls" in case.messages[1] and "id" not in case.messages[1]["tool_calls"][0], "the record is as it was"
    assert "tools" not in request(case.messages[:1], [])
