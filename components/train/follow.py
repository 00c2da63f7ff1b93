"""A TrainJob from its creation to its end, as its step sees it: found again, waited for, its first worker's log printed."""

import sys
import time
from collections.abc import Callable
from typing import Any

from calltune import runtime
from calltune.errors import DataError, Stopped
from components.train.cluster import Away, Cluster, number

POLL_S = 10.0
SLICE_S = 0.5
PATIENCE_S = 60.0
"""How long a worker may wait to start before it is said why."""
AWAY_S = 1800.0
"""How long Kubernetes, or the store, may be away while the job goes on without them."""
LAST_LINES = 20
"""Of each worker but the first, printed when the job has failed."""


class Vanished(Exception):
    """The job was deleted while it went on."""


class Follower:
    """One job of a cluster.

    Attributes:
        name: of the job.
        told_to_stop: whoever waits in here ends with `Stopped` within a second. A signal's handler sets it: an exception that it
            raised itself boto3 would take for one of the connection.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name, self.told_to_stop = cluster, name, False
        self._log = _Log(cluster)
        self._told = ""
        self._waiting_since = time.monotonic()

    def begin(self, manifest: dict[str, Any], prepare: Callable[[], None]) -> bool:
        """Create the job, unless it is there and goes on; returns whether it was created.

        One that has ended, or whose owner is gone, so that Kubernetes is about to delete it, goes first.

        Args:
            manifest: of the job.
            prepare: brings what the workers need.
        """
        while True:
            job = self._patiently(self.cluster.job, self.name)
            if job is None:
                prepare()
                if self._patiently(self.cluster.create, manifest):
                    workers = manifest["spec"]["trainer"]["numNodes"]
                    self._say(f"the TrainJob {self.name} has been created, with {workers} workers")
                    self._waiting_since = time.monotonic()
                    return True
                continue  # somebody else was faster
            leaving = job["metadata"].get("deletionTimestamp") is not None
            if not leaving and state(job) is None and self._has_owner(job):
                self._say(f"the TrainJob {self.name} goes on, and is followed")
                return False
            if not leaving and state(job) is not None:
                self._patiently(self.cluster.delete, self.name)
            self._say(f"an earlier TrainJob {self.name} is on its way out, and is waited for")
            self._pause()

    def follow(self, failure: Callable[[], str | None]) -> None:
        """Print the first worker's log until the job is complete.

        Args:
            failure: the error that a worker has left word of, since trying again does not mend it; None where none has.

        Raises:
            DataError: a worker has left word.
            Stopped: it was told to.
            Vanished: somebody has deleted the job.
            RuntimeError: it has failed; Kubernetes says why.
        """
        while True:
            job = self._patiently(self.cluster.job, self.name)
            pods = self._patiently(self.cluster.workers, self.name)
            self._patiently(self._log.print_new, pods)
            left = self._patiently(failure)  # after the job, which may have ended with it
            if left is not None:
                raise DataError(left)
            if job is None or job["metadata"].get("deletionTimestamp") is not None:
                raise Vanished
            ended = state(job)
            if ended is not None:
                self._require_complete(ended, pods)
                return
            self._say_what_it_waits_for(pods)
            self._pause()

    def _require_complete(self, ended: dict[str, Any], pods: list[Any]) -> None:
        if ended["type"] == "Complete":
            return
        for pod in pods:
            if number(pod) > 0:
                text = self._patiently(self.cluster.log, pod.metadata.name, None, LAST_LINES)
                _print(f"the last lines of worker {number(pod)}:\n{_without_times(text)}")
        raise RuntimeError(f"the TrainJob {self.name} has failed: {ended.get('reason', '')}: {ended.get('message', '')}")

    def _has_owner(self, job: dict[str, Any]) -> bool:
        owners = job["metadata"].get("ownerReferences", [])
        return all(self._patiently(self.cluster.has_pod, owner["name"], owner["uid"]) for owner in owners)

    def _say_what_it_waits_for(self, pods: list[Any]) -> None:
        waits = [f"worker {number(pod)} waits: {reason}" for pod in pods if (reason := _waits_for(pod))]
        if pods and not waits:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since >= PATIENCE_S:
            self._say("; ".join(waits) or f"Kubernetes has made no pod of the TrainJob {self.name}: kubectl describe it")

    def _patiently(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, also of somebody who is away for a while: meanwhile the job goes on.

        Raises:
            TimeoutError: it stays away.
        """
        begun, said = time.monotonic(), False
        while True:
            try:
                return ask(*arguments)
            except Away as away:
                if time.monotonic() - begun > AWAY_S:
                    raise TimeoutError(f"{away}, for {AWAY_S:.0f} s") from None
                if not said:
                    runtime.note(f"train: {away}; the job goes on, and is looked for again")
                said = True
                self._pause()

    def _pause(self) -> None:
        until = time.monotonic() + POLL_S
        while not self.told_to_stop and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_S))
        if self.told_to_stop:
            raise Stopped(
                "stopped by SIGTERM: its TrainJob is deleted, and the same step started again goes on from its checkpoint"
            )

    def _say(self, what: str) -> None:
        if what != self._told:
            runtime.note(f"train: {what}")
        self._told = what


class _Log:
    """What the first worker prints, each line once, also after its container or its pod was started again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._newest = ""
        self._read_at: float | None = None
        self._seen: tuple[str, int] = ("", 0)

    def print_new(self, pods: list[Any]) -> None:
        first = [pod for pod in pods if number(pod) == 0]
        if not first:
            return
        pod, now = first[-1], time.monotonic()
        # Some more than since the last time: what was printed already is known by its time.
        since = None if self._read_at is None else now - self._read_at + POLL_S
        restarts = sum(status.restart_count for status in pod.status.container_statuses or [])
        text = ""
        if restarts > self._seen[1] and pod.metadata.name == self._seen[0]:
            text = self.cluster.log(pod.metadata.name, since, before=True)
        text += self.cluster.log(pod.metadata.name, since)
        self._read_at, self._seen = now, (pod.metadata.name, restarts)
        new = [line for line in text.splitlines() if line.partition(" ")[0] > self._newest]
        if new:
            self._newest = new[-1].partition(" ")[0]
            _print(_without_times("\n".join(new)))


def state(job: dict[str, Any]) -> dict[str, Any] | None:
    """The condition that ended a job, Complete or Failed; None while it goes on."""
    conditions = (job.get("status") or {}).get("conditions") or []
    ended: list[dict[str, Any]] = [c for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
    return ended[-1] if ended else None


def _waits_for(pod: Any) -> str:
    """Why a pod has not started, as Kubernetes says it; empty where it has."""
    if pod.status.phase != "Pending":
        return ""
    for status in pod.status.container_statuses or []:
        if status.state and status.state.waiting:
            return ": ".join(filter(None, (status.state.waiting.reason, status.state.waiting.message)))
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.message)
    return "it is pending"


def _without_times(text: str) -> str:
    return "\n".join(line.partition(" ")[2] for line in text.splitlines())


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
