"""Several GPUs of one node: each computes its part of every batch, and the gradients are added up.

All ranks go through the same batches in the same order, each computes a part of their rows, and after the sum of the
gradients all do the same optimiser step. So the order of the rows, optimiser, schedule and early stopping are the same
everywhere, and the first rank alone reports, writes checkpoints and the result. The Trainer knows of one process and one
GPU: nothing of its own distribution is used, and a checkpoint may go on with another number of GPUs.

The base model must fit on each GPU: this is data parallelism, nothing is sharded.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from calltune.processes import die_with_parent

T = TypeVar("T")
SILENCE = timedelta(hours=2)
"""How long a rank waits for another, which may be fetching a checkpoint; one that has died is seen at once."""


def count() -> int:
    """How many ranks train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this rank is the one that reports and writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def part(rows: Sequence[T]) -> Sequence[T]:
    """This rank's rows of a batch: consecutive ones, as many as another rank's or one fewer."""
    if count() == 1:
        return rows
    rank, share = distributed.get_rank(), len(rows) / count()
    return rows[round(rank * share) : round((rank + 1) * share)]


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all ranks; all have the same ones, in the same order."""
    if count() > 1:
        for sent in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            sent.wait()


def add_up_gradients(model: torch.nn.Module) -> None:
    """Replace each trainable weight's gradient by its sum over all ranks; a rank without rows has none."""
    if count() > 1:
        trainable = [p for p in model.parameters() if p.requires_grad]
        for parameter in trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        add_up(parameter.grad for parameter in trainable if parameter.grad is not None)


def own_dice(seed: int) -> Any:
    """A context in which a rank's dropout draws by `seed` and its rank, and leaves alone what all ranks draw together."""
    return nullcontext() if count() == 1 else _own_dice(seed)


@contextmanager
def _own_dice(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed * count() + distributed.get_rank())
        yield


def from_first(make: Callable[[], T]) -> T:
    """What the first rank makes, on every rank."""
    made: list[Any] = [make() if is_first() else None]
    if count() > 1:
        distributed.broadcast_object_list(made)
    result: T = made[0]
    return result


def run(ranks: int, work: Callable[..., T], arguments: Sequence[Any]) -> T:
    """Call ``work(*arguments)`` in `ranks` processes at once, each with a GPU of its own where there are any.

    SIGTERM goes on to the first rank. All of them end with the first that fails, and with this process.

    Returns:
        What the first rank's call returns.

    Raises:
        Exception: what a rank's call raised, or that one was killed.
    """
    context = multiprocessing.get_context("spawn")
    readers: dict[Connection, int] = {}
    processes: list[Any] = []
    with tempfile.TemporaryDirectory() as place, _sigterm_goes_to(processes):
        try:
            for rank, device in enumerate(_devices(ranks)):
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=_begin, args=(rank, ranks, place, writer, work, arguments))
                with _visible(device):
                    process.start()
                writer.close()
                readers[reader] = rank
                processes.append(process)
            return _answer_of_the_first(readers)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _answer_of_the_first(readers: dict[Connection, int]) -> Any:
    while True:
        for reader in wait(list(readers)):
            assert isinstance(reader, Connection)
            rank = readers.pop(reader)
            try:
                result, error, trace = reader.recv()
            except EOFError:
                raise RuntimeError(f"process {rank} of those that train together was killed: out of memory?") from None
            if error is not None:
                raise error from RuntimeError(f"in process {rank}:\n{trace}")
            if rank == 0:
                return result


def _begin(rank: int, ranks: int, place: str, writer: Connection, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """A rank's process from its first to its last line."""
    die_with_parent()
    if rank > 0:  # which would tell everything twice, and ends when the first does
        os.environ["CALLTUNE_EVENTS"] = os.devnull
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    try:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        meeting = f"file://{Path(place) / 'ranks'}"
        distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=ranks, timeout=SILENCE)
        writer.send((work(*arguments), None, ""))
    except Exception as error:
        writer.send((None, error, traceback.format_exc()))
    finally:
        writer.close()


def _devices(ranks: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` says to each rank: one of the GPUs that this process may use."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (told.split(",") if told else [str(number) for number in range(ranks)])[:ranks]


@contextmanager
def _visible(device: str) -> Iterator[None]:
    """Have a process that is started in the block see one GPU, before anything in it looks for them."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def _sigterm_goes_to(processes: Sequence[Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes[:1]])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
