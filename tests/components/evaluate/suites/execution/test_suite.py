"""The suite `execution`: real calls, a real search, and a small real model that was taught how each conversation goes."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from calltune import models
from calltune.errors import DataError
from calltune.records import question_sha256
from calltune.render import TEMPLATES, Renderer, prompt_ids, token_ids
from components.evaluate import measuring
from components.evaluate.config import EvaluateConfig, ExecutionConfig
from components.evaluate.served import Served
from components.evaluate.suites.details import Details
from components.evaluate.suites.execution import suite, tool_process
from components.evaluate.suites.execution.questions import prepare

EXAMPLE = Path(__file__).parents[5] / "examples" / "helpdesk"
STEPS = 300
OTHERS = 2_000
TIMEOUT_S = 5
NEW_TOKENS = 72
TOOLS = '''
def search_knowledge_base(query: str) -> str:
    """Search.

    Args:
        query: What for.
    """
    raise RuntimeError("the documents are searched in its place")


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def fails() -> str:
    """Fail."""
    raise ValueError("no")


def takes_long() -> str:
    """Take long."""
    import time

    time.sleep(100)
'''
LEAVE, CARS = "Annual leave is 27 days a year.", "A pool car must be back by 18:00."
FOUND = {name: json.dumps([{"document": f"{name}.md", "text": text}]) for name, text in (("leave", LEAVE), ("cars", CARS))}


def calls(*called):
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in called],
    }


def result(text):
    return {"role": "tool", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


SEARCH, ADD, AGAIN = "search_knowledge_base", "add", calls(("add", {"a": 1, "b": 1}))
CONVERSATIONS = {
    "Leave, how much of it?": [calls((SEARCH, {"query": "annual leave"})), result(FOUND["leave"]), says("You get 27 days.")],
    "When must a car be back?": [calls((SEARCH, {"query": "leave"})), result(FOUND["leave"]), says("By noon.")],
    "Two and three?": [calls((ADD, {"a": 2, "b": 3})), result("5"), says("It is 5.")],
    "Please fail.": [calls(("fails", {})), result("error: ValueError: no"), says("It failed.")],
    "Please take long.": [calls(("takes_long", {})), result(f"error: not done after {TIMEOUT_S} s"), says("Too long.")],
    "Add words.": [
        calls((ADD, {"a": "two", "b": 3})),
        result('error: add.a: must be of type integer, not the string "two"'),
        says("I cannot."),
    ],
    "Never end.": [AGAIN, result("2"), AGAIN, result("2"), AGAIN],
    "Break off.": [says('<tool_call>\n{"name": "add"')],
    "Say hello.": [says("Hello there.")],
    "Leave and a sum?": [
        calls((SEARCH, {"query": "leave days"}), (ADD, {"a": 1, "b": 4})),
        result(FOUND["leave"]),
        result("5"),
        says("27 days, and 5."),
    ],
    "Count.": [says(" ".join(3 * "abcdefghijklmnopqrstuvwxyz"))],
}
ROWS = [
    {"question": "Leave, how much of it?", "document": "leave.md", "answer_contains": ["27 days"]},
    {"question": "When must a car be back?", "document": "cars.md", "answer_contains": ["18:00"]},
    {"question": "Two and three?", "answer_contains": ["5"]},
    {"question": "Please fail.", "answer_contains": ["failed"]},
    {"question": "Add words."},
    {"question": "Never end.", "answer_contains": ["2"]},
    {"question": "Break off."},
    {"messages": [{"role": "user", "content": "Say hello."}], "answer_contains": ["HELLO"]},
    {"question": "Leave and a sum?", "document": "leave.md", "answer_contains": ["27", "5"]},
    {"question": "Count.", "answer_contains": ["a b c"]},
]


def prompted(row):
    return row["question"] if "question" in row else row["messages"][0]["content"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tools, the documents and the questions."""
    folder = tmp_path_factory.mktemp("execution")
    (folder / "tools.py").write_text(TOOLS)
    (folder / "documents").mkdir()
    (folder / "documents" / "leave.md").write_text(LEAVE)
    (folder / "documents" / "cars.md").write_text(CARS)
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture(scope="module")
def settings(place):
    return ExecutionConfig(
        questions=str(place / "questions.jsonl"),
        tools=str(place / "tools.py"),
        documents=str(place / "documents"),
        timeout_s=120,
        max_turns=3,
        max_new_tokens=NEW_TOKENS,
    )


@pytest.fixture(scope="module")
def taught(tiny_model, settings, tmp_path_factory):
    """The tiny model, trained until it has learnt the conversations by heart."""
    tokenizer, tools = models.tokenizer(tiny_model), prepare(settings).tools
    renderer = Renderer(tokenizer, TEMPLATES["hermes"])
    rows = []
    for question, turns in CONVERSATIONS.items():
        messages = [{"role": "user", "content": question}, *turns]
        ids = torch.tensor(token_ids(tokenizer, messages, tools))
        learnt = torch.zeros(len(ids), dtype=torch.bool)
        for number in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            start = len(prompt_ids(tokenizer, messages[:number], tools))
            end = next(n for n in range(start, len(ids)) if ids[n] in renderer.stop_ids)
            learnt[start : end + 1] = True
        rows.append((ids, learnt))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.stack([torch.cat([ids, ids.new_zeros(longest - len(ids))]) for ids, _ in rows])
    learnt = torch.stack([torch.cat([learnt, learnt.new_zeros(longest - len(learnt))]) for _, learnt in rows])
    inputs, wanted = ids[:, :-1], ids[:, 1:][learnt[:, 1:]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.load(tiny_model, dtype=torch.float32).train()
        # Of the words that are never an answer some are enough to learn from: all 49,152 would take a minute.
        words = torch.cat([wanted, torch.randint(len(tokenizer), (OTHERS,))]).unique()
        places = torch.searchsorted(words, wanted)
        optimiser = torch.optim.Adam(network.parameters(), lr=4e-3)
        for _ in range(STEPS):
            hidden = network.model(input_ids=inputs).last_hidden_state[learnt[:, 1:]]
            loss = cross_entropy(hidden @ network.lm_head.weight[words].T, places)
            if loss < 0.01:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.inference_mode():
        hidden = network.eval().model(input_ids=inputs).last_hidden_state[learnt[:, 1:]]
        assert (network.lm_head(hidden).argmax(dim=-1) == wanted).all(), "it knows them by heart"
    folder = tmp_path_factory.mktemp("taught")
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Served(models.ModelFolder(folder), tokenizer, "hermes", renderer.stop_ids, {"which": "candidate"})


def measured(served, settings):
    """The measures of a model, and the rows that a person can read."""
    with tempfile.TemporaryDirectory() as folder:
        details = Details(None, "", Path(folder) / "execution.jsonl")
        found = suite.measures(served, settings, details)
        return found, [json.loads(line) for line in details.file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def played(taught, settings, tmp_path_factory):
    """The measures as `metrics.json` has them, the conversations by number, and a function that measures again."""
    place = tmp_path_factory.mktemp("played")

    def measure():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CALLTUNE_STORAGE", str(place / "store"))
            patch.setenv("CALLTUNE_EVENTS", str(place / "events.jsonl"))
            return measuring.measured(taught, EvaluateConfig(execution=settings), "code")

    found = measure()
    (file,) = (place / "store" / "evaluations" / "suites").glob("*.jsonl")
    return found, {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}, measure


def test_conversations_go_as_they_were_taught_to_the_letter(played):
    for number, row in played[1].items():
        question = row["messages"][0]["content"]
        assert question == prompted(ROWS[int(number) - 1])
        if question != "Count.":
            after = [result("2")] * (question == "Never end.")
            assert row["messages"][1:] == [*CONVERSATIONS[question], *after], question


def test_what_becomes_of_the_calls_is_counted_question_by_question(played):
    found, rows, _ = played
    assert list(found) == [f"execution.{name}" for name in ("success", "finished", "retrieved", "answered")]
    right = {name.removeprefix("execution."): {id_ for id_, one in found[name]["items"].items() if one} for name in found}
    assert right["success"] == {"1", "2", "3", "6", "9"}, "a question to which nothing was called is none"
    assert right["finished"] == {"1", "2", "3", "4", "5", "8", "9"}
    assert right["retrieved"] == {"1", "9"} and set(found["execution.retrieved"]["items"]) == {"1", "2", "9"}
    assert right["answered"] == {"1", "3", "4", "8", "9", "10"}
    assert set(found["execution.answered"]["items"]) == {"1", "2", "3", "4", "6", "8", "9", "10"}
    failed = {id_: [call["failed"] for call in row["calls"]] for id_, row in rows.items()}
    assert (failed["4"], failed["5"], failed["7"]) == (["raised"], ["invalid"], [])
    assert (failed["6"], failed["9"]) == ([None] * 3, [None] * 2)
    ends = {id_: row["ended"] for id_, row in rows.items() if row["ended"] != suite.ANSWER}
    assert ends == {"6": "max_turns reached", "7": "malformed", "10": "cut off"}


def test_a_measure_has_its_interval_is_kept_in_the_store_and_the_gate_takes_it(played, monkeypatch):
    from components.gate.config import GateConfig
    from components.gate.suites import checks

    once, _, measure = played
    monkeypatch.setattr(suite, "measures", None)
    assert measure() == once, "the second time it is taken from the store"
    retrieved = once["execution.retrieved"]
    assert retrieved["n"] == 3 and retrieved["low"] < retrieved["value"] == 2 / 3 < retrieved["high"]

    sides = {"suites": once}, {"suites": once}
    conditions = GateConfig(suites={"execution.retrieved": 0.6}, regression={"execution.answered": 0.05}, min_questions=1)
    assert all(check.passed for check in checks(*sides, conditions))
    asked = GateConfig(suites={"execution.retrieved": 0.7, "execution.success": 0.4}, min_questions=1)
    failing = [check.name for check in checks(*sides, asked) if not check.passed]
    assert failing == ["suite: execution.retrieved"]
    without = {"suites": {name: one for name, one in once.items() if name != "execution.retrieved"}}
    asked = GateConfig(suites={"execution.retrieved": 0.1}, min_questions=1)
    reasons = [check.reason for check in checks(without, None, asked) if not check.passed]
    assert "cannot be judged: execution.retrieved was not measured." in reasons


@pytest.fixture
def asked_alone(taught, settings, tmp_path):
    """A function that asks one question of a copy of the taught model in which files were changed; returns its conversation."""

    def play(row, timeout_s=120, **changed):
        folder = tmp_path / "copy"
        shutil.copytree(taught.folder.path, folder)
        for name, text in changed.items():
            (folder / f"{name}.json").write_text(text)
        questions = tmp_path / "questions.jsonl"
        questions.write_text(json.dumps(row) + "\n")
        there = Served(models.ModelFolder(folder), taught.tokenizer, "hermes", taught.stop_ids, {"which": "candidate"})
        asked = settings.model_copy(update={"questions": str(questions), "timeout_s": timeout_s})
        return measured(there, asked)[1][0]

    return play


def test_a_call_whose_time_is_over_is_a_result_like_any_other(asked_alone):
    row = asked_alone({"question": "Please take long."}, TIMEOUT_S)
    assert row["messages"][1:] == CONVERSATIONS["Please take long."]
    assert [call["failed"] for call in row["calls"]] == ["timed out"]
    assert (row["execution.success"], row["execution.finished"]) == (0, 1)


def test_a_conversation_that_outgrows_the_models_window_ends_there(taught, settings, asked_alone):
    prompt = prompt_ids(taught.tokenizer, [{"role": "user", "content": ROWS[0]["question"]}], prepare(settings).tools)
    config = json.loads((taught.folder.path / "config.json").read_text())
    # Room for the first answer, and not for what the search has found.
    config["max_position_embeddings"] = len(prompt) + NEW_TOKENS + 8
    row = asked_alone(ROWS[0], config=json.dumps(config))
    assert row["ended"] == "too long for the model"
    assert [row[f"execution.{name}"] for name in ("success", "finished", "retrieved", "answered")] == [1, 0, 1, 0]


def test_a_question_that_the_model_was_trained_on_is_named(asked_alone, tmp_path):
    learnt = question_sha256({"messages": [{"role": "user", "content": ROWS[0]["question"]}]})
    assert asked_alone(ROWS[0], trained_on=json.dumps([learnt]))["ended"] == suite.ANSWER
    said = (tmp_path / "events.jsonl").read_text()
    assert "evaluate candidate: execution: the model was trained on the question in line 1" in said


@pytest.mark.slow
def test_the_bundled_model_plays_the_example_through(base_folder, tokenizer, tmp_path):
    renderer = Renderer(tokenizer, TEMPLATES["hermes"])
    lines = (EXAMPLE / "execution.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "questions.jsonl").write_text("\n".join([lines[0], lines[-1]]), encoding="utf-8")
    config = ExecutionConfig(
        questions=str(tmp_path / "questions.jsonl"),
        tools=str(EXAMPLE / "tools.py"),
        documents=str(EXAMPLE / "documents"),
        max_turns=2,
        max_new_tokens=24,
    )
    base = Served(models.ModelFolder(base_folder), tokenizer, "hermes", renderer.stop_ids, {"which": "base"})
    found, kept = measured(base, config)
    assert [measure.as_dict()["n"] for measure in found.values()] == [2, 2, 1, 2]
    assert all(row["ended"] and len(row["messages"]) >= 2 for row in kept)


# What is asked


@pytest.fixture(scope="module")
def described_once():
    """What describes a tools file, once for each text that it has: it has tests of its own, and takes three seconds."""
    describe, known = tool_process.describe, {}

    def described(file):
        text = file.read_bytes()
        if text not in known:
            known[text] = describe(file)
        return known[text]

    return described


@pytest.fixture
def asking(place, tmp_path, described_once, monkeypatch):
    """A function that prepares the given lines of a questions file, with the settings changed."""
    monkeypatch.setattr(tool_process, "describe", described_once)

    def run(*lines, **changes):
        file = tmp_path / "questions.jsonl"
        file.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
        given = {"questions": str(file), "tools": str(place / "tools.py"), "documents": str(place / "documents"), **changes}
        return prepare(ExecutionConfig(**given))

    return run


def test_only_what_rows_say_something_of_is_measured(asking):
    assert asking({"question": "Hi"}).measures == ["execution.success", "execution.finished"]
    assert asking({"question": "Hi", "document": "cars.md"}).measures[2:] == ["execution.retrieved"]
    both = asking({"question": "Hi"}, {"question": "Ho", "document": "cars.md"}, {"question": "Hu", "answer_contains": ["x"]})
    assert both.measures[2:] == ["execution.retrieved", "execution.answered"]
    assert list(both.questions) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"line 1: not JSON: "),
        (b"[]", r"line 1: Input should be a valid dictionary"),
        (b"\xff", r"questions\.jsonl: not a text in UTF-8: "),
        (b"[" * 100_000, r"line 1: not JSON: "),
        (b'{"question": "x", "question": "y"}', r"line 1: not JSON: the key 'question' stands twice in one object$"),
        (b'{"question": "\\ud83d"}', r"line 1: half of a surrogate pair \(an escape such as \\ud83d alone\) is no text$"),
        (b"", r"questions\.jsonl: no questions in it$"),
        ({}, r"line 1: a row needs either a question or messages$"),
        ({"question": " "}, r"line 1: a row needs either a question or messages$"),
        (
            {"question": "x", "messages": [{"role": "user", "content": "x"}]},
            r"line 1: a row needs either a question or messages$",
        ),
        ({"question": "x", "documents": "cars.md"}, r"line 1: documents: Extra inputs are not permitted$"),
        ({"question": "x", "document": "car.md"}, r"line 1: there is no document 'car\.md'; the nearest is 'cars\.md'$"),
        ({"question": "x", "answer_contains": "y"}, r"line 1: answer_contains: Input should be a valid list$"),
        ({"question": "x", "answer_contains": [" "]}, r"line 1: answer_contains has an empty text, which every answer contains$"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r"line 1: messages\[0\]: assistant cannot come first$"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"line 1: messages\[0\]\.role: 'robot' is not one of "),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_with_its_line(asking, line, message):
    with pytest.raises(DataError, match=message):
        asking(line)


def test_letters_that_only_python_takes_for_a_lines_end_and_a_mark_of_utf_8_are_read(asking):
    found = asking('\ufeff{"question": "one\u2028two\x85"}\n'.encode(), {"question": "three"}).questions
    assert [question.question for question in found.values()] == ["one\u2028two\x85", "three"]


def test_a_folder_in_the_place_of_the_questions_is_refused(asking, tmp_path):
    with pytest.raises(DataError, match=r": cannot be read: Is a directory$"):
        asking({"question": "x"}, questions=str(tmp_path))


def test_a_question_that_stands_twice_is_refused(asking):
    with pytest.raises(DataError, match=r"line 3: asks the same as line 1$"):
        asking({"question": "x"}, {"question": "y"}, {"messages": [{"role": "user", "content": "x"}]})


def test_a_document_without_documents_is_refused(asking):
    with pytest.raises(DataError, match=r"line 1: names a document, and evaluate\.execution\.documents is not set$"):
        asking({"question": "x", "document": "cars.md"}, documents="")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (("search_knowledge_base", "look_up"), r"tools\.py has no function search_knowledge_base, which would search them$"),
        (("query", "text"), r"search_knowledge_base in .*tools\.py needs an argument `query: str`$"),
    ],
)
def test_documents_need_a_search_tool(asking, tmp_path, replaced, message):
    (tmp_path / "tools.py").write_text(TOOLS.replace(*replaced))
    with pytest.raises(DataError, match=rf"^evaluate\.execution\.documents: .*{message}"):
        asking({"question": "x"}, tools=str(tmp_path / "tools.py"))


def test_the_examples_tools_give_plausible_results_and_the_model_has_learnt_their_schemas(tmp_path):
    from calltune.tools import load
    from components.evaluate.suites.execution.tool_process import call

    assert [tool["function"]["name"] for tool in load(EXAMPLE / "tools.py")] == [
        "search_knowledge_base",
        "search_web",
        "create_ticket",
        "find_employee",
        "book_room",
    ]

    def run(function, **given):
        return call(EXAMPLE / "tools.py", function, given, tmp_path, 60)

    assert run("find_employee", name="marit", detail="phone").text == "Marit Dekker: phone 4471"
    assert run("book_room", day="Thursday", start="14:00", people=12).text == "Booked Harbour, Thursday 14:00, 60 minutes"
    assert run("book_room", day="Thursday", start="2 pm").failed == "raised"
