"""The KFP adapters: nothing in them but the call, and nothing heavy before the step has said that it begins."""

import ast
from pathlib import Path

import pytest

COMPONENTS = sorted((Path(__file__).parents[2] / "components").glob("*/component.py"))
STATEMENTS = 10


def steps_of(file):
    """The functions of a component file that report as a step, `due` left out."""
    functions = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return [one for one in functions if any(isinstance(statement, ast.With) for statement in one.body)]


def test_every_step_has_an_adapter():
    assert len(COMPONENTS) == 10 and all(len(steps_of(file)) == 1 for file in COMPONENTS)


@pytest.mark.parametrize("file", COMPONENTS, ids=lambda file: file.parent.name)
def test_an_adapter_is_ten_statements_at_most(file):
    (step,) = steps_of(file)
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(step)) - 2 <= STATEMENTS  # itself and its docstring


@pytest.mark.parametrize("file", COMPONENTS, ids=lambda file: file.parent.name)
def test_a_step_says_that_it_begins_before_it_imports_its_libraries(file):
    (step,) = steps_of(file)
    before = step.body[1 : [isinstance(statement, ast.With) for statement in step.body].index(True)]
    assert {ast.unparse(statement) for statement in before} <= {"from pathlib import Path", "from calltune import runtime"}
