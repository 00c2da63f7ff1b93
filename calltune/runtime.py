"""What every step reports: that it began, how far it is, what it cost, and how it failed.

Locally the events are JSON lines in the file that `CALLTUNE_EVENTS` names; `calltune run` follows it and draws the
progress bars, because a step under kfp.local has no terminal. In a cluster the variable is unset and the same events
are lines in the step's log, at most one every 30 s. A command that runs no step shows them to whoever has typed it.
"""

import errno
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from calltune import storage
from calltune.errors import NO_ROOM, UserError

T = TypeVar("T")
_shown_by: list[Callable[[dict[str, Any]], None]] = []
"""Who shows the events of this process where no file takes them; the last one does."""
LOCAL_INTERVAL_S = 0.2
CLUSTER_INTERVAL_S = 30.0


def run_id() -> str:
    """The id of this pipeline run; `local` for a step that somebody runs by itself."""
    return os.environ.get("CALLTUNE_RUN_ID", "local")


def emit(kind: str, **fields: Any) -> None:
    """Report one event. `kind` is start, progress, note, error or step."""
    event = {"kind": kind, "time": round(time.time(), 3), **fields}
    path = os.environ.get("CALLTUNE_EVENTS")
    if path is None and _shown_by:
        _shown_by[-1](event)
        return
    line = json.dumps(event) + "\n"
    if path is None:
        print(line, end="", file=sys.stderr, flush=True)
        return
    # One write with O_APPEND is atomic, so that the lines of two processes do not mix.
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@contextmanager
def shown_by(show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Have the events of this process shown to somebody, where `CALLTUNE_EVENTS` names no file for them."""
    _shown_by.append(show)
    try:
        yield
    finally:
        _shown_by.pop()


def note(message: str) -> None:
    """Say a decision that Calltune took for the user (`auto`), in the log and on the screen."""
    emit("note", message=message)


class Progress:
    """Progress of one piece of work, reported as often as its reader can use it, with an estimate of what is left.

    Args:
        name: of the work.
        total: units that it has.
        unit: of what is counted.
        already: units that an earlier process has done; they say nothing of this one's speed.
    """

    def __init__(self, name: str, total: int, unit: str, already: int = 0) -> None:
        self.name, self.total, self.unit, self.already = name, total, unit, already
        self.begun_at = time.monotonic()
        self.interval_s = LOCAL_INTERVAL_S if "CALLTUNE_EVENTS" in os.environ else CLUSTER_INTERVAL_S
        self.reported_at = 0.0
        self.update(already)

    def update(self, done: int, detail: str = "") -> None:
        """Report that `done` of `total` units are through. The first and the last are always reported."""
        now = time.monotonic()
        if self.reported_at and done < self.total and now - self.reported_at < self.interval_s:
            return
        self.reported_at = now
        new = done - self.already
        left_s = round((now - self.begun_at) / new * (self.total - done), 1) if new > 0 else None
        emit("progress", name=self.name, done=done, total=self.total, unit=self.unit, detail=detail, left_s=left_s)


def tracked(items: Iterable[T], name: str, total: int, unit: str = "rows") -> Iterator[T]:
    """Yield `items`, reporting progress."""
    progress = Progress(name, total, unit)
    for done, item in enumerate(items, 1):
        yield item
        progress.update(done)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Show a piece of work that cannot say how far it is."""
    progress = Progress(name, 1, "")
    yield
    progress.update(1)


def peak_rss_mib() -> int:
    """Peak resident memory in MiB of this process or its largest child, whichever is larger."""
    # VmHWM, not ru_maxrss: the latter survives exec, so a small step would report its parent's size.
    status = Path("/proc/self/status").read_text()
    own_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024


@contextmanager
def step(name: str, may_fail: bool = False) -> Iterator[None]:
    """Run a pipeline step: report its start, cost and failure, and record them in the store.

    Writes `runs/<run_id>/steps/<name>.json`. A :class:`UserError`, a full disk, or a store that cannot be written ends the
    process with exit code 2 and one line, and being stopped with 1 and one line; any other exception goes on up after it has
    been reported.

    Args:
        name: of the step.
        may_fail: a failure, that of its own record included, is a note in the log, and the step ends well: what comes after all
            others must not turn a promoted model's run into a failed one.
    """
    started = time.monotonic()
    try:
        emit("start", name=name)
        yield
        record = _record(name, started, None)
    except Exception as error:
        failure = failure_of(name, error)
        one_line = isinstance(error, UserError) or failure["code"] == 2
        # Each for itself: a disk that is full, or a store that is not there, must not hide the reason. The log comes first.
        with suppress(OSError):
            if not one_line:
                traceback.print_exc()
            print(f"calltune: {name}: {failure['message']}", file=sys.stderr, flush=True)
        if may_fail:
            with suppress(OSError):
                note(f"{name}: {failure['message']}")
            return
        with suppress(OSError):
            emit("error", **failure)
        with suppress(OSError, UserError):
            emit("step", **_record(name, started, failure))
        if one_line:
            raise SystemExit(failure["code"]) from None
        raise
    emit("step", **record)


def _record(name: str, started: float, failure: dict[str, Any] | None) -> dict[str, Any]:
    """Write what a step took, and how it failed, into the store; returns it.

    Raises:
        UserError: the store cannot be written.
    """
    seconds = round(time.monotonic() - started, 2)
    row = {"name": name, "seconds": seconds, "peak_rss_mib": peak_rss_mib(), "error": failure}
    storage.of_run().put_json(f"runs/{run_id()}/steps/{name}.json", row)
    return row


def failure_of(name: str, error: Exception) -> dict[str, Any]:
    """A step's error as an event: whose it is, the exit code, and one sentence."""
    if isinstance(error, UserError):
        return {"step": name, "code": error.exit_code, "message": str(error)}
    # Safetensors and torch say it in errors of their own, which have no number.
    if (isinstance(error, OSError) and error.errno in NO_ROOM) or os.strerror(errno.ENOSPC) in str(error):
        where = error.filename if isinstance(error, OSError) and error.filename else "while writing"
        return {"step": name, "code": 2, "message": f"no room left on the disk: {where}"}
    return {"step": name, "code": 1, "message": f"{type(error).__name__}: {error}"}


def finite(numbers: dict[str, Any]) -> dict[str, float]:
    """The finite numbers among the values: what KFP's Metrics accepts (a NaN there crashes a run whose work is done)."""
    return {
        key: float(value)
        for key, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf") and value == value
    }


def record(metrics: Any, numbers: dict[str, Any], write: bool = True) -> None:
    """Hand numbers to a KFP Metrics artifact.

    Args:
        metrics: the artifact.
        numbers: by name; those that are not finite numbers are left out of what KFP shows.
        write: also write the file at its path: KFP's cache counts a missing output file as a miss, and `log_metric`
            alone writes none.
    """
    if write:
        write_json(metrics.path, numbers)
    for name, value in finite(numbers).items():
        metrics.log_metric(name, value)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, making the parent folder, and never leaving half a file behind."""
    # Piece by piece: a long list's pieces take twenty times the memory of its text.
    pieces = json.JSONEncoder(indent=1, ensure_ascii=False, allow_nan=False).iterencode(value)
    _write(Path(path), chain(pieces, ["\n"]))


def write_text(path: str | Path, text: str) -> None:
    """Write a text, making the parent folder, and never leaving half a file behind."""
    _write(Path(path), [text])


def _write(path: Path, pieces: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | Path, load: Callable[[str], Any] = json.loads) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is absent or is not JSON.
    """
    try:
        return load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
