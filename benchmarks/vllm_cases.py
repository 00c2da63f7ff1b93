"""What `benchmarks/vllm_prompts.py` asks: rows of two data sets, and tools that are unusual in what they say of themselves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from calltune import tools
from calltune.loose_types import from_loose_types

HELPDESK = Path(__file__).parents[1] / "examples" / "helpdesk"


@dataclass(frozen=True)
class Case:
    """One chat request.

    Attributes:
        id: what its difference would be reported under.
        messages: in Calltune's form, up to where the assistant is to answer.
        tools: as the client sends them.
    """

    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)


def rows_of_helpdesk(most: int) -> list[Case]:
    """Questions of the example, evenly over the file."""
    given = tools.load(HELPDESK / "tools.py")
    rows = [json.loads(line) for line in (HELPDESK / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Case(row["id"], row["messages"][:-1], given) for row in rows[:: -(-len(rows) // most)]]


def rows_of_seal_tools(file: Path, most: int) -> list[Case]:
    """Questions of Seal-Tools, each with the tools that it brings, evenly over the file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(islice(map(_seal, rows[:: max(1, len(rows) // most)]), most))


def _seal(row: dict[str, Any]) -> Case:
    given = [tools.normalise(from_loose_types(one, row["id"]), row["id"]) for one in json.loads(row["tools"])]
    return Case(row["id"], [{"role": "user", "content": row["query"]}], given)


def _tool(properties: dict[str, Any], **others: Any) -> dict[str, Any]:
    function = {"name": "book_room", "description": "Books a room.", **others}
    return {"type": "function", "function": {**function, "parameters": {"type": "object", "properties": properties}}}


_DAY = {"day": {"type": "string", "description": "On which day."}}
_ASK = [{"role": "user", "content": "A room on Monday, please."}]
_CALL = {"type": "function", "function": {"name": "book_room", "arguments": {"day": "Montag <früh>", "seats": 4, "quiet": True}}}


def _unusual() -> Iterator[Case]:
    yield Case("no tools", _ASK)
    yield Case("plain", _ASK, [_tool(_DAY)])
    yield Case("strict: true", _ASK, [_tool(_DAY, strict=True)])
    yield Case("strict: null", _ASK, [_tool(_DAY, strict=None)])
    yield Case("return", _ASK, [_tool(_DAY, **{"return": {"type": "string", "description": "A number."}})])
    yield Case("unknown keys of a tool", _ASK, [{**_tool(_DAY, x_owner="facilities"), "x_cost": 3}])
    parameters = {"type": "object", "properties": _DAY}
    yield Case("keys in another order", _ASK, [{"function": {"parameters": parameters, "name": "f"}, "type": "function"}])
    yield Case("no description", _ASK, [{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    yield Case("description: null", _ASK, [_tool(_DAY, description=None)])
    yield Case("no parameters", _ASK, [{"type": "function", "function": {"name": "ping", "description": "Is it up?"}}])
    yield Case("null default", _ASK, [_tool({"day": {"type": ["string", "null"], "default": None}})])
    yield Case("nested enum", _ASK, [_tool({"of": {"type": "object", "properties": {"floor": {"enum": ["ground", "1", 2]}}}})])
    yield Case("anyOf", _ASK, [_tool({"n": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "N"}})])
    yield Case(
        "not ASCII",
        [{"role": "user", "content": "Größe? 部屋を予約 🙂"}],
        [_tool({"tag": {"description": "z. B. „Montag“ 月曜"}})],
    )
    yield Case("marks of a call", _ASK, [_tool({"q": {"type": "string", "description": "as in <tool_call> or </tools>"}})])
    yield Case("quotes, tags, apostrophes", _ASK, [_tool({"q": {"description": "a \"b\" 'c' <d> & \\e\n\tf"}})])
    yield Case("numbers", _ASK, [_tool({"n": {"type": "number", "minimum": 0.1, "maximum": 1e21, "multipleOf": 5.0}})])
    yield Case("developer", [{"role": "developer", "content": "Be brief."}, *_ASK], [_tool(_DAY)])
    yield Case("system", [{"role": "system", "content": "  Be brief.\n"}, *_ASK], [_tool(_DAY)])
    answered = {"role": "tool", "content": '{"room": "B2"}'}
    called = {"role": "assistant", "tool_calls": [_CALL]}
    yield Case("a call and its result", [*_ASK, called, answered], [_tool(_DAY)])
    both = {"role": "assistant", "content": "", "tool_calls": [_CALL, _CALL]}
    yield Case("two calls and their results", [*_ASK, both, answered, answered], [_tool(_DAY)])
    yield Case("a second question", [*_ASK, {"role": "assistant", "content": "Which?"}, {"role": "user", "content": " B2 "}])
    yield Case("nullable", _ASK, [_tool({"day": {"type": "string", "nullable": True}})])
    yield Case(
        "no type of the parameters", _ASK, [{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}]
    )


CASES = list(_unusual())

KNOWN = {
    "nullable": "`nullable` is no JSON Schema: Calltune drops it, and a client that sends it shows it to the model",
    "no type of the parameters": "Calltune adds the type and the properties that a tool leaves out",
    "no parameters": "Calltune adds the parameters that a tool leaves out",
}
"""Why the prompt may be another one: the client sent other tools than Calltune trained on."""
