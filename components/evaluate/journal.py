"""Answers as they come: on this machine and in the store, so that a step that is started again goes on where it was.

Each line is one answer and its checksum. The file on this machine gets every answer at once; the store gets the new ones
every few seconds, as an object below ``evaluations/<key>/answers/``, where another machine finds them. The key stands for
model, template, questions, settings and code, as that of the results does: whatever is there belongs here.
"""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calltune import runtime
from calltune.errors import UserError
from calltune.records import sha256
from calltune.storage import Store

PORTION_S = 20.0
"""Seconds between two uploads: what another machine does again is at most that much."""


@dataclass(frozen=True)
class Asked:
    """Which question an answer is to: its id, and the way in which it was asked again, empty for the first time."""

    way: str
    id: str


@dataclass(frozen=True)
class Written:
    """What was answered: the tokens, and whether a stop token ended them."""

    ids: list[int]
    stopped: bool


@dataclass
class Journal:
    """The answers of one evaluation.

    Attributes:
        store: the run's.
        place: key of the folder in the store.
        path: of the file on this machine.
        name: of the evaluation, for messages.
    """

    store: Store
    place: str
    path: Path
    name: str
    _waiting: list[str] = field(default_factory=list)
    _uploaded_at: float = field(default_factory=time.monotonic)

    def read(self) -> dict[Asked, Written]:
        """What was answered before; a line that is damaged, or was not written to its end, is named in a note, and skipped.

        Raises:
            UserError: the store cannot be reached.
        """
        found: dict[Asked, Written] = {}
        if self.path.is_file():
            self._take(self.path.read_bytes(), str(self.path), found)
        for key in self.store.list(self.place):
            self._take(self.store.get(key) or b"", f"{self.store.uri}/{key}", found)
        if found:
            runtime.note(f"{self.name}: {len(found)} answers were written before; goes on from there")
        return found

    @contextmanager
    def writing(self) -> Iterator["Journal"]:
        """While the block runs, :meth:`add` may be called; where it fails, the store gets what it does not have yet."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as self._file:
            self._file.write("\n")  # the last line may have no end
            try:
                yield self
            except BaseException:  # also where whoever takes the answers fails, which closes the generator that is in this block
                self._upload()
                raise

    def add(self, asked: Asked, written: Written) -> None:
        """Keep an answer. A store that is away for a while is named in a note, and gets it later."""
        answer = {"way": asked.way, "id": asked.id, "ids": written.ids, "stopped": written.stopped}
        line = json.dumps({"answer": answer, "sha256": sha256(answer)}) + "\n"
        self._file.write(line)
        self._file.flush()
        self._waiting.append(line)
        if time.monotonic() - self._uploaded_at >= PORTION_S:
            self._upload()

    def remove(self) -> None:
        """Forget the answers: the results that were made of them are in the store."""
        for key in self.store.list(self.place):
            self.store.delete(key)
        self.path.unlink(missing_ok=True)

    def _upload(self) -> None:
        if not self._waiting:
            return
        try:
            # A name of its own: another machine may be at the same questions.
            self.store.put(f"{self.place}/{secrets.token_hex(8)}.jsonl", "".join(self._waiting).encode())
            self._waiting.clear()
        except UserError as error:
            runtime.note(f"{self.name}: {len(self._waiting)} answers are on this machine only: {error}")
        self._uploaded_at = time.monotonic()

    def _take(self, content: bytes, where: str, found: dict[Asked, Written]) -> None:
        damaged = []
        for number, line in enumerate(content.splitlines(), 1):
            answer = _checked(line)
            if answer is not None:
                found[Asked(answer["way"], answer["id"])] = Written(answer["ids"], answer["stopped"])
            elif line.strip():
                damaged.append(number)
        if damaged:
            more = f" and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
            runtime.note(f"{self.name}: {where}, line {damaged[0]}{more}: damaged or not whole; these questions are asked again")


def _checked(line: bytes) -> dict[str, Any] | None:
    """A line's answer; None where the line is not what :meth:`Journal.add` wrote."""
    try:
        row = json.loads(line)
        answer: dict[str, Any] = row["answer"]
        return answer if row["sha256"] == sha256(answer) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
