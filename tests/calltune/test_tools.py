"""A tools file of the user's own: what comes out of it, and one line for what is wrong with it."""

import re

import pytest

from calltune.errors import DataError
from calltune.tools import load

GOOD = '''"""Tools."""


def second(name: str) -> str:
    """Find a colleague.

    Args:
        name: Whom.
    """


def first() -> str:
    """Say the time."""
'''


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Load a tools file with the given text, by its relative path as in a config."""
    monkeypatch.chdir(tmp_path)

    def run(text):
        (tmp_path / "my").mkdir(exist_ok=True)
        (tmp_path / "my" / "tools.py").write_bytes(text.encode() if isinstance(text, str) else text)
        return load("my/tools.py")

    return run


def test_the_functions_of_a_file_are_its_tools_in_their_order(loaded):
    tools = loaded(GOOD)
    assert [tool["function"]["name"] for tool in tools] == ["second", "first"]
    assert tools[0]["function"]["parameters"]["properties"] == {"name": {"type": "string", "description": "Whom."}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\n\nx = undefined\n", r"line 3: cannot be imported: NameError: name 'undefined' is not defined"),
        ("def f():\n    raise SystemExit(3)\n\nf()\n", r"line 2: cannot be imported: SystemExit: 3"),
        ("import sys\nsys.exit()\n", r"line 2: cannot be imported: SystemExit:"),
        ("def f(:\n    pass\n", r"line 1: cannot be imported: SyntaxError: invalid syntax$"),
        ("x = 1\nif x:\nprint(x)\n", r"line 3: cannot be imported: IndentationError: expected an indented block"),
        ("x = 1\nimport no_such_module\n", r"line 2: cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import json\n\njson.loads('{')\n", r"line 3: cannot be imported: JSONDecodeError: "),
        ("x = 1\nraise ValueError('two\\nlines')\n", r"line 2: cannot be imported: ValueError: two lines"),
        (
            b"x = '\xff'\n",
            r"line 1: cannot be imported: SyntaxError: .*'utf-8' codec can't decode byte 0xff in position 0: invalid start byte$",
        ),
        (b"x = 1\x00\n", r": cannot be imported: \w+Error: source code string cannot contain null bytes"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line_with_file_line_and_error(loaded, text, message):
    with pytest.raises(DataError, match=rf"^my/tools\.py(, )?{message}") as caught:
        loaded(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            'def f(name):\n    """Find.\n\n    Args:\n        name: Whom.\n    """\n',
            "argument 'name' has no type hint, as `name: str` has$",
        ),
        ("def f(name: str):\n    pass\n", "no docstring: it needs one that says what it does, with .* `Args:`$"),
        (
            'def f(name: str):\n    """Find."""\n',
            "the docstring has no description for the argument 'name': it needs .* `Args:`$",
        ),
        ('def f(name: \'Nobody\'):\n    """Find.\n\n    Args:\n        name: Whom.\n    """\n', "NameError: name 'Nobody'"),
    ],
)
def test_a_function_that_is_no_tool_is_one_line_with_its_line(loaded, function, message):
    with pytest.raises(DataError, match=rf"^my/tools\.py, line 3: function 'f': {message}") as caught:
        loaded(f"x = 1\n\n{function}")
    assert not re.search(r"\n", str(caught.value))
