"""What each pod of a TrainJob runs: `python3 -m components.train.worker KEY`, where KEY names the exchange with its step.

Its own log is all that it tells: the step's record is the step's to write, which goes on following.
"""

import os
import signal
import sys
from contextlib import suppress

from calltune import models, runtime, storage
from calltune.errors import UserError
from components.train import ranks
from components.train.exchange import Exchange
from components.train.step import train_part


def work(key: str) -> None:
    """Train this machine's part of what lies in the exchange; the first machine brings the result there."""
    exchange, place = Exchange(storage.of_run(), key), models.cache_dir() / "train"
    told = exchange.fetch_work(place / "rows")
    adapter, out, processes = place / "adapter", place / "out", int(os.environ["PET_NPROC_PER_NODE"])
    done = train_part(place / "rows", told.model, told.config, adapter, out, told.code, told.champion, processes, ranks.machine())
    if done is not None:
        exchange.put_result(adapter, out)


def main(key: str) -> int:
    """Do the work; returns the exit code. Of an error that trying again does not mend, the step is left word."""
    # A container's first process ignores signals that it has no handler for; while it trains, training has one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        work(key)
    except Exception as error:
        failure = runtime.failure_of("train", error)
        if failure["code"] == 2:
            with suppress(UserError):
                Exchange(storage.of_run(), key).put_failure(failure)
        elif not isinstance(error, UserError):
            raise
        print(f"calltune: train: {failure['message']}", file=sys.stderr, flush=True)
        return int(failure["code"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
