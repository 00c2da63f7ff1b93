"""A Python file of the user's own, imported: its code runs. Imports nothing slow, since a process for each call does this."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from calltune.errors import DataError


def name_of(path: Path) -> str:
    """The name of the module that a file becomes: its own functions have it as their `__module__`."""
    return f"calltune_tools_{path.stem}"


def load(path: Path) -> ModuleType:
    """Run the file and return its module.

    Raises:
        DataError: it is no Python file, or something came out of it as it ran: what, and from which line.
    """
    spec = importlib.util.spec_from_file_location(name_of(path), path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code: anything can come out of it
        line, text = _place_and_text(spec.origin, error)
        where = f"{path}, line {line}" if line else str(path)
        raise DataError(f"{where}: cannot be imported: {type(error).__name__}: {' '.join(text.split())}") from None
    return module


def _place_and_text(file: str | None, error: BaseException) -> tuple[int | None, str]:
    """The line of a file from which an error came, None where none can be named, and what the error says."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno, error.msg
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else None, str(error)
