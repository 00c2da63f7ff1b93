"""The questions put to a model, in each way in which they are asked, and its answers as they come."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from calltune.grammar import grammar
from calltune.records import Record
from components.evaluate import engines
from components.evaluate.answer import Answer
from components.evaluate.config import EvaluateConfig
from components.evaluate.journal import Asked, Journal, Written

if TYPE_CHECKING:
    from components.evaluate.step import Served


def answers(
    served: "Served",
    asked: Mapping[str, Sequence[Record]],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    config: EvaluateConfig,
    journal: Journal | None,
) -> Iterator[tuple[str, Answer]]:
    """The answers by way and row: those in the journal first, then the others as they come, which go into it.

    Raises:
        ConfigError: answers are to be constrained, and a tool's schema cannot be a grammar.
    """
    grammars: dict[str, list[str]] = {}
    if config.decoding == "tools":
        # It imports torch and the library of grammars.
        from components.evaluate.constraint import require_readable

        for way, records in asked.items():
            grammars[way] = [grammar(served.syntax, record["tools"], served.stop_ids) for record in records]
            require_readable(grammars[way])
    longest = max(len(prompt) for ways in prompts.values() for prompt in ways) + config.max_new_tokens
    with contextlib.ExitStack() as stack:
        known = journal.read() if journal else {}
        if journal:
            stack.enter_context(journal.writing())
        ask = None
        for way, records in asked.items():
            written = [known.get(Asked(way, record["id"])) for record in records]
            yield from ((way, Answer(row, one.ids, one.stopped)) for row, one in enumerate(written) if one)
            rows = [row for row, one in enumerate(written) if one is None]
            if not rows:
                continue
            # Not before something is left to ask: a model that was measured before need not be loaded.
            ask = ask or engines.opened(config.engine, served.folder.path, served.tokenizer, longest)
            held = [grammars[way][row] for row in rows] if grammars else None
            # Each way by itself: all its prompts begin alike, which another way's do not.
            for answer in ask([prompts[way][row] for row in rows], served.stop_ids, config.max_new_tokens, held):
                row = rows[answer.row]
                if journal:
                    journal.add(Asked(way, records[row]["id"]), Written(answer.ids, answer.stopped))
                yield way, Answer(row, answer.ids, answer.stopped)
