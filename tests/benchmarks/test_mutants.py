"""What counts as a change, and that one which breaks the code is told from one that does not. The tools are not run."""

import subprocess
import sys

import pytest

from benchmarks import mutants


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ('"""One text."""', '"""Another text."""', True),
        ("x: int = 1", "x: str = 1", True),
        ("def f(x: int) -> int: return x", "def f(x: str) -> None: return x", True),
        ('raise ValueError(f"it is {x}")', 'raise ValueError(f"XXit isXX {x}")', True),
        ('raise ValueError(f"it is {x}")', 'raise ValueError(f"it is {y}")', False),
        ('found["key"]', 'found["KEY"]', False),
        ("def f(x=1): return x", "def f(x=2): return x", False),
        ("x < 1", "x <= 1", False),
    ],
)
def test_a_change_of_prose_or_annotations_is_none(before: str, after: str, same: bool) -> None:
    assert (mutants._behaviour(before) == mutants._behaviour(after)) is same


RUN = """
from benchmarks import mutants
one = "return value == gold", "return value != gold"
mutants.mutants = lambda code, file: [code.replace(*one), code.replace("any(", "all("), "import nothing_of_that_name", code + "#"]
mutants.main()
"""


def test_a_change_that_no_test_notices_is_shown_and_counted() -> None:
    command = [sys.executable, "-c", RUN, "calltune/match.py"]
    done = subprocess.run(command, cwd=mutants.REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "calltune/match.py: 75.0% killed: {'killed': 3, 'survived': 1}" in done.stdout
    assert done.stdout.count("survived\n@@") == 1
