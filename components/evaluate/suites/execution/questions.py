"""What the suite `execution` asks and with what: its questions, the tools' schemas, and the documents that are searched."""

import difflib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from calltune.errors import DataError
from calltune.input_files import text_of
from calltune.records import Message, Tool, canonical, once
from calltune.settings import Settings
from calltune.validate import problem
from components.evaluate.config import ExecutionConfig
from components.evaluate.suites.execution import tool_process
from components.evaluate.suites.execution.knowledge import Knowledge

SEARCH = "search_knowledge_base"
"""The tool that searches the documents."""
QUERY = "query"
"""The argument of it that says what for. Its others, such as a department, are checked as of any tool, and change nothing."""


class Question(Settings):
    """A row of the questions file.

    {"question": "How long is parental leave?", "document": "parental-leave.md", "answer_contains": ["16 weeks"]}
    """

    question: str = ""
    """What the user asks."""
    messages: list[dict[str, Any]] = []
    """In its place: the turns up to where the model answers, as records have them, a system message first where there is one."""
    document: str = ""
    """The document that a search should find; empty: not judged."""
    answer_contains: list[str] = []
    """What the final answer must have in it, all of these; empty: not judged."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> "Question":
        if bool(self.question.strip()) == bool(self.messages):
            raise ValueError("a row needs either a question or messages")
        if not all(wanted.strip() for wanted in self.answer_contains):
            raise ValueError("answer_contains has an empty text, which every answer contains")
        return self

    @property
    def prompt(self) -> list[Message]:
        """The messages that the model is asked with."""
        return self.messages or [{"role": "user", "content": self.question}]


@dataclass(frozen=True)
class Prepared:
    """All that is asked, read and checked.

    Attributes:
        questions: by their number in the file, from 1.
        tools: in the OpenAI form.
        knowledge: the documents; None where there are none.
    """

    questions: dict[str, Question]
    tools: list[Tool]
    knowledge: Knowledge | None

    @cached_property
    def measures(self) -> list[str]:
        """What is measured: the last two only where a row says what would be right."""
        names = ["success", "finished"]
        names += ["retrieved"] * any(one.document for one in self.questions.values())
        names += ["answered"] * any(one.answer_contains for one in self.questions.values())
        return [f"execution.{name}" for name in names]


def prepare(settings: ExecutionConfig) -> Prepared:
    """Read the suite's files, which are on this machine; the tools file runs, in a process of its own.

    Raises:
        DataError: a file cannot be used, or does not fit the others.
    """
    tools = tool_process.describe(Path(settings.tools))
    knowledge = Knowledge(Path(settings.documents)) if settings.documents else None
    if knowledge is not None:
        _require_search(tools, settings)
    file = Path(settings.questions)
    questions: dict[str, Question] = {}
    seen: dict[str, int] = {}
    # Not splitlines, for which some letters inside of a JSON string end a line, too.
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        question = _question(f"{file}, line {number}", line, tools, knowledge)
        # Asked twice, a question would count twice, and the interval would be narrower than it is.
        before = seen.setdefault(canonical(question.prompt), number)
        if before != number:
            raise DataError(f"{file}, line {number}: asks the same as line {before}")
        questions[str(number)] = question
    if not questions:
        raise DataError(f"{file}: no questions in it")
    return Prepared(questions, tools, knowledge)


def _require_search(tools: list[Tool], settings: ExecutionConfig) -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in tools}
    if SEARCH not in schemas:
        raise DataError(f"evaluate.execution.documents: {settings.tools} has no function {SEARCH}, which would search them")
    if schemas[SEARCH].get(QUERY, {}).get("type") != "string":
        raise DataError(f"evaluate.execution.documents: {SEARCH} in {settings.tools} needs an argument `{QUERY}: str`")


def _question(where: str, line: str, tools: list[Tool], knowledge: Knowledge | None) -> Question:
    try:
        row = json.loads(line, object_pairs_hook=once)
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair, an escape such as \ud83d alone, is no text
        question = Question.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {f'{place}: ' if place else ''}{first['msg'].removeprefix('Value error, ')}") from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair (an escape such as \\ud83d alone) is no text") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    # As a row of the data: whatever answer would follow.
    wrong = problem({"messages": [*question.prompt, {"role": "assistant", "content": "…"}], "tools": tools})
    if wrong is not None:
        raise DataError(f"{where}: {wrong[1]}")
    if question.document and knowledge is None:
        raise DataError(f"{where}: names a document, and evaluate.execution.documents is not set")
    if question.document and knowledge is not None and question.document not in knowledge.documents:
        near = difflib.get_close_matches(question.document, knowledge.documents, n=1, cutoff=0.0)[0]
        raise DataError(f"{where}: there is no document {question.document!r}; the nearest is {near!r}")
    return question
