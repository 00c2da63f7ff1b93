"""What notify says of a run: one sentence, a table, the gate's reasons, and where to read on. No secret is in any of it."""

from dataclasses import dataclass, field
from typing import Any

from calltune.credentials import line_without_secrets, without_secrets
from calltune.metrics import MEANS

SIDES = ("baseline", "candidate", "champion")
"""Of the summary; the columns of the table."""
LONGEST = 3000
"""Characters of an error or a reason that a message has: chats cut long ones at their own place."""


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        name: the registered model.
        run_id: of the run.
        outcome: promoted, refused, nothing_new or failed.
        summary: of the run; None where it failed.
        step: that failed, where one has said so.
        error: what it said, or why nothing is known.
        links: what to read on → its address.
    """

    name: str
    run_id: str
    outcome: str
    summary: dict[str, Any] | None = None
    step: str | None = None
    error: str | None = None
    links: dict[str, str] = field(default_factory=dict)


def sentence(ending: Ending) -> str:
    """The ending on one line."""
    said = f"{ending.name}: run {ending.run_id}: {ending.outcome.replace('_', ' ')}"
    if ending.summary is None:
        said += (f" at {ending.step}" if ending.step else "") + f": {ending.error}"
    elif ending.outcome == "promoted":
        now = ending.summary["promoted"]
        before = f", after version {now['previous']}" if now["previous"] else ", as before" if now["unchanged"] else ""
        said += f": version {now['version']} is {now['alias']}{before}"
    elif ending.outcome == "refused":
        said += f": {ending.summary['reason']}"
    return _clean(said)


def text(ending: Ending, fence: str = "") -> str:
    """The whole message in plain text; `fence` goes around the table, which wants letters that are equally wide."""
    shown = table(ending)
    parts = [sentence(ending), f"{fence}\n{shown}\n{fence}".strip("\n") if shown else "", refusals(ending)]
    parts.append("\n".join(f"{what}: {_clean(where)}" for what, where in ending.links.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(ending: Ending) -> str:
    """The metrics of base, candidate and champion side by side; empty where nothing was measured."""
    measured = {side: (ending.summary or {}).get(side) for side in SIDES}
    shown = {"base" if side == "baseline" else side: found for side, found in measured.items() if found}
    if "candidate" not in shown:
        return ""
    rows = [["", *shown]]
    rows += [[metric, *(_value(metric, found.get(metric)) for found in shown.values())] for metric in shown["candidate"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{first:<{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in rows
    )


def refusals(ending: Ending) -> str:
    """The gate's reasons, a line for each condition that failed."""
    gate = (ending.summary or {}).get("gate") or {"checks": []}
    return "\n".join(_clean(f"✗ {check['name']}: {check['reason']}") for check in gate["checks"] if not check["passed"])


def slack(ending: Ending) -> dict[str, str]:
    """As Slack's incoming webhooks want it, and whoever speaks like them: text alone, which all of them show."""
    # What could call everybody (<!channel>), or be a link, is only text here.
    return {"text": text(ending, "```").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def payload(ending: Ending) -> dict[str, Any]:
    """For programs: the ending, and of `summary.json` what says why."""
    summary = ending.summary or {}
    keys = ("reason", "config_sha256", "dataset", *SIDES, "gate", "promoted", "artifacts")
    return {
        "text": sentence(ending),
        **{key: getattr(ending, key) for key in ("name", "run_id", "outcome", "step")},
        "error": None if ending.error is None else _clean(ending.error),
        "links": {what: _clean(where) for what, where in ending.links.items()},
        **{key: _without_secrets(summary.get(key)) for key in keys},
    }


def _without_secrets(value: Any) -> Any:
    """A JSON value, each of its texts without secrets: in JSON's own text a quote in a password has a backslash before it."""
    if isinstance(value, dict):
        return {without_secrets(key): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return without_secrets(value) if isinstance(value, str) else value


def _value(metric: str, found: dict[str, Any] | None) -> str:
    value = (found or {}).get("value")
    if value is None:
        return "–"
    return f"{value:.1f}" if metric in MEANS else f"{100 * value:.1f} %"


def _clean(said: str) -> str:
    """On one line, not endless, and without a secret."""
    line = line_without_secrets(said)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
