"""Whether a record can be trained on: roles, texts, tools, calls and arguments; and whether too many cannot."""

import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from calltune.dialects.reading import RowError, guarded
from calltune.errors import DataError
from calltune.guard import check_value
from calltune.match import first_difference, plain_values
from calltune.records import Call, Message, Record, Tool, calls_of

Problem = tuple[str, str]
"""A rule, in one word, and a message that says where and what."""

# Far above any sensible row: whatever exceeds these is a mistake in the data, and would cost time and memory later.
MAX_MESSAGES = 1_000
MAX_CHARACTERS = 1_000_000
MAX_TOOLS = 1_000
MAX_CALLS = 100
"""Calls in one assistant turn."""

_BEFORE: dict[str, tuple[str, ...]] = {
    "system": ("",),
    "developer": ("",),
    "user": ("", "system", "developer", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""For each role, the roles that may come right before it; the empty one is the beginning."""


def problem(record: Record) -> Problem | None:
    """The first rule that the record breaks, and how; None when it can be used.

    ``problem({"messages": [{"role": "user", "content": "Hi"}], "tools": []})`` is ``("role_order", "messages: the last
    turn must be the assistant's, it is the user's")``.
    """
    messages, tools = record.get("messages"), record.get("tools")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        return "invalid_message", "messages: must be a list of messages, at least one"
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return "invalid_tool", "tools: must be a list of tools"
    return _sizes(messages, tools) or _conversation(messages) or _all_calls(messages, tools) or _expected(record, tools)


def commonest(rules: Counter[str]) -> str:
    """Why rows were refused, the commonest reasons first: ``3 too_long, 1 special_token``."""
    return ", ".join(f"{count} {rule}" for rule, count in rules.most_common(5))


def require_few_refused(
    source: str | Path, read: int, rules: Counter[str], first: str, limit: tuple[str, float], quarantine: Path
) -> None:
    """Let a step go on only if the share of the rows that it refused is small enough.

    Args:
        source: where the rows are from.
        read: how many there were, at least one.
        rules: how many were refused for each reason.
        first: which was refused first, and why.
        limit: the step, and its setting `max_quarantined`: a share of the rows, 0 to 1.
        quarantine: the file where all refused rows are.

    Raises:
        DataError: there are more.
    """
    step, allowed = limit
    share = rules.total() / read
    if share > allowed:
        raise DataError(
            f"{source}: {rules.total()} of {read} rows ({share:.1%}) cannot be used, "
            f"{step}.max_quarantined allows {allowed:.1%}; the commonest reasons: {commonest(rules)}; "
            f"first, {first}; all in {quarantine}"
        )


def _sizes(messages: list[Message], tools: list[Tool]) -> Problem | None:
    texts = (message.get(key) for message in messages for key in ("content", "reasoning_content"))
    calls = (json.dumps(message["tool_calls"], ensure_ascii=False) for message in messages if message.get("tool_calls"))
    characters = sum(len(text) for text in (*texts, *calls) if isinstance(text, str))
    for name, size, limit in (
        ("messages", len(messages), MAX_MESSAGES),
        ("tools", len(tools), MAX_TOOLS),
        ("messages: characters", characters, MAX_CHARACTERS),
    ):
        if size > limit:
            return "too_large", f"{name}: {size}, at most {limit} are taken"
    return None


def _conversation(messages: list[Message]) -> Problem | None:
    before, open_calls = "", 0
    for number, message in enumerate(messages):
        where, role = f"messages[{number}]", message.get("role")
        if not isinstance(role, str) or role not in _BEFORE:
            return "unknown_role", f"{where}.role: {role!r} is not one of {', '.join(_BEFORE)}"
        if before not in _BEFORE[role]:
            return "role_order", f"{where}: {role} cannot {f'follow {before}' if before else 'come first'}"
        if "content" in message and not isinstance(message["content"], str):
            return "invalid_content", f"{where}.content: must be a string"
        if role == "assistant":
            found = _answer(message, where)
            if found is not None:
                return found
            open_calls = len(calls_of(message))
        elif "content" not in message:
            return "invalid_content", f"{where}.content: is missing"
        elif message.get("tool_calls"):
            return "role_order", f"{where}.tool_calls: only the assistant calls tools"
        if role == "tool":
            open_calls -= 1
            if open_calls < 0:
                return "role_order", f"{where}: a tool's result without a call before it"
        before = role
    if before != "assistant":
        return "role_order", f"messages: the last turn must be the assistant's, it is the {before}'s"
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        return "no_question", "messages: no user turn says anything"
    return None


def _answer(message: Message, where: str) -> Problem | None:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        return "invalid_call", f"{where}.tool_calls: must be a list of calls, each with a name and an object `arguments`"
    if len(calls) > MAX_CALLS:
        return "too_large", f"{where}.tool_calls: {len(calls)}, at most {MAX_CALLS} are taken"
    if not calls and not message.get("content", "").strip():
        return "empty_answer", f"{where}: the assistant neither says nor calls anything"
    return None


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str) and isinstance(function.get("arguments"), dict)


def _all_calls(messages: list[Message], tools: list[Tool]) -> Problem | None:
    by_name = {tool["function"]["name"]: tool for tool in tools}
    for number, message in enumerate(messages):
        for index, call in enumerate(calls_of(message)):
            where = f"messages[{number}].tool_calls[{index}]"
            found = _unknown(call["name"], by_name, where) or _arguments(call, by_name[call["name"]], where)
            if found is not None:
                return found
    return None


def _unknown(name: str, by_name: dict[str, Tool], where: str) -> Problem | None:
    if name in by_name:
        return None
    if not by_name:
        return "no_tools", f"{where}: calls {name!r}, but the row has no tools; give a tools file (ingest.tools)"
    return "unknown_tool", f"{where}: there is no tool {name!r}{_nearest(name, list(by_name))}"


def _arguments(call: Call, tool: Tool, where: str) -> Problem | None:
    # Without coercion, unlike what a model wrote: trained on "3" for an integer, a model would learn to write that.
    try:
        reason = guarded(call, [tool]).reason
    except RowError as error:
        return error.rule, str(error)
    return None if reason is None else ("invalid_arguments", f"{where}: {reason}")


def _expected(record: Record, tools: list[Tool]) -> Problem | None:
    if "expected" not in record:
        return None
    if not isinstance(record["expected"], list):
        return "invalid_expected", "expected: must be a list of calls with their accepted values"
    by_name = {tool["function"]["name"]: tool for tool in tools}
    try:
        for number, call in enumerate(record["expected"]):
            wrong = _no_call(call, by_name, f"expected[{number}]")
            if wrong is not None:
                return "invalid_expected", wrong
        wrong = _not_own(record)
    except RecursionError:
        wrong = "expected: is nested too deeply"
    except DataError as error:
        return "invalid_tool", str(error)
    return None if wrong is None else ("invalid_expected", wrong)


def _no_call(call: Any, by_name: dict[str, Tool], where: str) -> str | None:
    """Why nobody could make an expected call."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), dict):
        return f"{where}: must have a name and an object `arguments`"
    if call["name"] not in by_name:
        return f"{where}: there is no tool {call['name']!r}{_nearest(call['name'], list(by_name))}"
    for name, accepted in call["arguments"].items():
        if not isinstance(accepted, list) or not accepted:
            return f"{where}.arguments.{name}: must be a list of accepted values, at least one"
        # "" says that the argument may be absent: it need not be a value of it.
        for value in (value for one in accepted if one != "" for value in plain_values(one)):
            reason = check_value(by_name[call["name"]], name, value)
            if reason is not None:
                return f"{where}: {reason}"
    return None


def _not_own(record: Record) -> str | None:
    """Why the row's own answer, which training teaches, is none of the accepted ones, by each argument's default rule.

    Not by score.py: another way to count would then be another code of ingest, and every step would run again.
    """
    own, expected = calls_of(record["messages"][-1]), record["expected"]
    called, wanted = (sorted(str(call["name"]) for call in calls) for calls in (own, expected))
    refused = "expected: does not accept the row's own last answer"
    if called != wanted:
        wanted_instead = f"instead of {', '.join(wanted)}" if wanted else "where no call was expected"
        return f"{refused}: called {', '.join(called) or 'nothing'} {wanted_instead}"
    difference = first_difference(own, expected, record["tools"], {}, literal=False)
    return None if difference is None else f"{refused}: {difference}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(known[:8])}{', …' if len(known) > 8 else ''}" if known else ""
