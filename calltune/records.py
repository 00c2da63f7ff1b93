"""The one record that all steps speak: a conversation, its tools, and the answers that count as right.

    {"id": "7", "messages": [{"role": "user", "content": "Who is Ana?"},
                             {"role": "assistant", "tool_calls": [{"type": "function", "function":
                                 {"name": "find_employee", "arguments": {"name": "Ana"}}}]}],
     "tools": [{"type": "function", "function": {"name": "find_employee", "description": "...", "parameters": {...}}}],
     "source": {"uri": "questions.jsonl", "row": 7, "sha256": "..."}}

`arguments` is always an object. `expected` is optional: accepted values per argument, as the Berkeley leaderboard has
them. A row that should call nothing ends in an assistant message with `content` only.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from calltune.errors import DataError
from calltune.likeness import words

Record = dict[str, Any]
Message = dict[str, Any]
Tool = dict[str, Any]
Call = dict[str, Any]
"""A tool call without its wrapping: ``{"name": str, "arguments": {...}}``."""


def calls_of(message: Message) -> list[Call]:
    """The calls of an assistant message, unwrapped, in order."""
    return [call["function"] for call in message.get("tool_calls") or []]


def expected_calls(record: Record) -> list[dict[str, Any]]:
    """The accepted answer: ``[{"name": str, "arguments": {arg: [accepted values]}}]``, empty when none should be called.

    Without `expected`, the last assistant message's own calls are the one accepted answer.
    """
    if "expected" in record:
        return list(record["expected"])
    calls = calls_of(record["messages"][-1])
    return [{"name": c["name"], "arguments": {k: [v] for k, v in c["arguments"].items()}} for c in calls]


def prompt_of(record: Record) -> list[Message]:
    """The messages before the last assistant turn: what the model is asked in evaluation."""
    return list(record["messages"][:-1])


def user_text(record: Record) -> str:
    """What the user wrote, all turns: what tells one question from another."""
    return "\n".join(user_turns(record))


def question_sha256(record: Record) -> str:
    """What a list of training rows keeps of a question: a part of the SHA-256 of the user's words.

    Case and spacing do not count. Of a million questions the 16 hex digits make no two the same.
    """
    return _words_sha256(user_text(record))


TURN_WORDS = 8
"""Words from which on a turn is a question by itself: what is shorter ("Thanks.", "Yes, please book it.") is said in many
conversations about many things."""


def turns_sha256(record: Record) -> list[str]:
    """As `question_sha256`, of each user turn by itself: training teaches the answer to every one; short ones are left out."""
    return [_words_sha256(turn) for turn in user_turns(record) if len(words(turn)) >= TURN_WORDS]


TURN = "turn:"
"""Before a hash in `trained_on.json` that is of one turn of a conversation, and not of a whole question."""
PHRASE = "phrase:"
"""The same, of a turn that many conversations have: to be trained on it is to be trained on a question that is nothing else."""


def asked_sha256(record: Record) -> set[str]:
    """As `question_sha256`, of what evaluation asks: the question, and its last user turn if that is not short.

    A model that was trained on one of these was trained on the question.
    """
    last = [turn for turn in user_turns(record)[-1:] if len(words(turn)) >= TURN_WORDS]
    return {question_sha256(record), *map(_words_sha256, last)}


def user_turns(record: Record) -> list[str]:
    """What the user wrote, turn by turn."""
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


def _words_sha256(text: str) -> str:
    return sha256(" ".join(text.lower().split()))[:16]


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical(value: Any) -> str:
    """One JSON text for equal values, whatever the order of their keys: the basis of every fingerprint."""
    return _CANONICAL.encode(value)


def sha256(value: Any) -> str:
    """SHA-256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def number_of(digest: str) -> int:
    """A hex digest's first 60 bits: 8 bytes of it, where there are many."""
    return int(digest[:15], 16)


def content_sha256(record: Record, tools: str | None = None) -> str:
    """SHA-256 of what the record teaches (messages, tools, expected), not of where it came from.

    Args:
        record: the record.
        tools: the canonical JSON of its tools, where that is at hand.
    """
    parts = [f'"{key}":{canonical(record[key])}' for key in ("expected", "messages") if key in record]
    parts.append(f'"tools":{canonical(record["tools"]) if tools is None else tools}')
    # As `sha256` has it, with the keys in order.
    return hashlib.sha256(f"{{{','.join(parts)}}}".encode()).hexdigest()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file that Calltune itself wrote.

    Raises:
        DataError: the file is absent, or a line is not JSON (the file was damaged after it was written).
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(text, object_pairs_hook=once)`: of two values for one key a reader would see only the last.

    Raises:
        ValueError: a key stands twice in one object.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return found
