"""What a suite was answered, word by word: kept while it goes on, so that nothing is asked twice, and after, to be read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import models
from calltune.records import write_jsonl
from calltune.store import Store
from components.evaluate.journal import Journal


@dataclass(frozen=True)
class Details:
    """Where one suite's words about one model are.

    Attributes:
        store: the run's; None for a step by itself, which begins anew when it is started again.
        place: key of the suite's results in the store, without an ending: what it goes on from is below it.
        file: for the rows where there is no store; None: for none.
    """

    store: Store | None
    place: str
    file: Path | None

    @property
    def address(self) -> str:
        """Where the rows are; empty where they are not kept."""
        return f"{self.store.uri}/{self.place}.jsonl" if self.store else str(self.file or "")

    def journal(self, name: str) -> Journal | None:
        """The model's answers as they come, and those of an earlier try; None where nothing is kept."""
        if self.store is None:
            return None
        return Journal(self.store, f"{self.place}/answers", self._file(), name)

    def get(self, key: str) -> Any | None:
        """What :meth:`put` has kept, also in an earlier try."""
        return self.store.get_json(f"{self.place}/{key}.json") if self.store else None

    def put(self, key: str, value: Any) -> None:
        """Keep something until the suite has ended, as JSON."""
        if self.store:
            self.store.put_json(f"{self.place}/{key}.json", value)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows, one JSON object a line."""
        if self.store:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self.store.put(f"{self.place}.jsonl", lines.encode())
        elif self.file:
            write_jsonl(self.file, rows)

    def clear(self) -> None:
        """Forget what the suite would have gone on from: its results are in the store."""
        if self.store is None:
            return
        self._file().unlink(missing_ok=True)
        for key in self.store.list(f"{self.place}/"):
            self.store.delete(key)

    def _file(self) -> Path:
        return models.cache_dir() / "evaluations" / f"{self.place.rpartition('/')[2]}.jsonl"
