"""The public, documented functions of a Python file as tools: their hints and docstrings, to JSON Schema."""

import ast
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calltune import python_file
from calltune.errors import DataError

HINTS = "str, int, float, bool, None, Any, Literal, an Enum of such values, list, dict, a tuple of so many, and unions of them"
"""The type hints that have a JSON Schema."""
_OTHER_STYLES = {
    "NumPy's": re.compile(r"^[ \t]*Parameters[ \t]*\n[ \t]*---", re.MULTILINE),
    "Sphinx's": re.compile(r"^[ \t]*[:@]param\b", re.MULTILINE),
}
_ARGS = re.compile(r"\n[ \t]*Args:[ \t]*\n(?=\s*?([ \t]+)\S)")


def functions_of(path: Path) -> list[dict[str, Any]]:
    """The functions of a file that are tools, as ``{"name", "description", "parameters"}``, in their order.

    The file is imported: its top level runs. No tools are functions whose names begin with `_`, or that it imports.

    Raises:
        DataError: it cannot be imported; it defines a name twice; a function has no hints or no docstring that become a schema.
    """
    # Importing torch-free: transformers' schema helper only reads signatures and docstrings.
    from transformers.utils import get_json_schema

    module = python_file.load(path)
    lines = _require_distinct(path)
    for name, line in lines.items():
        made = vars(module).get(name, inspect)
        if made is inspect:  # it was deleted
            continue
        if not inspect.isfunction(made):
            what = type(made).__name__
            raise DataError(f"{path}, line {line}: function {name!r}: a decorator has made a {what} of it, and no function")
        if made.__name__ != name:
            raise DataError(
                f"{path}, line {line}: function {name!r}: a decorator has made {made.__name__!r} of it, with that name "
                "and docstring; functools.wraps in the decorator would keep its own"
            )
    tools = []
    for name, function in inspect.getmembers(module, inspect.isfunction):
        # What another file's decorator has made of a function is said to be there, too.
        if name.startswith("_") or (name not in lines and function.__module__ != python_file.name_of(path)):
            continue
        line = lines.get(name, function.__code__.co_firstlineno)  # of a decorated one the code is the decorator's
        try:
            if function.__doc__ is not None:
                function.__doc__ = without_types(inspect.cleandoc(function.__doc__))
            tools.append((line, get_json_schema(function)["function"]))
        except Exception as error:  # the hints and the docstring are the user's own: anything can be wrong with them
            wrong = _what_is_wrong(error, function)
            raise DataError(f"{path}, line {line}: function {name!r}: {wrong}") from None
    return [schema for _, schema in sorted(tools, key=lambda pair: pair[0])]


def without_types(docstring: str) -> str:
    """A Google-style docstring whose `Args` have no types: ``isbn (str): The number.`` becomes ``isbn: The number.``.

    The hints say the types, and transformers reads a name only where the colon is right behind it.
    """
    begin = _ARGS.search(docstring)
    if begin is None:
        return docstring
    named = re.compile(rf"^({begin[1]}\w+)[ \t]*(?:\(.*?\))?[ \t]*:(?=\s|$)", re.MULTILINE)
    return docstring[: begin.end()] + named.sub(r"\1:", docstring[begin.end() :])


def _require_distinct(path: Path) -> dict[str, int]:
    """The lines of the public functions. Two of one name are refused: Python keeps the last, the first would just be gone."""
    lines: dict[str, int] = {}
    for one in ast.parse(path.read_bytes()).body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"):
            before = lines.setdefault(one.name, one.lineno)
            if before != one.lineno:
                raise DataError(f"{path}: function {one.name!r} is defined twice, in lines {before} and {one.lineno}; keep one")
    return lines


def _what_is_wrong(error: Exception, function: Callable[..., Any]) -> str:
    """Why a function is no tool, and what would be right; of errors of the hints themselves, what Python says."""
    from transformers.utils import DocstringParsingException, TypeHintParsingException

    text = " ".join(str(error).split())
    undescribed = re.search(r"no description for the argument '(\w+)'", text)
    if undescribed:
        right = f"it needs a line `{undescribed[1]}: what it is` below `Args:`"
        for style, mark in _OTHER_STYLES.items():
            if mark.search(function.__doc__ or ""):
                return f"the docstring's arguments are in {style} style, not in Google's: {right}"
        return f"the docstring does not describe the argument {undescribed[1]!r} as Google style does: {right}"
    if isinstance(error, DocstringParsingException):
        return "no docstring: it needs one that says what it does, with a line for each argument below `Args:`"
    if text.startswith("Argument ") and "missing a type hint" in text:
        return f"argument {text.split()[1]!r} has no type hint, as `name: str` has"
    if isinstance(error, TypeHintParsingException):
        name, hint = _unknown_hint(function)
        return f"argument {name!r}: the type hint {hint} has no JSON Schema; those that have one: {HINTS}"
    return f"{type(error).__name__}: {text}"


def _unknown_hint(function: Callable[..., Any]) -> tuple[str, str]:
    """The first argument whose hint has no JSON Schema, and the hint as it is written."""
    from transformers.utils import TypeHintParsingException, get_json_schema

    def alone(value: Any) -> None:
        """Have one argument.

        Args:
            value: It.
        """

    for name, hint in typing.get_type_hints(function).items():
        alone.__annotations__ = {"value": hint}
        try:
            get_json_schema(alone)
        except TypeHintParsingException:
            return name, inspect.formatannotation(hint, function.__module__)
    raise AssertionError("each hint by itself has a schema, and all together have none")
