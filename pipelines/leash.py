"""Processes that end with the one that started them, however it ends. `python -m pipelines.leash COMMAND ...` runs one.

A `finally` does not run after SIGKILL, nor after the out-of-memory killer: only the kernel can then tell the children.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

from calltune.processes import die_with_parent

GROUP_TIMEOUT_S = 10


def take_group_along() -> None:
    """On SIGTERM, end this process's whole group: the kernel's signal reaches the child alone, not the child's children."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))


def start(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
    """Start a command that calls :func:`take_group_along`, in a process group and session of its own."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        **options,  # type: ignore[call-overload]
    )


def end(process: "subprocess.Popen[bytes]") -> None:
    """End what :func:`start` started, the whole group, and wait until nothing is left of it."""
    # A second Ctrl-C must not interrupt this. The steps write their files whole or not at all, so that SIGKILL is safe.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until = time.monotonic() + GROUP_TIMEOUT_S
        while _is_there(process.pid) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        signal.signal(signal.SIGINT, before)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    take_group_along()
    sys.exit(subprocess.call(sys.argv[1:]))
