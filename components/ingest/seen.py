"""The rows that have been before, exactly or nearly: digests and words on disk, so that memory does not grow with the rows."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from calltune.errors import DataError
from calltune.likeness import ROUNDING, likeness, words
from calltune.records import Record, calls_of, canonical, content_sha256, user_text
from components.ingest.signature import Signer

CACHE_KIB = 32_768
"""What SQLite keeps of its file in memory."""
# `asked`: what is asked, each once. `alike`: everything but the user's words; `banded` once a second row has the same. Most
# rows are alone in that, and need no signature.
_TABLES = """
CREATE TABLE kept (id INTEGER PRIMARY KEY, file INTEGER, row INTEGER, words TEXT);
CREATE TABLE asked (question BLOB PRIMARY KEY, answer BLOB, id INTEGER) WITHOUT ROWID;
CREATE TABLE alike (rest BLOB PRIMARY KEY, id INTEGER, banded INTEGER) WITHOUT ROWID;
CREATE TABLE bands (band BLOB, id INTEGER, PRIMARY KEY (band, id)) WITHOUT ROWID;
CREATE TABLE contents (content BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE ids (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Repeat:
    """A row that repeats one that is kept.

    Attributes:
        uri: the file of the row that is kept.
        row: its number in it.
        conflicting: the question is the same, and its answer another.
        why: what the two have in common, in words.
    """

    uri: str
    row: int
    conflicting: bool
    why: str


@dataclass(frozen=True)
class Traits:
    """What tells whether a row repeats another one.

    Attributes:
        content: digest of all that it teaches.
        question: of what is asked.
        answer: of what is answered.
        rest: of all but the user's words.
        words: the user's words, each once, in order, with a space between; empty where near repeats are not looked for.
    """

    content: bytes
    question: bytes
    answer: bytes
    rest: bytes
    words: str


def traits_of(record: Record, near: bool) -> Traits:
    """The traits of one row.

    Args:
        record: the row.
        near: whether near repeats are looked for.
    """
    shown = canonical(record["tools"])  # most of a row: written once
    tools, answer = _digest_of(shown), _answer(record)
    text = " ".join(sorted(set(words(user_text(record))))) if near else ""
    content = bytes.fromhex(content_sha256(record, shown))
    return Traits(content, _question(record, tools), answer, _rest(record, tools, answer), text)


class Seen:
    """What is to be known of the rows so far. The file is SQLite's own temporary one, gone when it is closed.

    Args:
        least: likeness of the users' words from which on a row nearly repeats another; 1 looks for exact repeats alone.
    """

    def __init__(self, least: float) -> None:
        self.least, self.signer = least, Signer(least)
        self.files: dict[str, int] = {}
        self.kept = self.near = 0
        with _explained():
            self.database = sqlite3.connect("", isolation_level=None)
            # Nothing of it is needed after a crash, and nobody else reads it.
            for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
                self.database.execute(f"PRAGMA {setting}")
            self.database.executescript(_TABLES)
            self.database.execute("BEGIN")

    def repeated(self, traits: Traits, uri: str, row: int) -> Repeat | None:
        """The kept row that this one repeats; None where it is new, and then it is known from now on."""
        with _explained():
            self._one("INSERT OR IGNORE INTO contents VALUES (?)", traits.content)
            same = self._one("SELECT answer, id FROM asked WHERE question = ?", traits.question)
            if same is not None:
                exactly = same[0] == traits.answer
                why = "the same question and answer" if exactly else "the same question, answered differently"
                return Repeat(*self._place(same[1]), not exactly, why)
            near = self._near(traits.rest, _set(traits.words)) if traits.words else None
            if near is not None:
                self.near += 1
                return Repeat(*self._place(near[0]), False, f"{near[1]:.0%} of the words of both, and all else the same")
            self._keep(traits, uri, row)
            return None

    def new_name(self, choices: list[str], last: str) -> str:
        """The first of some names that no row before has, else the `last` one."""
        with _explained():
            for name in choices:
                if self.database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (name,)).rowcount:
                    return name
        return last

    def fingerprint(self) -> str:
        """SHA-256 over the sorted digests of all usable content: also of conflicting rows, since order chose among them."""
        digest = hashlib.sha256()
        with _explained():
            for (content,) in self.database.execute("SELECT content FROM contents ORDER BY content"):
                digest.update(content)
        return digest.hexdigest()

    def _near(self, rest: bytes, text: frozenset[str]) -> tuple[int, float] | None:
        """The kept row whose words are most like these, and how much; only of those that are the same in all else."""
        first = self._one("SELECT id, banded FROM alike WHERE rest = ?", rest)
        if first is None:
            return None
        if not first[1]:
            self._add_bands(first[0], rest, self._words(first[0]))
            self._one("UPDATE alike SET banded = 1 WHERE rest = ?", rest)
        bands = self.signer.bands(rest, text)
        marks = ", ".join("?" * len(bands))
        found = self.database.execute(f"SELECT DISTINCT id FROM bands WHERE band IN ({marks}) ORDER BY id", bands).fetchall()
        best: tuple[int, float] | None = None
        for (other,) in found:
            # What the signatures say is a guess: only the words themselves decide.
            alike = likeness(text, self._words(other))
            if alike > self.least - ROUNDING and (best is None or alike > best[1]):
                best = other, alike
        return best

    def _keep(self, new: Traits, uri: str, row: int) -> None:
        self.kept += 1
        file = self.files.setdefault(uri, len(self.files))
        self._one("INSERT INTO kept VALUES (?, ?, ?, ?)", self.kept, file, row, new.words)
        self._one("INSERT INTO asked VALUES (?, ?, ?)", new.question, new.answer, self.kept)
        if (
            new.words
            and not self.database.execute("INSERT OR IGNORE INTO alike VALUES (?, ?, 0)", (new.rest, self.kept)).rowcount
        ):
            self._add_bands(self.kept, new.rest, _set(new.words))

    def _add_bands(self, kept: int, rest: bytes, text: frozenset[str]) -> None:
        rows = [(band, kept) for band in self.signer.bands(rest, text)]
        self.database.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", rows)

    def _words(self, kept: int) -> frozenset[str]:
        return _set(self._one("SELECT words FROM kept WHERE id = ?", kept)[0])

    def _place(self, kept: int) -> tuple[str, int]:
        file, row = self._one("SELECT file, row FROM kept WHERE id = ?", kept)
        return list(self.files)[file], row

    def _one(self, statement: str, *values: bytes | int | str) -> Any:
        return self.database.execute(statement, values).fetchone()

    def __enter__(self) -> "Seen":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.database.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(f"the temporary folder (TMPDIR) cannot hold what is known of the rows: {error}") from None


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split(" "))


def _digest(value: object) -> bytes:
    return _digest_of(canonical(value))


def _digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _question(record: Record, tools: bytes) -> bytes:
    """What is asked: instructions, the user's words in any case and spacing, tool results, and the tools on offer."""
    asked = [[_role(message), _spaced(message)] for message in record["messages"] if message["role"] != "assistant"]
    return _digest([asked, tools.hex()])


def _answer(record: Record) -> bytes:
    """What is answered: the assistant's turns, calls made in parallel in any order."""
    turns = [
        [(message.get("content") or "").strip(), sorted(map(canonical, calls_of(message)))]
        for message in record["messages"]
        if message["role"] == "assistant"
    ]
    return _digest([turns, record.get("expected")])


def _rest(record: Record, tools: bytes, answer: bytes) -> bytes:
    """All but the user's words. Where it differs, two rows teach two things, however alike their questions are."""
    turns = [
        [_role(message), "" if message["role"] in ("user", "assistant") else _spaced(message)] for message in record["messages"]
    ]
    return _digest([turns, tools.hex(), answer.hex()])


def _role(message: dict[str, str]) -> str:
    return message["role"].replace("developer", "system")


def _spaced(message: dict[str, str]) -> str:
    return " ".join(message["content"].lower().split())
