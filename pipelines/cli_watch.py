"""Retraining when there is a reason to, and not before."""

import os
from threading import Event
from typing import Annotated

import typer

from calltune.errors import UserError
from pipelines.connect import Experiment, Host, Namespace, NoPreflight, TokenFile, connected, loaded
from pipelines.options import Config, Overrides

app = typer.Typer()
TOKEN = "CALLTUNE_WATCH_TOKEN"


@app.command()
def watch(
    config: Config,
    set_: Overrides = [],  # noqa: B006
    once: Annotated[bool, typer.Option("--once", help="Look once and end: what a CronJob starts.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=1, max=86_400)] = 300,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Take bucket notifications over HTTP, and look at once.")
    ] = None,
    settle: Annotated[float, typer.Option(help="Seconds for which data must not change before a run.", min=0, max=3600)] = 60,
    host: Host = None,
    namespace: Namespace = None,
    experiment: Experiment = None,
    token_file: TokenFile = None,
    no_preflight: NoPreflight = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look once, and submit nothing.")] = False,
) -> None:
    """Submit a run when there is a reason to train, such as new data; one run at a time. docs/cluster-runs.md has the reasons.

    Example: calltune watch -c run.yaml --once
    """
    from pipelines.notifications import listening
    from pipelines.watch import Watched, at_hand, in_buckets, keep_looking, look

    if listen and (once or dry_run):
        raise UserError(f"--listen: {'--once' if once else '--dry-run'} ends after one look, and hears nothing")
    settings = loaded(config, [*set_, "retrain.when=changed"])
    in_store = in_buckets(settings)
    if listen and not in_store:
        raise UserError(f"--listen: no bucket tells of {settings.ingest.source}, which is on this machine: put the data into S3")
    kubeflow = None if dry_run else connected(settings, host, namespace, token_file)
    listed = experiment or settings.cluster.experiment or settings.name
    watched = Watched(at_hand(settings), kubeflow, listed, settle, not no_preflight)
    if once or dry_run:
        print(look(watched, print))
        return
    wake = Event()

    def say(line: str) -> None:
        print(line, flush=True)

    if listen is None:
        keep_looking(watched, every, wake, say)
        return
    with listening(listen, in_store, wake.set, os.environ.get(TOKEN, "").strip()) as address:
        say(f"listening    {address}, for {', '.join(in_store)}")
        keep_looking(watched, every, wake, say)
