"""What has been made so far, and what works from here: the registry, its ledger, the way back, MLflow's pages, the doctor."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calltune.errors import UserError
from pipelines.options import Config, Overrides, Workdir

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH = 200
"""Columns of a table that goes into a file or another program: wide enough not to be folded."""
app = typer.Typer()
models_app = typer.Typer(help="The model registry and its promotion ledger.\n\nExample: calltune models list -c FILE")
app.add_typer(models_app, name="models", no_args_is_help=True)


def _print(table: "Table", said: str = "") -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)
    if said:
        print(f"warning: {said}", file=sys.stderr)


@models_app.command("list")
def list_(config: Config, set_: Overrides = [], workdir: Workdir = None) -> None:  # noqa: B006
    """List every version of the model, refused ones too; aliases that are not as the promotion ledger has them are put right.

    Example: calltune models list -c pipelines/recipes/helpdesk.yaml
    """
    from pipelines.config import load
    from pipelines.embedded import in_use
    from pipelines.registry import heal, require_registry, versions
    from pipelines.standalone import standalone, workdir_of

    settings = load(config, set_)
    place = workdir_of(settings, workdir)
    require_registry(settings, place)
    # While a run is using the embedded store, its look has healed them, and its promote will.
    store = settings.storage.uri != "embedded" or not in_use(place / "s3")
    with standalone(settings, workdir, store=store):
        said = heal(settings) if store else ""
        table = versions(settings, place)
    _print(table, said)


@models_app.command()
def history(config: Config, set_: Overrides = [], workdir: Workdir = None) -> None:  # noqa: B006
    """Show who has been champion, since when and why; aliases that are not as the promotion ledger has them are put right.

    Example: calltune models history -c pipelines/recipes/helpdesk.yaml
    """
    from pipelines.config import load
    from pipelines.registry import heal, promotions, require_registry
    from pipelines.standalone import standalone, workdir_of

    settings = load(config, set_)
    require_registry(settings, workdir_of(settings, workdir))
    with standalone(settings, workdir, store=True):
        said = heal(settings)
        table = promotions(settings)
    _print(table, said)


@models_app.command()
def rollback(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")],
    to: Annotated[int | None, typer.Option(help="A version that has served; the one before by default.", min=1)] = None,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
) -> None:
    """Let an earlier champion serve again, after its files were checked; no run promotes the present one again.

    Example: calltune models rollback -c pipelines/recipes/helpdesk.yaml --reason "calls a tool for greetings"
    """
    from pipelines.config import load
    from pipelines.registry import require_registry, roll_back
    from pipelines.standalone import standalone, workdir_of

    settings = load(config, set_)
    require_registry(settings, workdir_of(settings, workdir))
    with standalone(settings, workdir, store=True):
        said = roll_back(settings, to, reason)
    print(said)


@models_app.command()
def push(config: Config, set_: Overrides = [], workdir: Workdir = None) -> None:  # noqa: B006
    """Bring the champion to the repository on the Hub that `promote.push` names: after a push that failed, or a rollback.

    Example: calltune models push -c pipelines/recipes/helpdesk.yaml --set promote.push.repo=acme/helpdesk
    """
    from pipelines.config import load
    from pipelines.registry import push_champion, require_registry
    from pipelines.standalone import standalone, workdir_of

    settings = load(config, set_)
    if not settings.promote.push.repo:
        raise UserError("promote.push.repo is not set: name the repository, owner/name, there or with --set")
    require_registry(settings, workdir_of(settings, workdir))
    with standalone(settings, workdir, store=True):
        said = push_champion(settings)
    print(said)


@app.command()
def ui(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The run's YAML file.")] = None,
    workdir: Workdir = None,
    port: Annotated[int, typer.Option(help="Of MLflow; a free one by default.", min=0, max=65535)] = 0,
) -> None:
    """Show MLflow and the report of a workdir in the browser, until Ctrl-C.

    Example: calltune ui -c pipelines/recipes/helpdesk.yaml
    """
    from pipelines.config import load
    from pipelines.ui import serving

    if config is None and workdir is None:
        raise UserError("say whose: -c FILE or --workdir DIR")
    settings = None if config is None else load(config)
    place = workdir or Path("runs") / (settings.name if settings else "")
    with serving(settings, place.resolve(), port) as addresses:
        for what, address in addresses.items():
            print(f"{what:<8} {address}", flush=True)
        print("Ctrl-C ends it.", flush=True)
        while True:
            time.sleep(3600)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="A run's YAML file: looks at its store and KFP too.")
    ] = None,
    workdir: Workdir = None,
) -> None:
    """Say what works from here: libraries, processor, GPU, disk, store, MLflow, cluster, Kubeflow Pipelines.

    Exits with 1 if something is missing that a run on this machine needs.

    Example: calltune doctor -c pipelines/recipes/helpdesk.yaml
    """
    from rich.console import Console

    from pipelines.config import load
    from pipelines.doctor import findings

    settings = None if config is None else load(config)
    console, missing = Console(), 0
    for finding in findings(settings, workdir):
        mark = "[green]✓[/]" if finding.fine else "[red]✗[/]" if finding.needed else "[dim]–[/]"
        console.print(f"{mark} {finding.what:<10}", finding.text, highlight=False)
        missing += finding.needed and not finding.fine
    if missing:
        raise typer.Exit(1)
