"""The command `calltune`. What is heavy is imported where it is used, so that `--help` answers at once."""

import errno
import json
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calltune import runtime
from calltune.errors import NO_ROOM, UserError
from pipelines import cli_cluster, cli_registry, cli_steps
from pipelines.options import REFUSED, Config, Overrides, Workdir

if TYPE_CHECKING:
    from pipelines.screen import Screen

app = typer.Typer(
    help="Fine-tune an open language model to call your tools, and promote it only when it has proved itself.\n\n"
    "Example: calltune run -c pipelines/recipes/helpdesk.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STOPPED = 130
"""What typer makes of a Ctrl-C."""
OF_THE_USERS_DISK = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    *NO_ROOM,
}
"""What a path that somebody has named can be wrong by; that a file is not there is said where it is looked for."""


@app.command()
def run(
    config: Config,
    set_: Overrides = [],  # noqa: B006
    workdir: Workdir = None,
    require_promotion: Annotated[bool, typer.Option("--require-promotion", help="Exit with 3 if the gate refuses.")] = False,
) -> None:
    """Run the whole pipeline on this machine.

    Example: calltune run -c pipelines/recipes/helpdesk.yaml --set train.epochs=6
    """
    from rich.console import Console

    from pipelines import local
    from pipelines.config import load, require_one_store
    from pipelines.screen import Screen, closing

    settings = load(config, set_)
    require_one_store(settings)
    local.require_one_node(settings)
    place = workdir or Path("runs") / settings.name
    console = Console()
    with Screen(console) as screen:
        outcome = local.run(settings, place, screen)
    if outcome.summary is None:
        failure = outcome.error or {}
        raise _Failed(f"{failure.get('step')}: {failure.get('message')} (log: {place / 'run.log'})", outcome.exit_code)
    closing(console, outcome.summary, outcome.steps)
    made = {"summary": place / "summary.json"}
    if outcome.summary["artifacts"] is not None:  # a run with nothing new has made none, and left those before it
        made |= {"report": place / "report.html", "model": place / "model"}
    console.print(" · ".join(f"{what} {path}" for what, path in made.items()), highlight=False, soft_wrap=True)
    if require_promotion and outcome.summary["outcome"] == "refused":
        raise typer.Exit(REFUSED)


@app.command()
def check(config: Config, set_: Overrides = []) -> None:  # noqa: B006
    """Check a config and its data, and say what a run would do, without running it.

    Example: calltune check -c pipelines/recipes/helpdesk.yaml
    """
    from pipelines.check import check as checked
    from pipelines.config import load

    for line in checked(load(config, set_)):
        print(line)


@app.command()
def compile(
    config: Config,
    out: Annotated[Path, typer.Option("-o", help="The YAML package to write.")],
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Write the pipeline as a package for Kubeflow Pipelines.

    Example: calltune compile -c pipelines/recipes/helpdesk.yaml -o finetune.yaml
    """
    from pipelines.apart import require_apart
    from pipelines.config import load
    from pipelines.inputs import left_here
    from pipelines.package import package

    settings = load(config, set_)
    require_apart("compile", out, settings, {"-c": config})
    made = package(settings)
    try:
        out.write_text(made.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    for line in left_here(settings):
        print(f"calltune: note: {line}", file=sys.stderr)
    print(out)


@app.command()
def call(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tools: Annotated[Path, typer.Option(help="File of tools, as ingest.tools reads it.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="What `calltune export` wrote, its folder `model`, or s3://…/models/<digest>; with -c models:/NAME@ALIAS."
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Instead of --model: an adapter on its base: what `calltune export` wrote, or s3://…/adapters/<digest>."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="Whose store and registry the model is in.")] = None,
    workdir: Workdir = None,
) -> None:
    """Ask a model, and print the calls that pass the guard as JSON.

    Example: calltune call --model runs/helpdesk/model --tools examples/helpdesk/tools.py "How do I reset my password?"
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' bar for the weights says nothing of what takes the time
    from pipelines.ask import ask

    named, is_adapter = model or adapter, model is None
    if named is None or (model and adapter):
        raise UserError("--model or --adapter: one of them is to be asked, and not both")
    if config is None:
        if named.startswith("models:/"):
            raise UserError(f"--model {named}: in which registry? Add -c FILE, the config of a run")
        answer = ask(question, named, tools, max_new_tokens, is_adapter)
    else:
        from pipelines.config import load
        from pipelines.registry import address
        from pipelines.standalone import standalone

        settings = load(config)
        with standalone(settings, workdir, store=named.startswith(("models:/", "s3://"))) as place:
            found = address(settings, place, named) if named.startswith("models:/") else named
            answer = ask(question, found, tools, max_new_tokens, is_adapter)
    print(json.dumps(answer, indent=1, ensure_ascii=False))


app.add_typer(cli_steps.app)
app.add_typer(cli_cluster.app)
app.add_typer(cli_registry.app)


class _Failed(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Run the command; a user's error is one line and exit code 2."""
    # A terminal or a pipe in another encoding than UTF-8 shows `?` for our marks, and the command goes on.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[attr-defined, union-attr]
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Python would end at once, and leave behind what a command has started; nohup's choice is left as it is.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    sys.exit(_code())


def _code() -> int:
    try:
        with runtime.shown_by(_show):
            app()
        code = 0
    except UserError as error:
        code = _say(str(error), error.exit_code)
    except _Failed as failure:
        code = _say(str(failure), failure.code)
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:  # of a file that was opened before
            code = _say("no room left on the disk: while writing", 2)
        elif error.errno not in OF_THE_USERS_DISK or error.filename is None:
            raise
        else:
            code = _say(f"{error.filename}: {error.strerror}", 2)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except KeyboardInterrupt:
        code = STOPPED
    if code == STOPPED:
        code = _say("stopped", 1)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # as in `calltune check … | head -1`: whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _show(event: dict[str, Any]) -> None:
    """Show an event of a command that runs no step, beside what it prints."""
    _lines().show(event)


@cache
def _lines() -> "Screen":
    from rich.console import Console

    from pipelines.screen import Screen

    # Also on a terminal: a bar would take what the command prints out of the file that its output goes to.
    return Screen(Console(stderr=True, force_terminal=False))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(message: str, code: int) -> int:
    print(f"calltune: {message}", file=sys.stderr)
    return code
