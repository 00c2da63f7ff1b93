"""A folder of documents that can be searched: what `search_knowledge_base` finds when an application is played through."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calltune.errors import DataError
from calltune.input_files import text_of, within
from calltune.likeness import words

KINDS = (".md", ".txt")
RESULTS = 3
"""Passages that a search finds at most."""
PASSAGE_WORDS = 120
"""Paragraphs are put together up to this length, so that three results fit into a small model's window."""


@dataclass(frozen=True)
class Passage:
    """A part of a document.

    Attributes:
        document: the file's name in the folder, ``travel/expenses.md``.
        text: some of its paragraphs.
    """

    document: str
    text: str


class Knowledge:
    """The documents of a folder, indexed once: each file below it that ends in `.md` or `.txt` is one.

    Attributes:
        documents: their names.
        passages: what is searched.

    Raises:
        DataError: there is no document, one is no text in UTF-8, or there is not a word in any.
    """

    def __init__(self, folder: Path) -> None:
        files = {name: file for name, file in within(folder) if file.suffix in KINDS}
        if not files:
            raise DataError(f"{folder}: no document in it: a file that ends in {' or '.join(KINDS)}")
        self.documents = list(files)
        self.passages = [Passage(name, text) for name, file in files.items() for text in _passages(text_of(file))]
        # Without a list of stop words or a stemmer, which are of one language: how rare a word is, is weighed as it is.
        known = [words(passage.text) for passage in self.passages]
        if not any(known):
            raise DataError(f"{folder}: no word in its documents")
        from bm25s import BM25

        self._index = BM25()
        self._index.index(known, show_progress=False)

    def search(self, query: str) -> list[Passage]:
        """The passages that fit best, by BM25, best first; none that has no word of the query."""
        asked = words(query)
        if not asked:
            return []
        scores = self._index.get_scores(asked)
        # Of two with the same score the first in the folder, wherever this runs.
        order = sorted(range(len(scores)), key=lambda number: (-scores[number], number))
        return [self.passages[number] for number in order[:RESULTS] if scores[number] > 0]


def _passages(text: str) -> Iterator[str]:
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if held and len(" ".join([*held, paragraph]).split()) > PASSAGE_WORDS:
            yield "\n\n".join(held)
            held = []
        held.append(paragraph)
    yield "\n\n".join(held)
