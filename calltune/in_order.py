"""Work on many rows by this process and a helper for each further CPU; what comes of it comes in the order of the rows."""

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from calltune.errors import Stopped, UserError
from calltune.processes import cpus, die_with_parent

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Items that wait for each helper, so that it never does."""
MOST_HELPERS = 7
"""More would wait for this process, which takes what they come to, and each holds libraries of its own in memory."""
UNTAKEN = 32
"""Items in memory at once. While helpers start, which takes seconds, this process goes on by itself for so long."""


def batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the rows in lists of `size`; those before one that cannot be read are still yielded, and then the error raised."""
    batch: list[T] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def in_order(
    items: Iterable[T], here: Callable[[T], R], there: Callable[[], Callable[[T], R]], alone: int
) -> Generator[tuple[T, R], None, None]:
    """Yield each item with what the work on it came to, in order, with few of them in memory.

    To be closed when it is not gone through to its end (`contextlib.closing`): that ends the helpers.

    Args:
        items: a batch of rows each, small enough for seconds to go by between two errors.
        here: the work, in this process.
        there: makes the same work in a helper. This, the items and what the work comes to are pickled.
        alone: items that this process works on before it has help: starting it takes seconds.

    Raises:
        Stopped: a helper was killed.
    Whatever the work or the items raise comes where it would come with one process.
    """
    source = iter(items)
    for item in islice(source, alone):
        yield item, here(item)
    helpers = min(cpus() - 1, MOST_HELPERS)
    if not helpers:
        yield from ((item, here(item)) for item in source)
        return
    # Spawned, not forked: a library may have threads by now, and of a forked process with threads nobody knows what it does.
    with_help = ProcessPoolExecutor(helpers, get_context("spawn"), initializer=_begin, initargs=(there,))
    try:
        for item, future in _shared(source, here, with_help, AHEAD * helpers):
            yield item, future.result()
    except BrokenProcessPool:
        raise Stopped(
            "a process that helped was killed, as happens where memory runs out; the same again may end better"
        ) from None
    finally:
        with_help.shutdown(cancel_futures=True)


def _shared(source: Iterator[T], here: Callable[[T], R], pool: ProcessPoolExecutor, most: int) -> Iterator[tuple[T, "Future[R]"]]:
    """Yield each item with its result, or the promise of it: worked on by helpers while they have less than `most`, else here."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    failure: Exception | None = None
    ended = False
    while True:
        if waiting and (ended or waiting[0][1].done() or len(waiting) == UNTAKEN):
            yield waiting.popleft()
            continue
        if ended:
            break
        try:
            item = next(source)
        except StopIteration:
            ended = True
            continue
        except Exception as error:  # the rows before it come first
            ended, failure = True, error
            continue
        busy = sum(not future.done() for _, future in waiting)
        waiting.append((item, pool.submit(_work, item) if busy < most else _done(here, item)))
    if failure is not None:
        raise failure


def _done(work: Callable[[T], R], item: T) -> "Future[R]":
    future: Future[R] = Future()
    try:
        future.set_result(work(item))
    except Exception as error:  # raised where the result is asked for, after those of the items before
        future.set_exception(error)
    return future


_begun: dict[str, Any] = {}
"""In a helper: what makes the work, and the work."""


def _begin(there: Callable[[], Callable[[Any], Any]]) -> None:
    die_with_parent()
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # it ended before the kernel was asked
        os._exit(1)
    # Ctrl-C reaches all processes of a terminal: this one is ended by its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Every CPU has a process already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _begun["there"] = there


def _work(item: Any) -> Any:
    # Not in `_begin`, an error in which would be told as a broken pool.
    if "work" not in _begun:
        _begun["work"] = _begun["there"]()
    return _begun["work"](item)
