"""What the kept rows hold, in numbers."""

from collections import Counter, defaultdict
from typing import Any

from calltune import drift
from calltune.metrics import label_of
from calltune.records import Record, calls_of, expected_calls, user_text

EXAMPLES = 3
"""Messages of each rule that are kept to be shown."""


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

    def add(self, record: Record) -> None:
        """Count a row that is kept."""
        calls = [call for message in record["messages"] for call in calls_of(message)]
        names = [call["name"] for call in calls]
        for tool in record["tools"]:
            name = tool["function"]["name"]
            self.calls[name] += 0
            self.given[name].update(dict.fromkeys(tool["function"]["parameters"].get("properties", {}), 0))
        self.calls.update(names)
        for call in calls:
            self.given[call["name"]].update(call["arguments"].keys())
        self.rows_per_tool.update(set(names))
        self.calls_per_row[len(calls)] += 1
        self.roles.update(message["role"] for message in record["messages"])
        self.classes[label_of([call["name"] for call in expected_calls(record)])] += 1
        self.question_words[len(user_text(record).split())] += 1
        self.lengths[drift.length_class(record)] += 1

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
