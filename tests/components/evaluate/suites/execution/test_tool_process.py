"""Functions of a tools file in processes of their own: real ones, that end well, badly, or not at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calltune.credentials import SECRET_VARIABLES
from calltune.errors import DataError
from components.evaluate.suites.execution import tool_process
from components.evaluate.suites.execution.tool_process import Outcome, call, describe

TOOLS = '''
import os, subprocess, sys, time
from typing import Literal


def find(name: str, detail: Literal["email", "phone"] | None = None) -> dict:
    """Find a colleague.

    Args:
        name: Whom.
        detail: What of it.
    """
    print("a line on standard output, which is no result", flush=True)
    return {"name": name, "detail": detail, "é": 1.5}


def say() -> str:
    """Say it."""
    return "as it is"


async def later() -> str:
    """Say it later."""
    return "awaited"


def raises() -> str:
    """Fail."""
    raise KeyError("Ana")


def leaves() -> str:
    """End the process, politely."""
    sys.exit(3)


def ends() -> str:
    """End the process."""
    os._exit(4)


def breaks() -> str:
    """End the process by a signal."""
    import ctypes

    ctypes.string_at(0)


def sleeps() -> str:
    """Take long, as does what it has started."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100_000)"])
    open(os.environ["HOME"] + "/child", "w").write(str(child.pid))
    time.sleep(100_000)


def talks() -> str:
    """Print without an end."""
    while True:
        print("x" * 10_000)


def large() -> str:
    """Return much."""
    return "x" * 1_000_000


def not_json() -> str:
    """Return what is no JSON."""
    return {1, 2}


def infinite() -> float:
    """Return what is no JSON number."""
    return float("inf")


def greedy() -> str:
    """Take memory."""
    return str(len(bytearray(6 * 2**30)))


def fills() -> str:
    """Fill the disk."""
    with open("large", "wb") as file:
        while True:
            file.write(b"x" * 2**20)


def forks() -> str:
    """Leave a process behind that holds everything open."""
    if os.fork() == 0:
        time.sleep(100_000)  # longer than anybody waits: who waited for it would hang
    return "done"


def leaves_a_daemon() -> str:
    """Leave a process behind that is in no group of this one, and holds everything open."""
    if os.fork() == 0:
        os.setsid()
        open(os.environ["HOME"] + "/child", "w").write(str(os.getpid()))
        time.sleep(100_000)
    while not os.path.exists(os.environ["HOME"] + "/child"):
        time.sleep(0.01)
    return "done"


def comes_back_twice() -> str:
    """Return in a child, too."""
    if os.fork() > 0:
        os.wait()
    return "done"


def cleans() -> str:
    """Remove the temporary folder."""
    import shutil, tempfile

    shutil.rmtree(tempfile.gettempdir())
    return "clean"


def names_a_file() -> str:
    """Fail with a name that is no text."""
    raise ValueError("\\udcff")


def asks() -> str:
    """Read what nobody types."""
    return input()


def here() -> dict:
    """Say what is around."""
    return {"cwd": os.getcwd(), "environment": dict(os.environ), "files": sorted(os.listdir())}


def keep(text: str) -> str:
    """Write a note.

    Args:
        text: What.
    """
    open("note", "w").write(text)
    return "kept"
'''


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    file = tmp_path_factory.mktemp("tools") / "tools.py"
    file.write_text(TOOLS, encoding="utf-8")
    return file


@pytest.fixture
def called(tools, tmp_path):
    """A function that calls one of the tools in a fresh folder."""
    folder = tmp_path / "call"
    folder.mkdir()
    return lambda function, timeout_s=20, **arguments: call(tools, function, arguments, folder, timeout_s)


def gone(process):
    """Whether a process has ended, or is about to; a zombie that only its parent has not noticed has."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_result_is_text_as_it_is_or_json_and_what_is_printed_is_none(called):
    assert called("say") == Outcome("as it is")
    assert called("find", name="Ana") == Outcome('{"name": "Ana", "detail": null, "é": 1.5}')
    assert called("later") == Outcome("awaited")


@pytest.mark.parametrize(
    ("name", "says", "failed"),
    [
        ("raises", "error: KeyError: 'Ana'", "raised"),
        ("leaves", "error: SystemExit: 3", "raised"),
        ("ends", "error: the process ended with exit code 4, without a result", "crashed"),
        ("breaks", "error: the process ended by SIGSEGV, without a result", "crashed"),
        ("large", "error: the result is longer than 16384 bytes", "too long"),
        ("not_json", "error: TypeError: Object of type set is not JSON serializable", "raised"),
        ("infinite", "error: ValueError: Out of range float values are not JSON compliant", "raised"),
        ("greedy", "error: MemoryError:", "raised"),
        ("fills", "error: OSError: [Errno 27] File too large", "raised"),
        ("asks", "error: EOFError: EOF when reading a line", "raised"),
    ],
)
def test_whatever_a_function_does_there_is_an_answer_and_it_is_said(called, name, says, failed):
    outcome = called(name)
    assert outcome.text.startswith(says)
    assert outcome.failed == failed


def test_a_call_whose_time_is_over_is_killed_with_all_that_it_has_started(called, tmp_path):
    assert called("sleeps", timeout_s=5) == Outcome("error: not done after 5 s", "timed out")
    assert gone(int((tmp_path / "call" / "child").read_text()))


def test_output_without_an_end_takes_neither_memory_nor_more_than_its_time(called):
    assert called("talks", timeout_s=2) == Outcome("error: not done after 2 s", "timed out")


def test_a_process_that_a_function_leaves_behind_keeps_nobody_waiting(called):
    assert called("forks", timeout_s=60) == Outcome("done")


def test_a_process_that_has_left_the_group_keeps_nobody_waiting_and_is_ended_too(called, tmp_path):
    assert called("leaves_a_daemon", timeout_s=60) == Outcome("done")
    assert gone(int((tmp_path / "call" / "child").read_text()))


def test_of_a_function_that_comes_back_twice_the_first_result_counts(called, monkeypatch):
    read = tool_process._read

    def read_late(process, *rest):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # both have written by then
        return read(process, *rest)

    monkeypatch.setattr(tool_process, "_read", read_late)
    assert called("comes_back_twice") == Outcome("done")


def test_a_folder_that_a_call_has_removed_is_there_for_the_next(called):
    assert called("cleans") == Outcome("clean")
    assert called("keep", text="x") == Outcome("kept")


def test_an_error_that_is_no_text_is_told_as_text(called):
    assert called("names_a_file") == Outcome("error: ValueError: ?", "raised")


def test_no_secret_gets_in_and_the_folder_is_the_calls_own(tools, tmp_path, monkeypatch):
    import json

    names = (*SECRET_VARIABLES, "CALLTUNE_STORAGE", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3", "SHOP_API_KEY", "https_proxy")
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"canary-{number}")
    outcome = call(tools, "here", {}, tmp_path, 20)
    assert "canary" not in outcome.text
    around = json.loads(outcome.text)
    assert around["cwd"] == around["environment"]["HOME"] == around["environment"]["TMPDIR"] == str(tmp_path)
    assert around["files"] == ["events.jsonl"] * (tmp_path / "events.jsonl").exists()


def test_what_a_call_has_written_the_next_one_in_its_folder_finds(called):
    assert called("keep", text="x") == Outcome("kept")
    assert '"files": ["note"]' in called("here").text


def test_a_call_ends_with_the_process_that_made_it(tools, tmp_path):
    code = "import sys; from pathlib import Path; from components.evaluate.suites.execution.tool_process import call\n"
    code += f"call(Path({str(tools)!r}), 'sleeps', {{}}, Path({str(tmp_path)!r}), 100)"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as parent:
        for _ in range(600):
            if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
                break
            time.sleep(0.1)
        child = int((tmp_path / "child").read_text())
        runner = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        parent.kill()
        parent.wait()
        assert gone(runner)
    os.kill(child, 9)


# Its schemas


def test_the_tools_of_a_file_are_read_without_its_code_in_this_process(tools):
    from calltune.tools import load

    sys.modules.pop("calltune_tools_tools", None)  # of another test
    there = describe(tools)
    assert "calltune_tools_tools" not in sys.modules
    assert there == load(tools)
    sys.modules.pop("calltune_tools_tools")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos._exit(7)\n", r"tools\.py: cannot be imported: the process ended with exit code 7, without a result$"),
        ("raise ValueError('no')\n", r"tools\.py, line 1: cannot be imported: ValueError: no$"),
        ("def f(x):\n    pass\n", r"tools\.py, line 1: function 'f': no docstring: it needs one that says what it does"),
        ("x = 1\n", r"tools\.py: no tool in it"),
    ],
)
def test_a_file_that_is_no_tools_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "tools.py").write_text(text)
    with pytest.raises(DataError, match=message):
        describe(tmp_path / "tools.py")


def test_a_file_whose_import_has_no_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tool_process, "DESCRIBE_S", 3)
    (tmp_path / "tools.py").write_text("import time\ntime.sleep(100)\n")
    with pytest.raises(DataError, match=r"cannot be imported: not done after 3 s$"):
        describe(tmp_path / "tools.py")
