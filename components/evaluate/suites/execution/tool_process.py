"""A function of the user's tools file, called in a process of its own: the step that calls it outlives whatever it does.

This is isolation against accidents, not a sandbox: such a function has the network, and every file that this user may read.
"""

import contextlib
import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calltune
from calltune.errors import DataError
from calltune.records import Tool

MAX_ANSWER = 16_384
"""Bytes of JSON that a call may give back: it goes into the model's next prompt."""
MAX_TOOLS = 4 * 2**20
DESCRIBE_S = 120
"""Seconds to read a file's tools, which imports transformers beside what the file itself imports."""
ROUNDS = 100
"""How often what a call has left behind is looked for, 10 ms apart."""
CALL = "CALLTUNE_CALL"
"""By this variable the processes of one call are told from all others."""
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What a call gets of this process's environment. A list of what may go in, because nobody knows all names of secrets."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    Attributes:
        text: what is told to the model: the result, text as it is and anything else as JSON; or `error: ` and why there is none.
        failed: None if it ran to its end, else `raised`, `timed out`, `crashed` or `too long`.
    """

    text: str
    failed: str | None = None


def call(file: Path, name: str, arguments: Mapping[str, Any], folder: Path, timeout_s: float) -> Outcome:
    """Call a function.

    Args:
        file: the tools file, which the process imports first.
        name: of the function.
        arguments: by name, JSON values.
        folder: the process's working, home and temporary folder; made again where an earlier call has removed it.
        timeout_s: seconds until the process and all that it has started are killed.
    """
    asked = {"do": "call", "file": str(file.absolute()), "name": name, "arguments": dict(arguments)}
    folder.mkdir(exist_ok=True)
    answer, failed = _run(asked, folder, timeout_s, MAX_ANSWER)
    if failed is not None:
        return Outcome(f"error: {answer}", failed)
    if "error" in answer:
        return Outcome(f"error: {answer['error']}", "raised")
    result = answer["result"]
    return Outcome(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))


def describe(file: Path) -> list[Tool]:
    """The tools of a Python file, as :func:`calltune.tools.load` has them, without running its code in this process.

    Raises:
        DataError: as `load`; or the file ends the process that imports it, or is not done with it in time.
    """
    with tempfile.TemporaryDirectory(prefix="calltune-tools-", ignore_cleanup_errors=True) as folder:
        answer, failed = _run({"do": "describe", "file": str(file.absolute())}, Path(folder), DESCRIBE_S, MAX_TOOLS)
    if failed is not None:
        raise DataError(f"{file}: cannot be imported: {answer}")
    if "error" in answer:
        raise DataError(str(answer["error"]))
    tools: list[Tool] = answer["result"]
    return tools


def _run(asked: dict[str, Any], folder: Path, timeout_s: float, most: int) -> tuple[Any, str | None]:
    """The process's answer and None, or why there is none and in one word what kind of failure that is."""
    begun, call_id = time.monotonic(), secrets.token_hex(16)
    with tempfile.TemporaryFile() as request:  # not a pipe, which a process that does not read would leave full
        request.write(json.dumps({**asked, "cpu_s": math.ceil(timeout_s) + 1}).encode())
        request.seek(0)
        process = subprocess.Popen(
            # -P: no folder of ours or of the call's stands before the libraries that the user's file imports.
            [sys.executable, "-P", "-m", "components.evaluate.suites.execution.tool_runner"],
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder) | {CALL: call_id},
            start_new_session=True,  # a process group, to be killed as one
        )
    try:
        data, failed = _read(process, begun + timeout_s, most)
    finally:
        _end(process, f"{CALL}={call_id}")
    if failed == "timed out" or process.returncode == -signal.SIGXCPU:
        return f"not done after {timeout_s:g} s", "timed out"
    if failed == "too long":
        return f"the result is longer than {most} bytes", failed
    line, end, _ = data.partition(b"\n")  # a function that has forked may come back twice
    if not end:
        code = process.returncode
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        return f"the process ended {how}, without a result", "crashed"
    return json.loads(line), None


def _read(process: "subprocess.Popen[bytes]", deadline: float, most: int) -> tuple[bytes, str | None]:
    """The line that the process writes, or what there is of it when the process or its time has ended."""
    assert process.stdout is not None
    waiting = select.poll()
    waiting.register(process.stdout, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(1000 * left):
            return data, "timed out"
        piece = os.read(process.stdout.fileno(), 65_536)
        data += piece
        if len(data) > most:
            return data, "too long"
        # Not the end of the pipe alone: a process that the function has left behind may hold it open.
        if not piece or piece.endswith(b"\n"):
            return data, None


def _end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """Kill the process and all that it has started, also what has left its group, as a daemon does.

    Args:
        process: the head of its group.
        mark: what is in the environment of this call's processes, and of no other.
    """
    # Before it is waited for: until then no other group can have its number.
    os.killpg(process.pid, signal.SIGKILL)
    # Not to the end of the pipe, which what has left the group may hold open for as long as it likes.
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
    for _ in range(ROUNDS):  # one may have started another meanwhile, and one that waits for a disk does not end
        left = list(_marked(mark.encode()))
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.01)


def _marked(mark: bytes) -> Iterator[int]:
    """The processes that have a variable in their environment; of one that has ended the kernel shows none."""
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            if mark in place.read_bytes().split(b"\0"):
                yield int(place.parent.name)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    places = [str(Path(calltune.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A library for arithmetic that takes a thread for each core would take the address space that goes with it, too.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    here = dict.fromkeys(("HOME", "TMPDIR"), str(folder))
    return {**kept, **threads, **here, "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
