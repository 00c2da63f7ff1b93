"""The child process of `tool_process.py`: reads a request from standard input, runs the user's file, writes one line of JSON.

    {"do": "call", "file": "tools.py", "name": "find_employee", "arguments": {"name": "Ana"}, "cpu_s": 11}
    {"result": "Ana Souza, Porto"}      or      {"error": "KeyError: 'Ana'"}

With `"do": "describe"` the result is the file's tools. What may be used is limited before the user's file is read.
"""

import inspect
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from calltune import python_file
from calltune.errors import UserError
from calltune.processes import die_with_parent

ADDRESS_SPACE = 4 * 2**30
"""Bytes that may be mapped; a file that imports torch and transformers has 0.6 GiB when it begins."""
FILE_SIZE = 64 * 2**20
"""Bytes of a file that may be written."""


def main() -> None:
    """Answer the one request."""
    die_with_parent()
    request = json.load(sys.stdin)
    # What the user's code prints is no answer: it goes where errors go, and its own way out has the answer alone.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for limit, value in (
        (resource.RLIMIT_CPU, request["cpu_s"]),
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    try:
        answer = json.dumps({"result": _result(request)}, ensure_ascii=False, allow_nan=False).encode()
    except UserError as error:
        answer = _failed(str(error))
    except BaseException as error:  # the user's own code: anything can come out of it, SystemExit included
        answer = _failed(f"{type(error).__name__}: {' '.join(str(error).split())}")
    out.write(answer + b"\n")
    out.flush()
    # At once: threads that the function has left behind are nobody's.
    os._exit(0)


def _failed(why: str) -> bytes:
    # Half of a surrogate pair, as in the name of a file that is no UTF-8, is what no prompt can hold.
    return json.dumps({"error": why}, ensure_ascii=False).encode(errors="replace")


def _result(request: dict[str, Any]) -> Any:
    if request["do"] == "describe":
        from calltune import tools

        return tools.load(request["file"])
    function = getattr(python_file.load(Path(request["file"])), request["name"])
    result = function(**request["arguments"])
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


if __name__ == "__main__":
    main()
