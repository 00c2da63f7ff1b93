from dataclasses import replace

import pytest

from calltune.render import Renderer
from calltune.template import TEMPLATES
from components.format.config import FormatConfig
from components.format.shaped import shaped
from components.format.shaping import with_shuffled_tools, without_early_turns, without_tools


def tool(name):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": {}}}


def said(role, content="x"):
    return {"role": role, "content": content}


def names(record):
    return [one["function"]["name"] for one in record["tools"]]


def test_a_turn_goes_with_all_that_belongs_to_it_and_the_system_message_stays():
    messages = [
        said("system"),
        said("user", "1"),
        said("assistant"),
        said("tool"),
        said("assistant"),
        said("user", "2"),
        said("assistant"),
    ]
    assert without_early_turns({"id": "a", "messages": messages}) == [{"id": "a", "messages": [messages[0], *messages[5:]]}]
    three = [*messages, said("user", "3")]
    assert [one["messages"] for one in without_early_turns({"messages": three})] == [[three[0], *three[5:]], [three[0], three[7]]]
    assert without_early_turns({"messages": messages[:3]}) == []


def test_rows_of_one_group_share_an_order_and_the_groups_differ():
    tools = [tool(name) for name in "abcdefgh"]
    rows = [{"id": number, "tools": tools} for number in range(12)] + [{"id": 12, "tools": tools[:3]}]
    shuffled = list(with_shuffled_tools(rows, 4, seed=0))
    orders = [names(row) for row in shuffled[:12]]
    assert all(len({tuple(order) for order in orders[start : start + 4]}) == 1 for start in (0, 4, 8))
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list("abcdefgh") for order in orders) and sorted(names(shuffled[12])) == ["a", "b", "c"]
    assert [row["id"] for row in shuffled] == list(range(13)) and names(rows[0]) == list("abcdefgh")
    assert shuffled == list(with_shuffled_tools(rows, 4, seed=0)) != list(with_shuffled_tools(rows, 4, seed=1))


def test_hidden_tools_are_not_shown():
    assert names(without_tools({"tools": [tool("a"), tool("b")]}, {"a"})) == ["b"]


def test_a_conversation_that_is_far_too_long_is_not_rendered_turn_by_turn_to_see_that(tokenizer, monkeypatch):
    whole, counted = Renderer.rows_and_prefix, Renderer.length
    rendered, measured = [], []
    monkeypatch.setattr(Renderer, "rows_and_prefix", lambda self, one: rendered.append(len(one["messages"])) or whole(self, one))
    monkeypatch.setattr(Renderer, "length", lambda self, one: measured.append(len(one["messages"])) or counted(self, one))
    turns = [said(role, f"{number} " + "word " * 40) for number in range(60) for role in ("user", "assistant")]
    record = {"messages": turns, "tools": []}
    renderer = Renderer(tokenizer, TEMPLATES["hermes"])
    for too_long, shown in (("quarantine", None), ("drop_turns", 8)):
        found = shaped(record, renderer, FormatConfig(max_tokens=400, too_long=too_long))
        assert (len(found.shown["messages"]) if found.shown else None) == shown
        assert (found.refused is None) == (shown is not None)
    assert max(rendered) < 20, "letters enough for 400 tokens of eight each"
    assert len(rendered) + len(measured) < 12, "of sixty turns by halves"


@pytest.mark.parametrize(
    ("description", "value", "inside"),
    [
        ("Open <filename>.", "x", "<filename>"),
        ("Open.", "a <repo_name> <|im_end|>", "<repo_name>"),
        # These begin as the template's own do, which it writes otherwise.
        ("Open <|im_end|>.", "<|im_start|> <tool_call>", None),
    ],
)
def test_a_control_token_in_a_tool_or_a_call_is_refused_unless_the_template_writes_it_otherwise(
    tokenizer, description, value, inside
):
    parameters = {"type": "object", "properties": {"name": {"type": "string"}}}
    call = {"type": "function", "function": {"name": "open", "arguments": {"name": value}}}
    record = {
        "messages": [said("user"), {"role": "assistant", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": {"name": "open", "description": description, "parameters": parameters}}],
    }
    found = shaped(record, Renderer(tokenizer, TEMPLATES["hermes"]), FormatConfig())
    says = f"a tool or a call contains {inside!r}, which the model reads as a control token"
    assert found.refused == (inside and ("special_token", says))


def test_a_control_token_with_a_quote_in_it_is_found_in_a_tool(tokenizer):
    tokenizer.add_tokens(['<|"|>'], special_tokens=True)
    hermes = TEMPLATES["hermes"]
    raw = replace(hermes, text="{{ tools[0].function.description if tools }}" + hermes.text)
    found = {}
    for description in ('Open <|"|>.', 'Open "it".'):
        tools = [{"type": "function", "function": {**tool("open")["function"], "description": description}}]
        record = {"messages": [said("user"), said("assistant")], "tools": tools}
        found[description] = shaped(record, Renderer(tokenizer, raw), FormatConfig()).refused
    says = "a tool or a call contains '<|\"|>', which the model reads as a control token"
    assert [*found.values()] == [("special_token", says), None]
