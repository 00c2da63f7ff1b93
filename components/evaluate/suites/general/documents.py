"""The documents of a held-out text, read without what computes their loss: `calltune check` looks at them, too."""

import re
from pathlib import Path

from calltune.errors import DataError
from calltune.input_files import text_of


def documents(file: Path) -> list[str]:
    """The documents of a text file: what stands between blank lines.

    Raises:
        DataError: it is no file that can be read, or no text in UTF-8, or there is nothing in it.
    """
    found = [document.strip() for document in re.split(r"\n\s*\n", text_of(file))]
    kept = [document for document in found if document]
    if not kept:
        raise DataError(f"{file}: no text in it")
    return kept
