"""The test questions asked again: the tools in another order, with a tool more, or in slightly other words.

All by rule, and by seed: the same questions always become the same ones. Rows with the same tools keep the same tools, so
that what they share of the prompt is still computed once.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from calltune.records import Message, Record, Tool, canonical, user_text

CANDIDATES = 20
"""Tools of other rows among which the distractor is chosen: enough to find one that no question is about."""
STRANGERS = {
    "convert_currency": ("Convert an amount of money from one currency to another.", {"amount": "number", "target": "string"}),
    "get_weather": ("Get the weather forecast for a place.", {"place": "string", "days": "integer"}),
    "play_music": ("Play a song, an album or a playlist.", {"title": "string"}),
    "set_alarm_clock": ("Set an alarm for a time of the day.", {"time": "string"}),
    "track_parcel": ("Say where a parcel is.", {"number": "string", "carrier": "string"}),
    "translate_sentence": ("Translate a sentence into another language.", {"sentence": "string", "language": "string"}),
}
"""Distractors for a test in which all rows have the same tools: name → what it does, and the types of its arguments."""
GREETINGS = ("Hi, ", "Hello, ", "Hey there, ", "Good morning, ")
THANKS = (" Thanks!", " Thank you.", " Thanks in advance.", " Thanks a lot!")
_WORD = re.compile(r"(?<![\w./@:-])[a-z]{5,}(?![\w/@:-]|\.\w)")
"""A word that a typo may be in: small letters only, so that no name, number, address or code is changed."""


def shuffled_tools(records: Sequence[Record], seed: int) -> list[Record]:
    """The records, each list of tools in another order; a list of one stays as it is."""
    return [{**record, "tools": _other_order(record["tools"], seed)} for record in records]


def _other_order(tools: Sequence[Tool], seed: int) -> list[Tool]:
    dice = random.Random(f"{seed} {canonical(tools)}")
    order = list(range(len(tools)))
    while len(order) > 1 and order == sorted(order):
        dice.shuffle(order)
    return [tools[place] for place in order]


def with_distractor(records: Sequence[Record], seed: int) -> list[Record]:
    """The records with one tool more, somewhere in the list: another row's, or, where there is none, a made-up one.

    It shares no word of its name with the row's own tools, and of the tools that could be taken it is the one that the
    fewest questions mention: the right answers are to stay the right ones.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[canonical(record["tools"])].append(record)
    tools = {canonical(tool): tool for record in records for tool in record["tools"]}
    known = [tools[key] for key in sorted(tools)]
    longer = {key: _one_more(rows, known, random.Random(f"{seed} {key}")) for key, rows in groups.items()}
    return [{**record, "tools": longer[canonical(record["tools"])]} for record in records]


def _one_more(rows: Sequence[Record], known: Sequence[Tool], dice: random.Random) -> list[Tool]:
    tools = list(rows[0]["tools"])
    own = {word for tool in tools for word in _words(tool["function"]["name"])}
    others = [tool for tool in known if _words(tool["function"]["name"]) and not own & _words(tool["function"]["name"])]
    strangers = [_stranger(name) for name in STRANGERS if name not in [tool["function"]["name"] for tool in tools]]
    candidates = dice.sample(others, min(CANDIDATES, len(others))) or dice.sample(strangers, len(strangers))
    asked = [user_text(row).lower() for row in rows]

    def mentions(tool: Tool) -> int:
        return sum(any(word in text for word in _words(tool["function"]["name"])) for text in asked)

    tools.insert(dice.randint(0, len(tools)), min(candidates, key=mentions))
    return tools


def _words(name: str) -> set[str]:
    """The words of a tool's name that say what it is about: those of four letters and more."""
    return set(re.findall("[a-z]{4,}", name.lower()))


def _stranger(name: str) -> Tool:
    does, arguments = STRANGERS[name]
    properties: dict[str, Any] = {argument: {"type": kind} for argument, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": does, "parameters": parameters}}


def rephrased(records: Sequence[Record], seed: int) -> list[Record]:
    """The records, the last user turn with a greeting or thanks, a typo, and for one in two in small letters."""
    return [{**record, "messages": _rephrased(record["messages"], seed)} for record in records]


def _rephrased(messages: Sequence[Message], seed: int) -> list[Message]:
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=None)
    changed = list(messages)
    if last is not None:
        changed[last] = {**messages[last], "content": in_other_words(messages[last]["content"], seed)}
    return changed


def in_other_words(text: str, seed: int) -> str:
    """The same question as somebody else might type it."""
    dice = random.Random(f"{seed} {text}")
    text = _with_typo(text, dice)
    text = dice.choice(GREETINGS) + text if dice.random() < 0.5 else text + dice.choice(THANKS)
    return text.lower() if dice.random() < 0.5 else text


def _with_typo(text: str, dice: random.Random) -> str:
    """Two neighbouring letters inside of one word change places; a text without a word for it stays as it is."""
    places = [at for word in _WORD.finditer(text) for at in range(word.start() + 1, word.end() - 2) if text[at] != text[at + 1]]
    if not places:
        return text
    at = dice.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


WAYS: dict[str, Callable[[Sequence[Record], int], list[Record]]] = {
    "shuffled_tools": shuffled_tools,
    "distractor": with_distractor,
    "rephrased": rephrased,
}
"""What `evaluate.robustness` names."""
