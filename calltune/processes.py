"""How many processes there is room for, how they end with their parent, and the environment of this one.

After SIGKILL only the kernel can tell a process that its parent has ended.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Loaded at import: between fork and exec nothing else may be done.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_CGROUP = Path("/sys/fs/cgroup")


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """In a child: have the kernel send this process a signal when the thread that started it has ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def cpus(cgroup: Path = _CGROUP) -> int:
    """CPUs that this process may use: those of its affinity, and no more than its container's limit allows, rounded down.

    Args:
        cgroup: where the limits are; inside of a container they are its own.
    """
    return max(1, min(len(os.sched_getaffinity(0)), *_allowed(cgroup)))


def _allowed(cgroup: Path) -> list[int]:
    """The limit of CPU time in whole CPUs, in a list; a large number where there is none."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in files).split()[:2]
        except (OSError, ValueError):
            continue
        if quota.isdecimal() and int(period) > 0:  # else "max", or -1
            return [int(quota) // int(period)]
    return [os.cpu_count() or 1]


@contextmanager
def in_environment(variables: dict[str, str]) -> Iterator[None]:
    """Have this process's environment say `variables` while the block runs; what the block changes in it is undone, too."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        # One by one, and only what is another now: other threads read this, too, and would for a moment find nothing.
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
