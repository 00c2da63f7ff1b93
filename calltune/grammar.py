"""A grammar of the answers that a template's call syntax and the tools' JSON Schemas allow: text, and valid calls in it.

The grammars are in the Lark dialect of llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), which
evaluation with transformers masks logits by, and which vLLM takes as it is. This module only writes them, and imports nothing.
"""

import json
from collections.abc import Sequence
from typing import Any

from calltune.errors import ConfigError
from calltune.records import Tool

COMPOSED = ("$ref", "allOf", "anyOf", "oneOf", "unevaluatedProperties")
EDGES = {"hermes": ("<tool_call>", "</tool_call>", "\n", "\n"), "json": ("<calls>", "</calls>", "", "")}
"""From a call syntax to the marks around its calls, and to what stands between a mark and a call. Only these have a grammar."""


def require_grammar(syntax: str) -> None:
    """Refuse a call syntax that has no grammar.

    Raises:
        ConfigError: it has none.
    """
    if syntax not in EDGES:
        raise ConfigError(
            f"evaluate.decoding: tools: the call syntax {syntax} has no grammar, only {' and '.join(EDGES)} have: set it to free"
        )


def grammar(syntax: str, tools: Sequence[Tool], stop_ids: Sequence[int]) -> str:
    """What an answer may be: any text without the marks of calls, with valid calls in it, then a stop token.

    A call's arguments come in the order of its tool's schema, and none that the schema does not list, as the guard has it.
    Special tokens other than the stop tokens do not occur.

    Args:
        syntax: of the calls.
        tools: that may be called, in the OpenAI form.
        stop_ids: tokens that end the answer.

    Raises:
        ConfigError: the syntax has no grammar.
    """
    require_grammar(syntax)
    begin, end, before, after = EDGES[syntax]
    marks = f"<\\/?{begin[1:]}"
    lines = [
        f"start: {'block* ' if tools else ''}TEXT stop",
        f"stop: <[{','.join(map(str, sorted(set(stop_ids))))}]>",
        rf"TEXT: /(.|\n)*/ & ~/(.|\n)*{marks}(.|\n)*/",
    ]
    if tools:
        several = ' ("\\n" call)*' if syntax == "json" else ""
        lines += [
            f"block: lead call{several} {json.dumps(after + end)}",
            # Lazy: the text before a call ends where the first mark does. It is no TEXT, in which no closing mark may stand.
            f"lead[lazy]: BEFORE {json.dumps(begin + before)}",
            rf"BEFORE: /(.|\n)*/ & ~/(.|\n)*{end.replace('/', chr(92) + '/')}(.|\n)*/",
            f"call: {' | '.join(f'call_{number}' for number in range(len(tools)))}",
        ]
        lines += [f"call_{number}: {_call(tool)}" for number, tool in enumerate(tools)]
    return "\n".join(lines) + "\n"


def _call(tool: Tool) -> str:
    function = tool["function"]
    head = f'{{"name": {json.dumps(function["name"])}, "arguments": '
    return f'{json.dumps(head)} %json {json.dumps(_closed(function.get("parameters") or {}))} "}}"'


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with no argument that it does not list, where it can be said of it: the guard rejects those."""
    if "additionalProperties" in schema or any(keyword in schema for keyword in COMPOSED):
        return {"type": "object", **schema}
    return {"type": "object", **schema, "additionalProperties": False}
