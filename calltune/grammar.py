"""A grammar of the answers that a template's call syntax and the tools' JSON Schemas allow: text, and valid calls in it.

The grammars are in the Lark dialect of llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), which
evaluation with transformers masks logits by, and which vLLM takes as it is. Without the library they can be written, not checked.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from calltune.errors import ConfigError
from calltune.records import Tool

COMPOSED = ("$ref", "allOf", "anyOf", "oneOf", "unevaluatedProperties")
EDGES = {"hermes": ("<tool_call>", "</tool_call>", "\n", "\n"), "json": ("<calls>", "</calls>", "", "")}
"""From a call syntax to the marks around its calls, and to what stands between a mark and a call. Only these have a grammar."""

SPACES = {"hermes": r"[ \t\n\r]*", "json": r"[ \t]*"}
"""What may stand between the parts of a call's arguments: in `json` a line is a call."""


def require_grammar(syntax: str) -> None:
    """Refuse a call syntax that has no grammar.

    Raises:
        ConfigError: it has none.
    """
    if syntax not in EDGES:
        raise ConfigError(
            f"evaluate.decoding: tools: the call syntax {syntax} has no grammar, only {' and '.join(EDGES)} have: set it to free"
        )


def require_readable(tools: Iterable[Tool]) -> None:
    """Refuse a tool that no engine could hold an answer to, before a model is trained or loaded.

    Raises:
        ConfigError: its schema has something that has no grammar.
    """
    # A compiled library, which whoever only writes a grammar need not have.
    import llguidance

    for tool in {json.dumps(tool): tool for tool in tools}.values():
        # Of any syntax and stop token: what may fail is in the schema. Without a tokenizer, as vLLM does it.
        text = llguidance.grammar_from("grammar", grammar("hermes", [tool], [0]))
        error = llguidance.LLMatcher.validate_grammar(text, None)
        if error:
            # What follows is the grammar, line by line.
            said = " ".join(re.split(r"\n\s*\d+ \| ", error)[0].split())
            reason = said.partition("JSON schema: ")[2] or said
            raise ConfigError(
                f"evaluate.decoding: tools: the schema of {tool['function']['name']!r} cannot be a grammar ({reason[:300]}): "
                "change it, or set it to free"
            )


def grammar(syntax: str, tools: Sequence[Tool], stop_ids: Sequence[int], special: Mapping[str, int] | None = None) -> str:
    """What an answer may be: any text without the marks of calls, with valid calls in it, then a stop token.

    A call's arguments come in the order of its tool's schema, and none that the schema does not list, as the guard has it;
    but for a schema that is put together of others (`anyOf`, `$ref`), which the guard sees through and no grammar does.
    Special tokens other than the stop tokens and the marks do not occur.

    Args:
        syntax: of the calls.
        tools: that may be called, in the OpenAI form.
        stop_ids: tokens that end the answer.
        special: the marks that are special tokens of the model, as `<tool_call>` is of Qwen's, and their ids: such a model
            writes a mark as that token, which no text of a grammar matches. None for none.

    Raises:
        ConfigError: the syntax has no grammar.
    """
    require_grammar(syntax)
    special = special or {}
    begin, end, before, after = EDGES[syntax]
    marks = f"<\\/?{begin[1:]}"
    lines = [
        f"start: {'block* ' if tools else ''}TEXT stop",
        f"stop: <[{','.join(map(str, sorted(set(stop_ids))))}]>",
        rf"TEXT: /(.|\n)*/ & ~/(.|\n)*{marks}(.|\n)*/",
    ]
    if tools:
        several = ' ("\\n" call)*' if syntax == "json" else ""
        closing = f"{_text(after)} <[{special[end]}]>" if end in special else _text(after + end)
        lines += [
            f"block: lead call{several} {closing}",
            f"call: {' | '.join(f'call_{number}' for number in range(len(tools)))}",
        ]
        if begin in special:
            lines.append(f"lead: TEXT <[{special[begin]}]> {_text(before)}")
        else:
            # Lazy: the text before a call ends where the first mark does. With another mark in it the parser would begin there.
            lines.append(f"lead[lazy]: TEXT {_text(begin + before)}")
        lines += [f"call_{number}: {_call(tool, syntax)}" for number, tool in enumerate(tools)]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _call(tool: Tool, syntax: str) -> str:
    function = tool["function"]
    head = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": '
    schema = {**_closed(function.get("parameters") or {}), "x-guidance": {"whitespace_pattern": SPACES[syntax]}}
    return f'{json.dumps(head)} %json {json.dumps(schema)} "}}"'


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with no argument that it does not list, where it can be said of it: the guard rejects those."""
    if "additionalProperties" in schema or any(keyword in schema for keyword in COMPOSED):
        return {"type": "object", **schema}
    return {"type": "object", **schema, "additionalProperties": False}
