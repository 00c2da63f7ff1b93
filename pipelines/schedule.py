"""Recurring runs: one schedule by name, pinned to a pipeline version; the same schedule created twice is one."""

import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Any

from calltune.errors import UserError
from pipelines.cron import next_times, six_fields
from pipelines.kubeflow import Kubeflow
from pipelines.submit import Prepared, Say

MARK = re.compile(r"calltune:([0-9a-f]{64})")
"""In a schedule's description: the hash of what it was made from."""
TO_BE_ON = "; replaces one that was on"
"""In the description, too: says of a replacement that was interrupted what was wanted, while both are disabled."""


@dataclass(frozen=True)
class Wanted:
    """A schedule as it should be.

    Attributes:
        name: by which it is known, one for each namespace.
        cron: five fields.
        prepared: the run.
        experiment: name of the experiment that its runs are listed under.
    """

    name: str
    cron: str
    prepared: Prepared
    experiment: str

    @property
    def sha256(self) -> str:
        """Of everything that makes a run of it what it is: package with its parameters, cron, account, experiment."""
        cluster = self.prepared.config.cluster
        made_from = [self.prepared.package.text, six_fields(self.cron), cluster.service_account, self.experiment]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def create(kubeflow: Kubeflow, wanted: Wanted, say: Say) -> str:
    """Have a schedule be there as it is wanted; returns its id.

    A changed one is made anew, disabled; the old one is disabled, the new one enabled, the old one deleted: at no time do both
    run, and whatever interrupts this, the next `create` finishes it, since a replacement without its old one is done. One that
    was paused stays so.

    Raises:
        UserError: a schedule of that name is there that Calltune has not made.
    """
    there = find(kubeflow, wanted.name)
    foreign = [item for item in there if not MARK.search(item.description or "")]
    if foreign:
        raise UserError(
            f"schedule {wanted.name}: there is one of that name that `calltune schedule` has not made "
            f"({kubeflow.link('recurringrun', foreign[0].recurring_run_id)}): delete it there, or use --name"
        )
    same = [item for item in there if f"calltune:{wanted.sha256}" in item.description]
    old = [item for item in there if item not in same[:1]]
    if same and not old:
        say(f"schedule     {wanted.name}: there already, nothing to do{'' if enabled(same[0]) else '; it is paused'}")
        return str(same[0].recurring_run_id)
    if not there:
        made = _made(kubeflow, wanted, on=True)
        say(f"schedule     {wanted.name}: created")
        return made
    on = any(enabled(item) for item in there) or (len(there) > 1 and any(TO_BE_ON in item.description for item in there))
    made = str(same[0].recurring_run_id) if same else _made(kubeflow, wanted, on=False, note=TO_BE_ON if on else "")
    for item in old:
        if enabled(item):
            kubeflow.call(kubeflow.client.disable_recurring_run, item.recurring_run_id)
    if on:
        kubeflow.call(kubeflow.client.enable_recurring_run, made)
    for item in old:
        kubeflow.call(kubeflow.client.delete_recurring_run, item.recurring_run_id)
    say(f"schedule     {wanted.name}: replaced{'' if on else ', still paused'}")
    return made


def _made(kubeflow: Kubeflow, wanted: Wanted, on: bool, note: str = "") -> str:
    config = wanted.prepared.config
    pipeline, version, _ = kubeflow.version(wanted.prepared.package)
    made = kubeflow.call(
        kubeflow.client.create_recurring_run,
        experiment_id=kubeflow.experiment(wanted.experiment),
        job_name=wanted.name,
        description=f"{wanted.cron} ({config.cluster.timezone}); calltune:{wanted.sha256}{note}",
        cron_expression=six_fields(wanted.cron),
        max_concurrency=1,
        # After a pause or an outage one run is enough: it sees all the data.
        no_catchup=True,
        pipeline_id=pipeline,
        version_id=version,
        enabled=on,
        service_account=config.cluster.service_account or None,
    )
    return str(made.recurring_run_id)


def times(wanted: Wanted) -> str:
    """The next three times, with their time zone, as a line."""
    zone = wanted.prepared.config.cluster.timezone
    shown = ", ".join(f"{moment:%a %Y-%m-%d %H:%M}" for moment in next_times(wanted.cron, zone))
    return f"next         {shown} ({zone})"


def all_of(kubeflow: Kubeflow) -> list[Any]:
    """Every schedule of the namespace."""
    return list(kubeflow.all(kubeflow.client.list_recurring_runs, "recurring_runs", namespace=kubeflow.namespace))


def find(kubeflow: Kubeflow, name: str) -> list[Any]:
    """The schedules of a name."""
    return [item for item in all_of(kubeflow) if item.display_name == name]


def one(kubeflow: Kubeflow, name: str) -> Any:
    """The schedule of a name.

    Raises:
        UserError: there is none, or more than one.
    """
    found = find(kubeflow, name)
    if len(found) > 1:
        raise UserError(
            f"schedule {name}: there are {len(found)} of that name: `calltune schedule create` with its config leaves one"
        )
    if not found:
        names = ", ".join(sorted({item.display_name for item in all_of(kubeflow)})) or "none"
        raise UserError(f"schedule {name}: there is none of that name in {kubeflow.place.namespace}; there is {names}")
    return found[0]


def described(schedule: Any) -> str:
    """What a schedule's description says to people: without the mark by which `create` knows it."""
    return MARK.split(schedule.description or "")[0].removesuffix("; ")


def enabled(schedule: Any) -> bool:
    """Whether it starts runs."""
    return (schedule.mode or schedule.status or "").startswith("ENABLE")


def run_now(kubeflow: Kubeflow, name: str) -> str:
    """Start a run of a schedule at once, besides its own; returns the run's id."""
    schedule = one(kubeflow, name)
    reference = schedule.pipeline_version_reference
    run = kubeflow.call(
        kubeflow.client.run_pipeline,
        experiment_id=schedule.experiment_id,
        job_name=f"{name} {time.strftime('%Y-%m-%d %H:%M:%S')} by hand",
        params=(schedule.runtime_config.parameters if schedule.runtime_config else None) or {},
        pipeline_id=reference.pipeline_id,
        version_id=reference.pipeline_version_id,
        service_account=schedule.service_account or None,
    )
    return str(run.run_id)
