"""What a run looks like in a terminal: progress bars while it goes, tables at its end."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from calltune.figures import beside
from calltune.metrics import LOWER_IS_BETTER, MEANS

QUIET_INTERVAL_S = 30.0
"""Without a terminal: one line for each piece of work at most this often."""
NARROW = 100
"""Columns of a terminal below which the numbers stand without lines between them, and an interval below its value."""


class Screen:
    """Shows the steps' events as they come; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            # Not rich's own estimate, which is of the last half minute, and knows nothing of steps that take longer.
            TextColumn("[cyan]{task.fields[left]}"),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.said: dict[str, float] = {}
        self.failed: dict[str, Any] | None = None

    def __enter__(self) -> "Screen":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show a piece of the command's own work, as `runtime.phase` does for a step's."""
        event = {"kind": "progress", "name": name, "total": 1, "unit": "", "detail": "", "left_s": None}
        self.show({**event, "done": 0, "time": time.time()})
        try:
            yield
            self.show({**event, "done": 1, "time": time.time()})
        finally:
            self._clear()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event. Text is not folded: a path in it stays whole, to be copied."""
        kind = event["kind"]
        if kind == "progress":
            self._progress(event)
        elif kind == "note":
            self.console.print(f"  [dim]{escape(self._once(event['message']))}", highlight=False, soft_wrap=True)
        elif kind == "start":
            self.console.print(f"[bold]▸ {event['name']}", highlight=False)
        elif kind == "step" and event["error"] is None:
            self._clear()
            text = f"[green]✓[/] {event['name']:<20} {event['seconds']:>8.1f} s {event['peak_rss_mib']:>7,} MiB"
            self.console.print(text, highlight=False)
        elif kind == "error":
            self._clear()
            message = ""
            if self.failed is None:
                self.failed = event
            elif event["message"] != self.failed["message"]:
                message = f": {escape(event['message'])}"
            self.console.print(f"[red]✗ {event['step']}{message}", highlight=False, soft_wrap=True)

    def _once(self, message: str) -> str:
        """A note without the first error's text, as notify's has it: the command ends with that."""
        if self.failed is None:
            return message
        before, failed, _ = message.partition(f": failed at {self.failed['step']}: ")
        return f"{before}{failed.removesuffix(': ')}"

    def _progress(self, event: dict[str, Any]) -> None:
        name = event["name"]
        if not self.console.is_terminal:
            last = event["done"] >= event["total"]
            if last or event["time"] - self.said.setdefault(name, event["time"]) >= QUIET_INTERVAL_S:
                self.said[name] = event["time"]
                line = f"  {name}: {event['done']}/{event['total']} {event['unit']} {event['detail']} {_left(event['left_s'])}"
                self.console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
            return
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=event["total"], unit=event["unit"], detail="", left="")
        detail, left = escape(event["detail"]), _left(event["left_s"])
        self.bars.update(self.tasks[name], completed=event["done"], detail=detail, left=left)

    def _clear(self) -> None:
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks.clear()


def _left(seconds: float | None) -> str:
    """What is left of a piece of work, as `45 s left`, `12 min left` or `1 h 05 min left`; empty where nobody knows."""
    if not seconds:
        return ""
    if seconds < 60:
        return f"{math.ceil(seconds)} s left"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min left" if hours else f"{minutes} min left"


def closing(console: Console, summary: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Print the run's end: numbers, the gate's checks, what was promoted, what it cost."""
    if summary["outcome"] == "nothing_new":
        console.print("Nothing new since the champion was trained: nothing to do.")
        return
    console.print(_numbers(summary, console.width))
    console.print(_gate(summary))
    console.print(_costs(summary, steps))
    promoted = summary["promoted"]
    if promoted is None:
        # The gate's reasons stand above; where it has passed, promote has found one.
        why = f"{escape(summary['reason'])}; " if summary["gate"]["passed"] else ""
        console.print(f"[bold red]refused[/]: {why}the alias stays where it was")
    elif promoted["unchanged"]:
        console.print(f"[bold]unchanged[/]: {promoted['model']} version {promoted['version']} is {promoted['alias']} already")
    else:
        before = f", before it version {promoted['previous']}" if promoted["previous"] else ", the first one"
        console.print(
            f"[bold green]promoted[/]: {promoted['model']} version {promoted['version']} is {promoted['alias']}{before}"
        )


def _numbers(summary: dict[str, Any], width: int) -> Table:
    narrow = width < NARROW
    table = Table(title="On the held-out questions", title_justify="left", show_edge=not narrow, pad_edge=not narrow)
    if narrow:
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    champion = summary["champion"]
    for column in ("", "base", "tuned", "change", *(["champion"] if champion else []), "n"):
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    for name, tuned in summary["candidate"].items():
        base = summary["baseline"][name]
        estimates = [_estimate(name, row, narrow) for row in (base, tuned, *([champion[name]] if champion else []))]
        table.add_row(name, *estimates[:2], _difference(name, base, tuned), *estimates[2:], str(tuned["n"]))
    return table


def _estimate(name: str, row: dict[str, Any], narrow: bool) -> str:
    if row["value"] is None:
        return "–"
    form = "{:.0f}" if name in MEANS else "{:.3f}"
    between = "\n" if narrow else " "
    return f"{form.format(row['value'])}{between}[dim]({form.format(row['low'])}–{form.format(row['high'])})[/]"


def _difference(name: str, base: dict[str, Any], tuned: dict[str, Any]) -> str:
    if base["value"] is None or tuned["value"] is None:
        return "–"
    gain = tuned["value"] - base["value"]
    if name in MEANS:
        return f"{gain:+.0f}"
    better = gain < 0 if name in LOWER_IS_BETTER else gain > 0
    return f"[{'green' if better else 'red' if gain else 'dim'}]{gain:+.3f}[/]"


def _gate(summary: dict[str, Any]) -> Table:
    table = Table(title="The gate", title_justify="left")
    for column in ("", "check", "observed", "required", "reason"):
        table.add_column(column, overflow="fold")
    for check in summary["gate"]["checks"]:
        mark = "[green]✓" if check["passed"] else "[red]✗"
        observed, required = _number(check["observed"], check["required"]), _number(check["required"])
        table.add_row(mark, check["name"], observed, required, escape(check["reason"]))
    return table


def _costs(summary: dict[str, Any], steps: list[dict[str, Any]]) -> Table:
    table = Table(title="The steps", title_justify="left")
    for column in ("step", "seconds", "peak MiB"):
        table.add_column(column, justify="left" if column == "step" else "right", overflow="fold")
    ran = {step["name"]: step for step in steps}
    rows = [*summary["steps"], *(ran[name] for name in ("report", "notify") if name in ran)]
    for row in rows:
        if row.get("cached"):
            table.add_row(row["name"], "[dim]cached", "")
        else:
            table.add_row(row["name"], f"{row['seconds']:.1f}", f"{row['peak_rss_mib']:,}")
    return table


def _number(value: float | None, limit: float | None = None) -> str:
    return "" if value is None else f"{value:g}" if value == int(value) else beside(f"{value:.3f}", value, limit)
