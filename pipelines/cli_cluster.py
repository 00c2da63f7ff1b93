"""Runs on a cluster: submit them, look at them, stop them."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from calltune.errors import UserError
from pipelines import cli_schedule, cli_watch
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
from pipelines.options import REFUSED, Config, Overrides

if TYPE_CHECKING:
    from pipelines.kubeflow import Kubeflow


app = typer.Typer()
runs_app = typer.Typer(help="Runs on Kubeflow Pipelines.\n\nExample: calltune runs list --host http://localhost:8888")
app.add_typer(runs_app, name="runs", no_args_is_help=True)
app.add_typer(cli_schedule.app, name="schedule", no_args_is_help=True)
app.add_typer(cli_watch.app)

RunId = Annotated[str, typer.Argument(help="The run's id, as `calltune runs list` shows it.")]


@app.command()
def submit(
    config: Config,
    set_: Overrides = [],  # noqa: B006
    host: Host = None,
    namespace: Namespace = None,
    experiment: Experiment = None,
    token_file: TokenFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, and exit as `calltune run` would.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait, and say what each step does.")] = False,
    require_promotion: Annotated[bool, typer.Option("--require-promotion", help="Exit with 3 if the gate refuses.")] = False,
    resubmit: Annotated[int, typer.Option(help="With --wait: submit a failed run again, so many times.", min=0, max=20)] = 0,
    no_preflight: NoPreflight = False,
    dry_run: DryRun = False,
) -> None:
    """Run the pipeline on Kubeflow Pipelines.

    Example: calltune submit -c run.yaml --host http://localhost:8888 --wait
    """
    from pipelines.submit import prepare, run_once

    waiting = wait or follow
    if (resubmit or require_promotion) and not waiting:
        raise UserError(f"{'--resubmit' if resubmit else '--require-promotion'}: needs --wait, without which nobody sees the end")
    settings = loaded(config, set_)
    if dry_run:
        prepared = prepare(settings, None, print)
        print(f"dry run      {prepared.package.name} {prepared.package.version}, {len(prepared.package.text):,} bytes")
        print(NOT_ASKED)
        return
    kubeflow = connected(settings, host, namespace, token_file)
    prepared = prepare(settings, kubeflow, print, not no_preflight)
    end = run_once(prepared, kubeflow, experiment, resubmit, print, follow, waiting)
    if end is None:
        return
    if end.summary is None:
        print(f"calltune: {end.message}", file=sys.stderr)
        raise typer.Exit(end.exit_code)
    print(end.message)
    if require_promotion and end.summary["outcome"] == "refused":
        raise typer.Exit(REFUSED)


@runs_app.command("list")
def list_(
    config: MaybeConfig = None,
    host: Host = None,
    namespace: Namespace = None,
    experiment: Annotated[str | None, typer.Option(help="Only this experiment's.")] = None,
    token_file: TokenFile = None,
    count: Annotated[int, typer.Option("-n", help="How many, the newest first.", min=1)] = 20,
) -> None:
    """List runs, the newest first.

    Example: calltune runs list --host http://localhost:8888
    """
    from itertools import islice

    kubeflow = connected(maybe_loaded(config), host, namespace, token_file)
    options = {"namespace": kubeflow.namespace, "sort_by": "created_at desc"}
    if experiment is not None:
        options |= {"experiment_id": _experiment_id(kubeflow, experiment)}
    for run in islice(kubeflow.all(kubeflow.client.list_runs, "runs", **options), count):
        print(f"{run.run_id}  {(run.state or 'PENDING').lower():<10} {run.created_at:%Y-%m-%d %H:%M}  {run.display_name}")


@runs_app.command()
def show(
    run_id: RunId,
    config: MaybeConfig = None,
    host: Host = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json, with -c.")] = False,
) -> None:
    """Show how a run is doing, and with -c what came of it.

    Example: calltune runs show 7c1d… -c run.yaml
    """
    from pipelines.inputs import store_of
    from pipelines.submit import ENDED, ending, tasks

    if as_json and config is None:
        raise UserError("--json: summary.json is in the store; -c FILE says which")
    settings = maybe_loaded(config)
    kubeflow = connected(settings, host, namespace, token_file)
    run = kubeflow.run(run_id)
    end = None
    if settings is not None and run.state in ENDED:
        with store_of(settings) as store:
            end = ending(run, store)
    if as_json:
        if end is None or end.summary is None:
            state = (run.state or "PENDING").lower()
            raise UserError(f"run {run_id}: no summary: {end.message if end else f'it is {state}'}")
        print(json.dumps(end.summary, indent=1, ensure_ascii=False))
        return
    print(f"{run.run_id}  {(run.state or 'PENDING').lower()}  {run.display_name}  {kubeflow.link('runs', run.run_id)}")
    for name, state in tasks(run):
        print(f"  {name:<14} {state.lower()}")
    if end is not None:
        print(end.message)


@runs_app.command()
def logs(
    run_id: RunId,
    step: Annotated[str, typer.Option(help="Only this task: train, evaluate-2; all by default.")] = "",
    config: MaybeConfig = None,
    namespace: Namespace = None,
) -> None:
    """Print what a run's steps have printed, read from Kubernetes.

    Example: calltune runs logs 7c1d… --step train --namespace team-a
    """
    from pipelines.kube import Kube, Unknown

    settings = maybe_loaded(config)
    place = namespace or (settings.cluster.namespace if settings else "kubeflow")
    try:
        for task, text in Kube(place).logs(run_id, step):
            for line in text.splitlines():
                print(f"{task:<14} {line}")
    except Unknown as error:
        raise UserError(f"logs are read with kubectl's credentials, and {error}: kubectl get pods -n {place} must work") from None


@runs_app.command()
def stop(
    run_id: RunId, config: MaybeConfig = None, host: Host = None, namespace: Namespace = None, token_file: TokenFile = None
) -> None:
    """Stop a run; what its steps have kept stays. With -c the store has it too, so that nobody submits the run again.

    Example: calltune runs stop 7c1d… -c run.yaml
    """
    from datetime import UTC, datetime

    from pipelines.inputs import store_of
    from pipelines.submit import ENDED, stopped_key

    settings = maybe_loaded(config)
    kubeflow = connected(settings, host, namespace, token_file)
    run = kubeflow.run(run_id)
    if run.state in ENDED:
        raise UserError(f"run {run_id}: has ended already: {run.state.lower()}")
    kubeflow.call(kubeflow.client.terminate_run, run_id)
    print(f"run          {run_id}: stopping")
    if settings is not None:
        with store_of(settings) as store:
            store.put_json(stopped_key(run_id), {"time": datetime.now(UTC).isoformat(timespec="seconds")})


def _experiment_id(kubeflow: "Kubeflow", name: str) -> str:
    found = kubeflow.all(kubeflow.client.list_experiments, "experiments", namespace=kubeflow.namespace)
    names = {item.display_name: item.experiment_id for item in found}
    if name not in names:
        raise UserError(f"--experiment {name}: there is none of that name; there is {', '.join(sorted(names)) or 'none'}")
    return str(names[name])
