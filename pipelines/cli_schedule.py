"""Recurring runs on a cluster."""

from typing import Annotated

import typer

from calltune.errors import UserError
from pipelines.connect import (
    NOT_ASKED,
    DryRun,
    Experiment,
    Host,
    MaybeConfig,
    Namespace,
    NoPreflight,
    TokenFile,
    connected,
    loaded,
    maybe_loaded,
)
from pipelines.options import Config, Overrides

app = typer.Typer(help="Recurring runs on Kubeflow Pipelines.\n\nExample: calltune schedule list --host http://localhost:8888")

ScheduleName = Annotated[str, typer.Argument(help="The schedule's name, as `calltune schedule list` shows it.")]


@app.command()
def create(
    config: Config,
    cron: Annotated[str, typer.Option(help="Five fields: minute, hour, day, month, weekday. '0 3 * * 1': Mondays at 3.")],
    set_: Overrides = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Of the schedule; the config's name by default.")] = None,
    always: Annotated[bool, typer.Option("--always", help="Train each time, also where nothing has changed.")] = False,
    host: Host = None,
    namespace: Namespace = None,
    experiment: Experiment = None,
    token_file: TokenFile = None,
    no_preflight: NoPreflight = False,
    dry_run: DryRun = False,
) -> None:
    """Retrain by the calendar, where there is a reason to; again with the same settings it changes nothing.

    Example: calltune schedule create -c run.yaml --cron "0 3 * * 1"
    """
    from pipelines import schedule
    from pipelines.cron import six_fields
    from pipelines.submit import prepare

    six_fields(cron)
    settings = loaded(config, [*set_, f"retrain.when={'always' if always else 'changed'}"])
    called = settings.name if name is None else name.strip()
    if not called:
        raise UserError("--name: is empty; without it the schedule is called as the config is")
    kubeflow = None if dry_run else connected(settings, host, namespace, token_file)
    prepared = prepare(settings, kubeflow, print, not no_preflight)
    wanted = schedule.Wanted(called, cron, prepared, experiment or settings.cluster.experiment or settings.name)
    if kubeflow is None:
        print(f"dry run      {called}: {six_fields(cron)!r} for KFP, {prepared.package.name} {prepared.package.version}")
        print(NOT_ASKED)
    else:
        id_ = schedule.create(kubeflow, wanted, print)
        print(f"link         {kubeflow.link('recurringrun', id_)}")
    print(schedule.times(wanted))


@app.command("list")
def list_(config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None) -> None:
    """List the schedules, with KFP's six-field cron.

    Example: calltune schedule list --host http://localhost:8888
    """
    from pipelines import schedule

    for item in schedule.all_of(connected(maybe_loaded(config), host, namespace, token_file)):
        trigger = item.trigger.cron_schedule if item.trigger else None
        state = "on" if schedule.enabled(item) else "paused"
        print(f"{item.display_name:<24} {state:<7} {trigger.cron if trigger else 'by interval':<20} {schedule.described(item)}")


@app.command()
def pause(
    name: ScheduleName, config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None
) -> None:
    """Stop a schedule from starting runs.

    Example: calltune schedule pause helpdesk --host http://localhost:8888
    """
    from pipelines import schedule

    kubeflow = connected(maybe_loaded(config), host, namespace, token_file)
    kubeflow.call(kubeflow.client.disable_recurring_run, schedule.one(kubeflow, name).recurring_run_id)
    print(f"schedule     {name}: paused")


@app.command()
def resume(
    name: ScheduleName, config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None
) -> None:
    """Let a paused schedule start runs again; what it has missed is not caught up.

    Example: calltune schedule resume helpdesk --host http://localhost:8888
    """
    from pipelines import schedule

    kubeflow = connected(maybe_loaded(config), host, namespace, token_file)
    kubeflow.call(kubeflow.client.enable_recurring_run, schedule.one(kubeflow, name).recurring_run_id)
    print(f"schedule     {name}: on")


@app.command()
def delete(
    name: ScheduleName, config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None
) -> None:
    """Delete a schedule; runs that it has started go on.

    Example: calltune schedule delete helpdesk --host http://localhost:8888
    """
    from pipelines import schedule

    kubeflow = connected(maybe_loaded(config), host, namespace, token_file)
    kubeflow.call(kubeflow.client.delete_recurring_run, schedule.one(kubeflow, name).recurring_run_id)
    print(f"schedule     {name}: deleted")


@app.command("run-now")
def run_now(
    name: ScheduleName, config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None
) -> None:
    """Start a run of a schedule at once.

    Example: calltune schedule run-now helpdesk --host http://localhost:8888
    """
    from pipelines import schedule

    kubeflow = connected(maybe_loaded(config), host, namespace, token_file)
    run_id = schedule.run_now(kubeflow, name)
    print(f"run          {run_id}  {kubeflow.link('runs', run_id)}")
