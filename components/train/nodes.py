"""Training on several nodes: the step creates a TrainJob, follows it, and takes what its workers made from the store."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calltune import runtime, storage
from calltune.errors import DataError, Stopped, UserError
from components.train.cluster import Away, Cluster
from components.train.exchange import Exchange, Work, key_of
from components.train.follow import Follower, Vanished
from components.train.trainjob import POD, Pod, Workers, job_name, manifest


def train_there(told: str, dataset: Path, work: Work, adapter: Path, out: Path) -> None:
    """Train on several nodes; adapter and results come into the same folders as from training here.

    Args:
        told: JSON of :class:`Workers`.
        dataset: what format wrote.
        work: what to train.
        adapter: folder that gets the trained weights.
        out: folder that gets `metrics.json` and `loss.csv`.

    Raises:
        DataError: a worker's error in data or settings, which the same again would end in.
        Stopped: by SIGTERM, or somebody has deleted the job; the same call goes on from its checkpoint.
        RuntimeError: the job has failed.
        UserError: the cluster has no TrainJobs, or the step's account may not create them.
    """
    workers = Workers.model_validate_json(told)
    pod = Pod(run_id=runtime.run_id(), **{name: os.environ[variable] for name, variable in POD.items()})
    key = key_of(dataset, work)
    exchange, cluster = Exchange(storage.of_run(), key), Cluster(pod.namespace)
    follower = Follower(cluster, job_name(key))

    def prepare() -> None:
        exchange.clear()  # an earlier job's result, or its failure
        exchange.put_work(dataset, work)

    with _sigterm_stops(follower):
        try:
            while True:
                ours = follower.begin(manifest(workers, key, pod), prepare)
                try:
                    follower.follow(lambda: _failure(exchange))
                    break
                except Vanished:
                    if ours:
                        again = "the same step started again goes on from its checkpoint"
                        raise Stopped(f"somebody has deleted the TrainJob {follower.name}; {again}") from None
        except Stopped:
            _delete(cluster, follower.name)  # by itself it would go on as long as this step's pod is there, ended or not
            raise
        except DataError:
            _tidy(cluster, follower.name, exchange)  # or Kubernetes would start the workers again
            raise
    exchange.fetch_result(adapter, out)
    _tidy(cluster, follower.name, exchange)


def _failure(exchange: Exchange) -> str | None:
    try:
        return exchange.failure()
    except UserError as error:  # the store may be back soon
        raise Away(str(error)) from None


def _delete(cluster: Cluster, name: str) -> None:
    try:
        cluster.delete(name)
    except (Away, UserError) as error:
        runtime.note(f"train: the TrainJob {name} could not be deleted, and goes with this step's pod: {error}")


def _tidy(cluster: Cluster, name: str, exchange: Exchange) -> None:
    _delete(cluster, name)
    try:
        exchange.clear()
    except UserError as error:
        runtime.note(f"train: {exchange.place} could not be removed from the store: {error}")


@contextmanager
def _sigterm_stops(follower: Follower) -> Iterator[None]:
    """While the block runs SIGTERM tells the follower to stop."""

    def stop(*_: object) -> None:
        follower.told_to_stop = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
