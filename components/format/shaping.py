"""Rows as they are shown: fewer early turns, fewer tools, another order of the tools. Nothing of the answers changes."""

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from calltune.records import Record, canonical, sha256


def without_early_turns(record: Record) -> list[Record]:
    """The record without its first user turn and what was answered to it, without its first two, and so on; one is always left.

    What stands before the first user turn, such as a system message, stays.
    """
    messages = record["messages"]
    asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
    return [{**record, "messages": [*messages[: asked[0]], *messages[at:]]} for at in asked[1:]]


def without_tools(record: Record, hidden: Collection[str]) -> Record:
    """The record without the tools of these names."""
    return {**record, "tools": [tool for tool in record["tools"] if tool["function"]["name"] not in hidden]}


def with_shuffled_tools(records: Iterable[Record], group: int, seed: int) -> Iterator[Record]:
    """Yield the records, their tools in an order that `group` of them share.

    Rows with the same tools are counted together: those that share an order share a prefix, which is computed once.

    Args:
        records: in any order, which the result keeps.
        group: rows with one order of the tools.
        seed: another seed, other orders.
    """
    seen: dict[str, int] = defaultdict(int)
    for record in records:
        key, tools = sha256(record["tools"]), list(record["tools"])
        random.Random(f"{seed} {seen[key] // group} {canonical(tools)}").shuffle(tools)
        seen[key] += 1
        yield {**record, "tools": tools}
