"""Submit a run to Kubeflow Pipelines, and wait for its verdict."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from calltune import storage
from calltune.errors import Unavailable, UserError
from pipelines.check import check
from pipelines.config import RunConfig
from pipelines.endpoint import Away
from pipelines.inputs import Inputs, require_cluster_places, store_of
from pipelines.kubeflow import Kubeflow, Lost, Missing
from pipelines.package import Package, package
from pipelines.preflight import look

POLL_S = 10.0
SUBMIT_S = 60.0
"""For which each request that submits is asked again: a minute without an API, as a restart of it has, is not the end of what
took hours to prepare."""
PATIENCE_S = 300.0
"""For which polls may fail before waiting ends: five minutes without an API are an upgrade of it, not the end of the run."""
ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
STOPPING = ("CANCELING", "CANCELED")
"""States of a run that somebody has told to stop. KFP's own last word on it is FAILED, as on one that failed by itself."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A run that can be submitted.

    Attributes:
        config: with every input in the store.
        package: compiled from it.
    """

    config: RunConfig
    package: Package


@dataclass(frozen=True)
class Ending:
    """How a submitted run ended.

    Attributes:
        exit_code: 0 done, 2 an error in config or data, 1 anything else.
        summary: `summary.json`; None where the run failed.
        message: one sentence.
        again: whether the same run may end better a second time: it failed, and not for its config or data.
    """

    exit_code: int
    summary: dict[str, Any] | None
    message: str
    again: bool = False


def prepare(config: RunConfig, kubeflow: Kubeflow | None, say: Say, preflight: bool = True) -> Prepared:
    """Check everything that can be checked from here, bring the inputs into the store, and compile.

    Args:
        config: as the user wrote it.
        kubeflow: where it will run; None for a dry run, which uploads nothing, and asks neither store nor cluster.
        say: gets a line for what was found.
        preflight: look at store and cluster before.

    Raises:
        UserError: what is wrong, and what would be right.
    """
    require_cluster_places(config)
    with store_of(config) as store:
        if preflight and kubeflow is not None:
            for line in look(config, kubeflow):
                say(line)
        for line in check(config, here=False):
            if line.startswith("warning"):
                say(line)
        inputs = Inputs(config.storage.uri, None if kubeflow is None else store)
        brought = inputs.bring(config)
        for key in inputs.uploaded:
            say(f"uploaded     {store.uri}/{key}")
        return Prepared(brought, package(brought))


def submit(prepared: Prepared, kubeflow: Kubeflow, experiment: str | None, say: Say) -> str:
    """Upload the package as a pipeline version and start a run of it; returns the run's id.

    Raises:
        Away: the API is, for longer than a minute.
    """
    config = prepared.config
    pipeline, version, new = _patiently(lambda _: kubeflow.version(prepared.package), SUBMIT_S, say)
    say(f"version      {prepared.package.name} {prepared.package.version}{'' if new else ' (there already)'}")
    listed = experiment or config.cluster.experiment or config.name
    experiment_id = _patiently(lambda _: kubeflow.experiment(listed), SUBMIT_S, say)
    name = f"{config.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"

    lost: list[Lost] = []

    def start(again: bool) -> Any:
        # Whose answer was lost may have started it all the same, or may yet: it is looked for, and never asked for twice.
        there = kubeflow.run_named(name, experiment_id) if again else None
        if there is None and lost:
            raise Away(f"{lost[0]}; whether the run {name!r} begins is not known: `calltune runs list` says later")
        try:
            return there or kubeflow.call(
                kubeflow.client.run_pipeline,
                experiment_id=experiment_id,
                job_name=name,
                pipeline_id=pipeline,
                version_id=version,
                service_account=config.cluster.service_account or None,
            )
        except Lost as error:
            lost.append(error)
            raise

    run = _patiently(start, SUBMIT_S, say)
    say(f"run          {run.run_id}  {kubeflow.link('runs', run.run_id)}")
    return str(run.run_id)


def wait(kubeflow: Kubeflow, config: RunConfig, run_id: str, say: Say | None = None) -> Ending:
    """Wait until a run has ended; returns how.

    Args:
        kubeflow: where it runs.
        config: whose store has its results.
        run_id: of KFP.
        say: gets a line each time that a task's state changes; None for silence.
    """
    seen: dict[str, str] = {}
    told_to_stop = False
    for run in _polled(kubeflow, run_id):
        for name, state in tasks(run):
            if say and seen.get(name) != state:
                say(f"{time.strftime('%H:%M:%S')}  {name:<14} {state.lower()}")
            seen[name] = state
        told_to_stop = told_to_stop or run.state in STOPPING
        if run.state in ENDED:
            with store_of(config) as store:
                return ending(run, store, told_to_stop)
        time.sleep(POLL_S)
    raise AssertionError("a run is polled until it has ended")


def _polled(kubeflow: Kubeflow, run_id: str) -> Iterator[Any]:
    while True:
        try:
            yield _patiently(lambda _: kubeflow.run(run_id), PATIENCE_S, passing=UserError)
        except Missing:
            raise
        except UserError as error:
            # Nothing is wrong with config or data: an exit code of 2 would say so.
            raise Unavailable(f"{error}; the run goes on, `calltune runs show {run_id}` says how it is") from None


def _patiently(ask: Callable[[bool], Any], for_s: float, say: Say | None = None, passing: type[UserError] = Away) -> Any:
    """The answer, also of somebody who is away for a while; the error that comes after this while is raised.

    Args:
        ask: gets whether it has been asked before, in vain.
        for_s: seconds. Tries are `POLL_S` apart, and each may itself wait for an answer.
        say: gets the first error.
        passing: errors that may pass; of them `Missing` never does.
    """
    until, again = time.monotonic() + for_s, False
    while True:
        try:
            return ask(again)
        except passing as error:
            if isinstance(error, Missing) or time.monotonic() >= until:
                raise
            if say and not again:
                say(f"{error}; asked again for {for_s:.0f} s")
        again = True
        time.sleep(POLL_S)


def tasks(run: Any) -> list[tuple[str, str]]:
    """Name and state of a run's steps, without KFP's own drivers."""
    details = (run.run_details.task_details if run.run_details else None) or []
    named = [task for task in details if task.display_name and not task.display_name.endswith("-driver")]
    return [(task.display_name, task.state or "PENDING") for task in named if task.display_name != "executor"]


def stopped_key(run_id: str) -> str:
    """Where `calltune runs stop` leaves word in the store: KFP need not say afterwards that a run was told to stop."""
    return f"runs/{run_id}/stopped.json"


def ending(run: Any, store: storage.Store, told_to_stop: bool = False) -> Ending:
    """What the store says of a run that has ended; a run without a summary has failed.

    Args:
        run: as KFP has it.
        store: with its results.
        told_to_stop: somebody has seen that it was; else KFP's history of the run and the store say whether.
    """
    summary = store.get_json(f"runs/{run.run_id}/summary.json")
    if run.state == "SUCCEEDED" and summary is not None:
        return Ending(0, summary, verdict(summary))
    # First: a step that SIGTERM ended says the same, whether its node was drained or its run stopped.
    states = {run.state, *(status.state for status in run.state_history or [])}
    if told_to_stop or states & {*STOPPING} or store.get(stopped_key(run.run_id)) is not None:
        return Ending(1, None, f"run {run.run_id} was stopped")
    records = [store.get_json(key) for key in store.list(f"runs/{run.run_id}/steps/")]
    failure = next((record["error"] for record in records if record and record["error"]), None)
    if failure:
        return Ending(failure["code"], None, f"{failure['step']}: {failure['message']}", again=failure["code"] == 1)
    reason = run.error.message if run.error and run.error.message else "no step has said why"
    message = f"run {run.run_id} failed: {reason}; `calltune runs logs {run.run_id}` has what its steps printed"
    return Ending(1, None, message, again=True)


def verdict(summary: dict[str, Any]) -> str:
    """The outcome in one sentence, with the gate's reasons where it refused."""
    if summary["outcome"] == "promoted":
        promoted = summary["promoted"]
        what = f"{promoted['model']} version {promoted['version']} is {promoted['alias']}"
        return f"promoted: {what}{', as before' if promoted['unchanged'] else ''}"
    if summary["outcome"] == "refused":
        reasons = [check["reason"] for check in summary["gate"]["checks"] if not check["passed"]]
        # Where the gate has passed, promote has found a reason: somebody else was faster, or has gone back from this model.
        return f"refused: {'; '.join(reasons) or summary['reason']}"
    return "nothing new: the champion was trained on the same data, tools and base model"


def run_once(
    prepared: Prepared, kubeflow: Kubeflow, experiment: str | None, resubmit: int, say: Say, follow: bool, waiting: bool
) -> Ending | None:
    """Submit, and wait if asked to; a run that failed, but not for its data, is submitted again up to `resubmit` times.

    Returns:
        How it ended; None without waiting.
    """
    for left in range(resubmit, -1, -1):
        try:
            run_id = submit(prepared, kubeflow, experiment, say)
        except Away as error:
            if left == resubmit:
                raise
            # Once a run has begun, an exit code of 2 would say that its config or data is wrong.
            raise Unavailable(f"{error}; not submitted again") from None
        if not waiting:
            return None
        end = wait(kubeflow, prepared.config, run_id, say if follow else None)
        if not end.again or not left:
            return end
        say(f"{end.message}; submitted again, goes on from what its steps have kept")
    raise AssertionError("the last submission returns")
