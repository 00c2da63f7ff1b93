"""Outside benchmarks: their questions, and that no training row asks one of them."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import runtime
from calltune.dialects.asked import asked
from calltune.dialects.reading import RowError
from calltune.errors import DataError, no_such_file
from calltune.records import user_turns, write_jsonl
from components.format.config import ContaminationConfig
from components.format.contamination import repeating
from components.format.spill import Some

SETTING = "format.contamination.benchmarks"
LISTED = 20
"""Pairs that the error names; all of them are in the file."""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        file: the name of its file.
        row: of the file, from 1.
        id: as the row has it; None where it has none.
        turns: what the user says.
    """

    file: str
    row: int
    id: Any
    turns: list[str]

    def __str__(self) -> str:
        return f"{self.file} {f'row {self.row}' if self.id is None else self.id}"


def benchmark_questions(config: ContaminationConfig) -> list[Question]:
    """The questions of all benchmarks. They are in memory: benchmarks have thousands of questions, not millions.

    Raises:
        DataError: a file is not there, is not JSON, or has a row that asks nothing.
    """
    return [question for file in config.benchmarks for question in _questions(Path(file))]


def require_unasked(training: Some, config: ContaminationConfig, out: Path) -> dict[str, int]:
    """Make sure that no training row asks what a benchmark asks; returns how many questions each file has.

    Args:
        training: the rows.
        config: with the files as they lie on this machine.
        out: gets `benchmarks.jsonl`, with every pair, where there is one.

    Raises:
        DataError: a row does, with the pairs listed.
    """
    questions = benchmark_questions(config)
    counts = dict(Counter(question.file for question in questions))
    if not questions:
        return counts
    with runtime.phase("compare with benchmarks"):
        pairs = repeating(map(user_turns, training), [question.turns for question in questions], config)
    if not pairs:
        files = f"{len(counts)} file{'s' if len(counts) != 1 else ''}"
        runtime.note(f"format: no training row asks one of {len(questions)} questions of benchmarks ({files})")
        return counts
    listed = [(training[pair.train], questions[pair.held], pair.why) for pair in pairs]
    write_jsonl(
        out / "benchmarks.jsonl",
        (
            {
                "id": record["id"],
                "source": record["source"]["uri"],
                "row": record["source"]["row"],
                "benchmark": question.file,
                "benchmark_row": question.row,
                "benchmark_id": question.id,
                "why": why,
            }
            for record, question, why in listed
        ),
    )
    named = [f"{record['id']} and {question} ({why})" for record, question, why in listed[:LISTED]]
    more = f" and {len(pairs) - LISTED} more" if len(pairs) > LISTED else ""
    raise DataError(
        f"format: {len(pairs)} of {len(training)} training rows ask what {SETTING} ask: {'; '.join(named)}{more}; all in "
        f"{out / 'benchmarks.jsonl'}: leave these rows out"
    )


def _questions(path: Path) -> Iterator[Question]:
    found = False
    for number, row in _rows(path):
        if not isinstance(row, dict):
            raise DataError(f"{SETTING}: {path}, row {number}: must be a JSON object")
        try:
            turns = asked(row)
        except RowError as error:
            raise DataError(f"{SETTING}: {path}, row {number}: {error}") from None
        if turns:
            found = True
            yield Question(path.name, number, row.get("id"), turns)
    if not found:
        raise DataError(f"{SETTING}: {path} has no question")


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON lines file or a JSON array, packed or not, from 1; of JSON lines the line is the number."""
    import pyarrow

    if not path.is_file():
        raise no_such_file(path, SETTING)
    try:
        with pyarrow.input_stream(str(path), compression="detect") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{SETTING}: {path} cannot be read: {error}") from None
    whole = text.lstrip().startswith("[")
    for number, part in enumerate([text] if whole else text.split("\n"), 1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{SETTING}: {path}, {'' if whole else f'line {number}, '}is not JSON: {error}") from None
        yield from enumerate(value, 1) if whole else [(number, value)]
