"""Several GPUs, of one machine or of several: each computes its part of every batch, and the gradients are added up.

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
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from calltune.errors import Stopped
from calltune.processes import die_with_parent, in_environment

T = TypeVar("T")
SILENCE = timedelta(hours=2)
"""How long a rank waits for another, which may be fetching a checkpoint; one that has died is seen at once."""
_first_here = 0
"""Of this machine's ranks the first; set where a rank's process begins."""


@dataclass(frozen=True)
class Machine:
    """This machine among those that train together.

    Attributes:
        number: of this machine, from 0.
        count: of machines, each with as many ranks.
        meeting: `tcp://address:port` at the first one, where the ranks of all meet; empty where there is one machine.
    """

    number: int = 0
    count: int = 1
    meeting: str = ""


ALONE = Machine()


def machine() -> Machine:
    """This machine as a launcher such as Kubeflow Trainer tells it, in the variables that `torchrun` takes its options from."""
    told = os.environ
    meeting = f"tcp://{told['PET_MASTER_ADDR']}:{told['PET_MASTER_PORT']}"
    return Machine(int(told["PET_NODE_RANK"]), int(told["PET_NNODES"]), meeting)


def count() -> int:
    """How many ranks train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this rank is the one that reports and writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def is_first_here() -> bool:
    """Whether this rank is the first of its machine, whose disk the others of that machine share."""
    return not distributed.is_initialized() or distributed.get_rank() == _first_here


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


def from_first_here(make: Callable[[], T]) -> T:
    """What the first rank of this machine makes, on every rank of it."""
    if count() == 1:
        return make()
    made: list[Any] = [None] * count()
    distributed.all_gather_object(made, make() if is_first_here() else None)
    result: T = made[_first_here]
    return result


def run(ranks: int, work: Callable[..., T], arguments: Sequence[Any], machine: Machine = ALONE) -> T:
    """Call ``work(*arguments)`` in `ranks` processes at once, each with a GPU of its own where there are any.

    SIGTERM goes on to the first of them. All of them end with the first that fails, and with this process. Of several machines
    each calls this; one that has ended badly is seen by the others when they next add up. A single one is this process itself.

    Returns:
        What the call of this machine's first rank returns.

    Raises:
        Exception: what a rank's call raised, or that one was killed.
    """
    if ranks == 1:
        _join(_Seat(0, 1, machine, machine.meeting))
        return work(*arguments)
    context = multiprocessing.get_context("spawn")
    readers: dict[Connection, int] = {}
    processes: list[Any] = []
    with tempfile.TemporaryDirectory() as place, _sigterm_goes_to(processes):
        try:
            for rank, device in enumerate(_devices(ranks)):
                reader, writer = context.Pipe(duplex=False)
                seat = _Seat(rank, ranks, machine, machine.meeting or f"file://{Path(place) / 'ranks'}")
                process = context.Process(target=_begin, args=(seat, writer, work, arguments))
                # Before anything in it looks for GPUs.
                with in_environment({"CUDA_VISIBLE_DEVICES": device}):
                    process.start()
                writer.close()
                readers[reader] = rank
                processes.append(process)
            return _answer_of_the_first(readers, wait_for_all=machine.count > 1)
        finally:
            for process in processes:
                process.kill()
                process.join()


@dataclass(frozen=True)
class _Seat:
    """A rank's place: its number on its machine, how many that machine has, the machine, and where all ranks meet."""

    here: int
    ranks: int
    machine: Machine
    meeting: str


def _answer_of_the_first(readers: dict[Connection, int], wait_for_all: bool) -> Any:
    """What this machine's first rank returns; `wait_for_all`, since ranks of other machines may still need what theirs have."""
    answer = None
    while readers:
        for reader in wait(list(readers)):
            assert isinstance(reader, Connection)
            rank = readers.pop(reader)
            try:
                result, error, trace = reader.recv()
            except EOFError:
                raise RuntimeError(f"process {rank} of those that train together was killed: out of memory?") from None
            if isinstance(error, Stopped) and rank > 0:
                continue  # all have agreed to stop, and the first is still uploading what they go on from
            if error is not None:
                raise error from RuntimeError(f"in process {rank}:\n{trace}")
            if rank == 0:
                answer = result
                if not wait_for_all:
                    return answer
    return answer


def _begin(seat: _Seat, writer: Connection, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """A rank's process from its first to its last line."""
    die_with_parent()
    if seat.here > 0:  # which ends when its machine's first does
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    try:
        _join(seat)
        writer.send((work(*arguments), None, ""))
    except Exception as error:
        writer.send((None, error, traceback.format_exc()))
    finally:
        writer.close()


def _join(seat: _Seat) -> None:
    """Make this process a rank, once all the others are there."""
    global _first_here
    _first_here = seat.machine.number * seat.ranks
    rank, together = _first_here + seat.here, seat.ranks * seat.machine.count
    if rank > 0:  # which would tell everything twice
        os.environ["CALLTUNE_EVENTS"] = os.devnull
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=seat.meeting, rank=rank, world_size=together, timeout=SILENCE)


def _devices(ranks: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` says to each rank: one of the GPUs that this process may use."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (told.split(",") if told else [str(number) for number in range(ranks)])[:ranks]


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
