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
            "the docstring does not describe the argument 'name' as Google style does: "
            "it needs a line `name: what it is` below `Args:`$",
        ),
        (
            'def f(name: str):\n    """Find.\n\n    Parameters\n    ----------\n    name : str\n        Whom.\n    """\n',
            "the docstring's arguments are in NumPy's style, not in Google's: it needs a line `name: what it is` below `Args:`$",
        ),
        (
            'def f(name: str):\n    """Find.\n\n    :param name: Whom.\n    """\n',
            "the docstring's arguments are in Sphinx's style, not in Google's: it needs a line `name: what it is`",
        ),
        (
            'def f(a: int, day: "list[datetime.date]"):\n    """Find.\n\n    Args:\n        a: A.\n        day: On.\n    """\n'
            "import datetime\n",
            r"argument 'day': the type hint list\[datetime.date\] has no JSON Schema; those that have one: str, int,",
        ),
        (
            'class Size(dict): pass\ndef f(a: Size):\n    """Find.\n\n    Args:\n        a: It.\n    """\n',
            "argument 'a': the type hint Size has no JSON Schema",
        ),
        ('def f(name: \'Nobody\'):\n    """Find.\n\n    Args:\n        name: Whom.\n    """\n', "NameError: name 'Nobody'"),
    ],
)
def test_a_function_that_is_no_tool_is_one_line_with_its_line(loaded, function, message):
    with pytest.raises(DataError, match=rf"^my/tools\.py, line [34]: function 'f': {message}") as caught:
        loaded(f"x = 1\n\n{function}")
    assert not re.search(r"\n", str(caught.value))


def test_two_functions_of_one_name_are_refused_and_not_the_last_one_taken(loaded):
    again = GOOD.replace("Find a colleague", "Find a book")
    with pytest.raises(DataError, match=r"^my/tools\.py: function 'second' is defined twice, in lines 4 and 19; keep one$"):
        loaded(GOOD + "\n\n" + again)


def test_a_private_function_may_be_defined_twice(loaded):
    assert len(loaded(GOOD + "\n\ndef _f(): pass\n\n\ndef _f(): pass\n")) == 2


def test_a_google_style_docstring_may_have_types(loaded):
    (tool,) = loaded(
        "def find(isbn: str, author: str | None = None, n: int = 1, tags: list[str] = []):\n"
        '    """Find a book (or two): any.\n\n    Args:\n        isbn (str): The ISBN (its number): 13 digits,\n'
        "            author (if any): not here.\n        author (Optional[str], optional): Who wrote it.\n        n : How many.\n"
        "        tags (list(str)):\n            What for.\n\n    Returns:\n        dict (str): It.\n"
        '    """\n'
    )
    assert tool["function"]["description"] == "Find a book (or two): any."
    assert {name: one["description"] for name, one in tool["function"]["parameters"]["properties"].items()} == {
        "isbn": "The ISBN (its number): 13 digits, author (if any): not here.",
        "author": "Who wrote it.",
        "n": "How many.",
        "tags": "What for.",
    }


def test_a_function_of_which_a_decorator_makes_something_else_is_not_left_out_in_silence(loaded):
    text = GOOD.replace('"""Tools."""', "from functools import cache").replace("def first", "@cache\ndef first")
    with pytest.raises(
        DataError, match=r"^my/tools\.py, line 13: function 'first': a decorator has made a _lru_cache_wrapper of it"
    ):
        loaded(text)
    assert len(loaded(GOOD + "\n\ndef third(): ...\n\n\ndel third\n")) == 2
    made_elsewhere = "from inspect import unwrap\n\n\ndef _hidden(f):\n    return unwrap\n"
    with pytest.raises(DataError, match=r"^my/tools\.py, line \d+: function 'first': "):
        loaded(made_elsewhere + GOOD.replace("def first", "@_hidden\ndef first"))


WRAPS = """
def _kept(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

def _other(function):
    def wrapper():
        \"\"\"Wrap.\"\"\"
        return function()
    return wrapper

def _nothing(function):
    pass
"""


def test_a_decorated_function_keeps_its_own_name_and_place_or_is_refused(loaded):
    text = GOOD.replace('"""Tools."""', f"import functools\n{WRAPS}")
    names = [tool["function"]["name"] for tool in loaded(text.replace("def first", "@_kept\ndef first"))]
    assert names == [tool["function"]["name"] for tool in loaded(GOOD)]
    with pytest.raises(DataError, match=r"line \d+: function 'first': a decorator has made 'wrapper' of it, .*functools\.wraps"):
        loaded(text.replace("def first", "@_other\ndef first"))
    with pytest.raises(DataError, match=r"function 'first': a decorator has made a NoneType of it"):
        loaded(text.replace("def first", "@_nothing\ndef first"))
