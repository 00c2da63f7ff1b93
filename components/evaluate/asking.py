"""The questions put to a model, in each way in which they are asked, and its answers as they come."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from calltune.errors import ConfigError
from calltune.grammar import grammar, require_grammar, require_readable
from calltune.records import Record
from components.evaluate import engines
from components.evaluate.engines.answer import Answer
from components.evaluate.journal import Asked, Journal, Written
from components.evaluate.served import Served, Unaskable


def grammars_of(served: Served, asked: Mapping[str, Sequence[Record]]) -> dict[str, list[str]]:
    """What the answers may be, by way and row, where they are held to the tools' schemas.

    Raises:
        Unaskable: the model's call syntax has no grammar.
        ConfigError: a tool's schema cannot be one.
    """
    try:
        require_grammar(served.syntax)
    except ConfigError as error:
        # No mistake of the config where it is a champion's, which was made with another one.
        raise Unaskable(str(error)) from None
    require_readable(tool for records in asked.values() for record in records for tool in record["tools"])
    # It imports torch.
    from components.evaluate.engines.constraint import special_marks

    special = special_marks(served.tokenizer, served.syntax)
    return {
        way: [grammar(served.syntax, record["tools"], served.stop_ids, special) for record in records]
        for way, records in asked.items()
    }


def answers(
    served: Served,
    asked: Mapping[str, Sequence[Record]],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    grammars: Mapping[str, Sequence[str]],
    engine: str,
    max_new_tokens: int,
    journal: Journal | None,
) -> Iterator[tuple[str, Answer]]:
    """The answers by way and row: those in the journal first, then the others as they come, which go into it.

    Args:
        served: the model.
        asked: the questions by way.
        prompts: token ids of each, by way and row.
        grammars: as :func:`grammars_of` gives them; empty for free answers.
        engine: `hf` or `vllm`.
        max_new_tokens: longest answer, in tokens.
        journal: of the answers; None for none.
    """
    longest = max(len(prompt) for ways in prompts.values() for prompt in ways) + max_new_tokens
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
            ask = ask or engines.opened(engine, served.folder.path, served.tokenizer, longest)
            held = [grammars[way][row] for row in rows] if grammars else None
            # Each way by itself: all its prompts begin alike, which another way's do not.
            for answer in ask([prompts[way][row] for row in rows], served.stop_ids, max_new_tokens, held):
                row = rows[answer.row]
                if journal:
                    journal.add(Asked(way, records[row]["id"]), Written(answer.ids, answer.stopped))
                yield way, Answer(row, answer.ids, answer.stopped)
