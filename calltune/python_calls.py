"""Calls written as Python writes them: `find_employee(name="Ana")`. Read as a syntax tree; nothing is ever run."""

import ast
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from calltune.records import Call, once

T = TypeVar("T")

LONGEST_INTEGER = 14_000
"""Bits: Python reads a longer one in hex, and then cannot print it, since it has more than 4,300 digits."""


def read_calls(text: str) -> list[Call]:
    """Read one call, or a list of calls.

    Args:
        text: ``f(a=1, b="x")`` or ``[f(a=1), g()]``; a name may have dots.

    Raises:
        ValueError: it is something else, or a value is not one that JSON can hold; with the reason.
    """
    return _read(text, lambda tree: [_call(node) for node in (tree.elts if isinstance(tree, ast.List) else [tree])])


def read_value(text: str) -> Any:
    """Read one value that JSON can hold: ``{'name': 'f', 'arguments': {'a': None}}``.

    Raises:
        ValueError: as :func:`read_calls`.
    """
    return _read(text, _value)


def _read(text: str, read: Callable[[ast.expr], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's invalid escape is no concern of the user's
            tree = ast.parse(text.strip(), mode="eval").body
        return read(tree)
    except SyntaxError as error:
        raise ValueError(f"the call is not Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the call is not Python: nested too deeply") from None


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call):
        raise ValueError("a call must be name(argument=value)")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("every argument of a call needs its name")
    # Python itself refuses an argument that is given twice, though not when it only reads the tree.
    arguments = once([(str(keyword.arg), _value(keyword.value)) for keyword in node.keywords])
    return {"name": _name(node.func), "arguments": arguments}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("a call needs a name")


def _value(node: ast.expr | None) -> Any:
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("the keys of an object must be strings")
        return once(list(zip(keys, map(_value, node.values), strict=True)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if type(number) in (int, float):
            return -number
    if isinstance(node, ast.Constant):
        if type(node.value) is int and node.value.bit_length() > LONGEST_INTEGER:
            raise ValueError(f"{hex(node.value)[:20]}… is out of range")
        if isinstance(node.value, str):
            node.value.encode()  # a surrogate alone makes a string that no file can hold: a UnicodeError is a ValueError
            return node.value
        if (
            node.value is None
            or isinstance(node.value, bool | int)
            or (isinstance(node.value, float) and math.isfinite(node.value))
        ):
            return node.value
    raise ValueError("a value must be text, a number, True, False, None, a list or a dict")
