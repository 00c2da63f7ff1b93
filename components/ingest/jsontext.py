"""The values in a JSON text, one after the other: JSON lines or one JSON array, always UTF-8."""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from calltune.errors import DataError

CHUNK_BYTES = 1 << 20
_ARRAY = "a JSON array in a file whose name ends in .json"
# How near to the end of what has been read a JSON error can still come from a value that goes on beyond it: `\u00e` or `-1.5e`.
_TAIL = 16


@dataclass(frozen=True)
class RawRow:
    """One row as the source has it.

    Attributes:
        uri: the file or object.
        row: its line in a JSON lines file, its place in any other; from 1.
        text: its JSON, or what should be.
        done: how much of the source has been read with it, in the source's unit.
        problem: rule and message, where already its file makes the row unusable.
    """

    uri: str
    row: int
    text: str
    done: int
    problem: tuple[str, str] | None = None

    def place(self, source: str) -> str:
        """Which row it is in messages about a source: with its file, where that is not the source itself."""
        return f"row {self.row}" if self.uri == source else f"row {self.row} of {self.uri}"


def lines(file: BinaryIO, uri: str, offset: int = 0) -> Iterator[RawRow]:
    """Yield the lines that are not blank; `done` counts the bytes, from the `offset` where the file stands.

    In the text of a line that is not UTF-8, which has that problem, the bytes that are none stand as escapes: ``Jos\\xe9``.
    """
    for number, line in enumerate(file, 1):
        try:
            text, problem = line.decode("utf-8").strip(), None
        except UnicodeDecodeError as error:
            text = line.decode("utf-8", "backslashreplace").strip()
            problem = "not_utf8", not_utf8(offset + error.start, line[error.start])
        offset += len(line)
        if text:
            yield RawRow(uri, number, text, offset, problem or _more_than_a_line(text, number))


def _more_than_a_line(text: str, number: int) -> tuple[str, str] | None:
    """Rule and message of a line that shows that the file is no JSON lines."""
    if text == "{":
        inside = "; where the object holds the rows in a list, that list by itself" if number == 1 else ""
        return "not_json", f"the row is an object over several lines: one a line, or {_ARRAY} would be right{inside}"
    if text == "[" or (number == 1 and text.startswith("[") and text.endswith("]")):
        return "not_an_object", f"a row must be a JSON object, not a list: one a line, or {_ARRAY} would be right"
    return None


def hint(text: str, error: ValueError) -> str:
    """What would be right where the JSON of a text is wrong in a way that tells what was meant; else nothing."""
    if not isinstance(error, json.JSONDecodeError):
        return ""
    rest = text[error.pos :]
    if error.msg == "Extra data" and rest.strip() == ",":
        return ": one object a line, without a comma behind it, would be right"
    # Of `{'a': 1}` some versions point at the quote, others at the brace before it.
    if rest.removeprefix("{").lstrip().startswith("'") or re.match(r"(None|True|False)\b", rest):
        return ": it looks like Python; JSON, as json.dumps writes it, has double quotes, and null, true and false"
    return ""


def array(file: BinaryIO, uri: str, offset: int = 0) -> Iterator[RawRow]:
    """Yield the elements of a JSON array without holding more of it than the one at hand.

    A broken array, unlike a broken line, does not say where its next row begins: it is refused as a whole.

    Raises:
        DataError: it is broken, or not UTF-8.
    """
    text = _Window(file, uri, offset)
    text.skip("[")
    row, closed = 0, text.next() == "]"
    while not closed:
        element = text.value()
        row += 1
        yield RawRow(uri, row, element, text.offset)
        if text.next() not in (",", "]"):
            raise text.error("a comma or the end of the array should follow")
        closed = text.next() == "]"
        if not closed:
            text.skip(",")
    text.skip("]")
    if text.next():
        raise text.error("something follows the end of the array")


class _Window:
    """The part of a JSON text that is being read: grows until the next value fits, and forgets what is behind.

    Attributes:
        offset: bytes read from the file.
        line: the line in which `text` begins.
        before: letters of this line that have been forgotten.
    """

    def __init__(self, file: BinaryIO, uri: str, offset: int) -> None:
        self.file, self.uri, self.offset = file, uri, offset
        self.utf8 = codecs.getincrementaldecoder("utf-8")()
        self.json = json.JSONDecoder()
        self.text, self.position, self.line, self.before, self.ended = "", 0, 1, 0, False

    def next(self) -> str:
        """The next letter that is not a space, left in place; empty at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.text) or not self._grow():
                return self.text[self.position : self.position + 1]

    def skip(self, letter: str) -> None:
        """Pass over a letter that is known to be next."""
        self.next()
        self.position += len(letter)

    def value(self) -> str:
        """The text of the next JSON value, passed over."""
        self.next()
        while True:
            try:
                _, end = self.json.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos + _TAIL >= len(self.text)
                if not cut_off or not self._grow():
                    raise self.error(f"not JSON: {error.msg}{hint(self.text, error)}", error.pos) from None
            except (RecursionError, ValueError) as error:
                raise self.error(f"not JSON: {error}") from None
            else:
                # A number that ends where the text ends may go on; so may anything else that is no object.
                if end < len(self.text) or not self._grow():
                    start, self.position = self.position, end
                    return self.text[start:end]

    def error(self, message: str, position: int | None = None) -> DataError:
        """What is wrong, with the place where it is."""
        position = self.position if position is None else position
        line = self.line + self.text.count("\n", 0, position)
        begin = self.text.rfind("\n", 0, position) + 1
        character = position - begin + 1 + (0 if begin else self.before)
        cut = "" if self.text[position:].strip() or not self.ended else ", and the file ends there"
        return DataError(
            f"{self.uri}, line {line}, character {character}: {message}{cut}; "
            "a JSON array is read whole or not at all (JSON lines are not)"
        )

    def _grow(self) -> bool:
        """Read on, and forget what has been passed; at the end of the file false, and nothing is forgotten."""
        if self.ended:
            return False
        # Doubling keeps a value of any length linear in cost, although it is decoded anew each time.
        chunk = self.file.read(max(CHUNK_BYTES, len(self.text) - self.position))
        self.offset += len(chunk)
        self.ended = not chunk
        try:
            more = self.utf8.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            at = self.offset - len(error.object) + error.start
            raise DataError(f"{self.uri}: {not_utf8(at, error.object[error.start])}") from None
        if not self.ended:
            begin = self.text.rfind("\n", 0, self.position) + 1
            self.line += self.text.count("\n", 0, self.position)
            self.before = self.position - begin + (0 if begin else self.before)
            self.text, self.position = self.text[self.position :] + more, 0
        return not self.ended


def not_utf8(offset: int, byte: int, right: str = "JSON lines or a JSON array") -> str:
    """What is wrong with a byte that no UTF-8 text has there, counted from the file's beginning."""
    return f"byte {offset} of the file: not UTF-8 (0x{byte:02x}); {right} in UTF-8 would be right"
