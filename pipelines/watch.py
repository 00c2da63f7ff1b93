"""Submit a run when there is a reason to: what `calltune watch` does, at one look or at one after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

from calltune import ledger, storage
from calltune.errors import UserError
from calltune.records import sha256
from components.look.config import LookConfig
from components.look.fingerprint import of_run
from components.look.reason import Reason, reason
from pipelines.config import RunConfig
from pipelines.inputs import Inputs, require_cluster_places, store_of
from pipelines.kubeflow import Kubeflow, Missing
from pipelines.package import pipeline_name
from pipelines.submit import ENDED, Say, ending, prepare, submit

TRIES = 3
"""Of a run that failed, but not for its data or config: what KFP's retries and these do not mend, somebody must."""
CLAIM = timedelta(minutes=10)
"""After which a claim without a run is of a watch that has ended while it submitted."""
SETTLE_LOOKS = 10
PATIENCE = 30
"""Looks in a row that may fail before the watch ends, so that Kubernetes sees it."""


@dataclass(frozen=True)
class Watched:
    """What is watched, and where runs of it go.

    Attributes:
        config: its base model in the store already.
        kubeflow: where runs are submitted; None where none is to be.
        experiment: that runs are listed under.
        settle_s: seconds for which the data must not change before a run is submitted.
        preflight: look at store and cluster before.
    """

    config: RunConfig
    kubeflow: Kubeflow | None
    experiment: str
    settle_s: float
    preflight: bool


@dataclass(frozen=True)
class Seen:
    """What one look finds.

    Attributes:
        fingerprint: of data, tools and base model.
        reason: to train; None where there is none.
        tries: folder in the store of what has been submitted for this reason, this data and this config.
    """

    fingerprint: str
    reason: Reason | None
    tries: str


def at_hand(config: RunConfig) -> RunConfig:
    """The config with its base model in the store: of many gigabytes the checksums are taken once, not at each look.

    Raises:
        ConfigError: store or tracking are where no pod finds them.
        DataError: what it names is not there.
    """
    require_cluster_places(config)
    with store_of(config) as store:
        brought = Inputs(config.storage.uri, store).bring(config)
    return config.model_copy(update={"model": brought.model, "resources": brought.resources})


def in_buckets(config: RunConfig) -> list[str]:
    """The addresses of data, tools and base model that a bucket can tell of."""
    named = [*(one.source for one in config.ingest.sources), config.ingest.tools, config.model.base]
    return [address for address in named if address.startswith("s3://")]


def look(watched: Watched, say: Say) -> str:
    """Look once, and submit a run if there is a reason to; returns what came of it, as a line.

    Args:
        watched: what and where.
        say: gets a line for each thing that was done.

    Raises:
        UserError: it cannot be looked at, or not be submitted.
    """
    seen = _seen(watched)
    for _ in range(SETTLE_LOOKS):
        if seen.reason is None:
            return "nothing new  since the champion was trained"
        obstacle = _obstacle(watched, seen)
        if obstacle:
            return f"not now      {seen.reason.text}, but {obstacle}"
        if watched.kubeflow is None:
            return f"dry run      would submit, if no run is under way, which KFP was not asked: {seen.reason.text}"
        if not watched.settle_s:
            return _submitted(watched, watched.kubeflow, seen, say)
        time.sleep(watched.settle_s)
        before, seen = seen, _seen(watched)
        if before == seen:
            return _submitted(watched, watched.kubeflow, seen, say)
    return f"not now      the data has not been the same for {watched.settle_s:g} s in {SETTLE_LOOKS} looks"


def keep_looking(watched: Watched, every_s: float, wake: Event, say: Say, look: Callable[[Watched, Say], str] = look) -> None:
    """Look again and again, after `every_s` seconds or when `wake` is set; what is the same as before is not said again.

    Raises:
        UserError: `PATIENCE` looks in a row have failed.
    """
    said, failures = "", 0
    while True:
        wake.clear()  # before the look: what comes in meanwhile is looked at next
        try:
            line, failures = look(watched, say), 0
        except UserError as error:
            failures += 1
            if failures == PATIENCE:
                raise
            line = f"warning: {error}"
        if line != said:
            say(f"{time.strftime('%H:%M:%S')}  {line}")
        said = line
        wake.wait(every_s)


def _seen(watched: Watched) -> Seen:
    with store_of(watched.config) as store:
        config = Inputs(watched.config.storage.uri, store).bring(watched.config)
        asked = LookConfig(**config.for_step("look"))
        found = of_run(asked)
        history = ledger.entries(asked.name, asked.alias)
        why = reason(asked, found, history)
        # Other settings and other images may do better with the same data. A champion grows old, and drifts away, each by itself.
        of = [found, config.sha256, config.images.model_dump(), why.kind if why else ""]
        of += [history[-1]["n"]] if why and why.kind in ("age", "drift") else []
    return Seen(found, why, f"watch/{asked.name}/{asked.alias}/{sha256(of)}")


def _obstacle(watched: Watched, seen: Seen) -> str:
    """Why no run is to be submitted although there is a reason to; empty where nothing speaks against it."""
    with store_of(watched.config) as store:
        tries = _tries(store, seen)
        if tries and tries[-1]["run_id"] is None and datetime.now(UTC) - datetime.fromisoformat(tries[-1]["time"]) < CLAIM:
            return "another watch is submitting it"
        if watched.kubeflow is None:
            return ""
        busy = _under_way(watched, watched.kubeflow)
        if busy:
            return f"run {busy} is under way"
        if tries and tries[-1]["run_id"]:
            told, again = _ended(watched.kubeflow, store, tries[-1]["run_id"])
            if not again:
                return f"a run has tried: {told}"
        if len(tries) >= TRIES:
            return f"{len(tries)} runs have failed; `calltune submit` tries again"
    return ""


def _tries(store: storage.Store, seen: Seen) -> list[dict[str, Any]]:
    found = [store.get_json(key) for key in store.list(seen.tries)]
    return [one for one in found if one is not None]


def _under_way(watched: Watched, kubeflow: Kubeflow) -> str:
    """A run of this pipeline that has not ended, whoever has started it; empty where there is none."""
    pipeline = kubeflow.pipeline(pipeline_name(watched.config))
    if pipeline is None:
        return ""
    options = {"namespace": kubeflow.namespace, "experiment_id": kubeflow.experiment(watched.experiment)}
    # The newest only: none before them goes on while fifty others begin.
    page = kubeflow.call(kubeflow.client.list_runs, sort_by="created_at desc", page_size=50, **options)
    runs = [run for run in page.runs or [] if run.state not in ENDED]
    own = (run for run in runs if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline)
    return next((str(run.run_id) for run in own), "")


def _ended(kubeflow: Kubeflow, store: storage.Store, run_id: str) -> tuple[str, bool]:
    """How a run has ended, and whether it may end better a second time."""
    try:
        run = kubeflow.run(run_id)
    except Missing:
        return f"run {run_id} was deleted", False
    if run.state not in ENDED:
        return f"run {run_id} has not ended", False
    end = ending(run, store)
    return end.message, end.again


def _submitted(watched: Watched, kubeflow: Kubeflow, seen: Seen, say: Say) -> str:
    assert seen.reason is not None
    say(f"reason       {seen.reason.text}")
    prepared = prepare(watched.config, kubeflow, say, watched.preflight)
    with store_of(watched.config) as store:
        number = len(_tries(store, seen)) + 1
        claim = {"run_id": None, "time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": seen.reason.text}
        try:
            store.put_json(f"{seen.tries}/{number}.json", claim, only_if_new=True)
        except storage.AlreadyThere:
            return "not now      another watch is submitting it"
        try:
            run_id = submit(prepared, kubeflow, watched.experiment, say)
        except UserError:
            store.delete(f"{seen.tries}/{number}.json")
            raise
        store.put_json(f"{seen.tries}/{number}.json", {**claim, "run_id": run_id})
    return f"submitted    {run_id}: {seen.reason.text}"
