"""What the kept rows hold, in numbers."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from calltune import drift
from calltune.metrics import label_of
from calltune.records import Record, calls_of, expected_calls, user_text

EXAMPLES = 3
"""Messages of each rule that are kept to be shown."""


@dataclass(frozen=True)
class Counts:
    """What there is to count in one row.

    Attributes:
        tools: each tool with the names of its parameters.
        calls: each call with the names of its arguments.
        roles: of its messages.
        answer: the tools of its expected answer, as one label.
        question_words: words of its question.
        length: the class of its question's length.
    """

    tools: list[tuple[str, list[str]]]
    calls: list[tuple[str, list[str]]]
    roles: list[str]
    answer: str
    question_words: int
    length: str


def counts_of(record: Record) -> Counts:
    """Count what is in one row."""
    functions = [tool["function"] for tool in record["tools"]]
    calls = [call for message in record["messages"] for call in calls_of(message)]
    return Counts(
        [(one["name"], list(one["parameters"].get("properties", {}))) for one in functions],
        [(call["name"], list(call["arguments"])) for call in calls],
        [message["role"] for message in record["messages"]],
        label_of([call["name"] for call in expected_calls(record)]),
        len(user_text(record).split()),
        drift.length_class(record),
    )


class Profile:
    """Counts what is in the rows, one by one; grows with the tools and not with the rows.

    Attributes:
        examples: for each rule the first rows that it refused, with their messages.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.rows_per_tool: Counter[str] = Counter()
        self.calls_per_row: Counter[int] = Counter()
        self.roles: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.question_words: Counter[int] = Counter()
        self.lengths: Counter[str] = Counter()
        self.given: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: dict[str, list[str]] = {}

    def add(self, counts: Counts) -> None:
        """Count a row that is kept."""
        for name, properties in counts.tools:
            self.calls[name] += 0
            self.given[name].update(dict.fromkeys(properties, 0))
        names = [name for name, _ in counts.calls]
        self.calls.update(names)
        for name, arguments in counts.calls:
            self.given[name].update(arguments)
        self.rows_per_tool.update(list(dict.fromkeys(names)))
        self.calls_per_row[len(names)] += 1
        self.roles.update(counts.roles)
        self.classes[counts.answer] += 1
        self.question_words[counts.question_words] += 1
        self.lengths[counts.length] += 1

    def refused(self, rule: str, example: str) -> None:
        """Remember the first refusals of each kind."""
        known = self.examples.setdefault(rule, [])
        if len(known) < EXAMPLES:
            known.append(example)

    def as_json(self) -> dict[str, Any]:
        """The counts, the largest first."""
        return {
            "tools": dict(self.calls.most_common()),
            "rows_per_tool": dict(self.rows_per_tool.most_common()),
            "calls_per_row": {str(calls): rows for calls, rows in sorted(self.calls_per_row.items())},
            "roles": dict(self.roles.most_common()),
            "classes": dict(self.classes.most_common()),
            "question_words": {str(length): rows for length, rows in sorted(self.question_words.items())},
            # What a later look at recent questions is held against.
            "lengths": dict(self.lengths.most_common()),
            # Only of tools that are called: of the others every argument would say 0.
            "arguments": {name: dict(self.given[name]) for name, calls in self.calls.most_common() if calls},
            "examples": self.examples,
        }
