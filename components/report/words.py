"""How the report writes numbers, metrics, calls and verdicts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from calltune.figures import beside
from calltune.metrics import MEANS, VERDICTS
from calltune.records import Call

NOTHING = "–"
LOOKS = {"correct": "good", "wrong_arguments": "warn"}
VERDICT_LOOKS = {verdict: LOOKS.get(verdict, "bad") for verdict in reversed(VERDICTS)}
"""Every verdict, best first, with the look of its badge."""
MEANINGS = {
    "tool_accuracy": "the right tools, or rightly none",
    "tool_accuracy_calls": "the right tools, where a call is expected",
    "call_accuracy": "the right tools, every argument right by its rule",
    "ast_call_accuracy": "the same, every argument matched strictly",
    "valid_call_rate": "of attempted calls: parse and fit the schema",
    "abstention_accuracy": "no call, where none is expected",
    "max_length_stop_rate": "cut off at max_new_tokens; lower is better",
    "prompt_tokens_mean": "tokens of a prompt, tools included",
    "tool_accuracy_shuffled_tools": "tool_accuracy with the tools in another order",
    "tool_accuracy_distractor": "tool_accuracy with one tool more that fits nothing",
    "tool_accuracy_rephrased": "tool_accuracy with courtesy, typos, small letters",
}
"""Metric → what it is a share or a number of, in a few words."""
TEXT_LIMIT = 140
"""Characters of a model's plain text that the report shows: a base model often goes on until it is stopped."""


def number(value: Any) -> str:
    """A number as a reader wants it: 1,234 · 0.9048 · 0.0002; other values as they are, None as a dash."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def held(value: float | None, limit: float | None) -> str:
    """A number that is held against a limit: not rounded to the limit's other side."""
    return number(value) if value is None else beside(number(value), value, limit)


def metric(name: str, value: float | None) -> str:
    """A metric's value: a mean as a number, everything else as a percentage with one decimal."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if name in MEANS else f"{100 * value:.1f} %"


def interval(name: str, low: float | None, high: float | None) -> str:
    """A 95 % interval, `85.8 to 93.8`, in the metric's own unit; empty when there is none."""
    if low is None or high is None:
        return ""
    scale = 1 if name in MEANS else 100
    return f"{_signed(scale * low)} to {_signed(scale * high)}"


def difference(name: str, before: float | None, after: float | None) -> str:
    """`after` minus `before` with its sign: percentage points, or a plain number for a mean."""
    if before is None or after is None:
        return NOTHING
    points = after - before if name in MEANS else 100 * (after - before)
    return ("+" if round(points, 1) > 0 else "") + _signed(points)


def look(low: float | None, high: float | None, lower_is_better: bool = False) -> str:
    """`good` or `bad` for a difference whose interval leaves out 0; none for what may be chance."""
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "good" if (low > 0) != lower_is_better else "bad"


def small_print(spread: str, n: int, rows_n: int) -> str:
    """What stands below a value: its interval, and what it counts if that is not what its row says."""
    return ", ".join(filter(None, [spread, f"n {n:,}" if n and n != rows_n else ""]))


def _signed(value: float) -> str:
    """One decimal, with a real minus sign, and none before a zero."""
    rounded = round(value, 1) + 0.0
    return f"{'−' if rounded < 0 else ''}{abs(rounded):.1f}"


def duration(seconds: float | None) -> str:
    """Seconds as `3.2 s`, `4 min 05 s` or `1 h 02 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(mib: float | None) -> str:
    """MiB as `512 MiB` or `3.4 GiB`."""
    if mib is None:
        return NOTHING
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def call(made: Call) -> str:
    """A call as `find_employee(name="Ana", detail="phone")`."""
    arguments = ", ".join(f"{key}={_json(value)}" for key, value in made["arguments"].items())
    return f"{made['name']}({arguments})"


def accepted_call(wanted: Mapping[str, Any]) -> str:
    """An expected call, with the values that count as right: `search(query="a" | "b", [since="day"])`.

    Brackets mark an argument that may be absent (`""` is among its accepted values).
    """
    arguments = []
    for key, values in wanted["arguments"].items():
        values = values if isinstance(values, list) else [values]
        shown = f"{key}={' | '.join(_json(value) for value in values if value != '') or _json('')}"
        arguments.append(f"[{shown}]" if "" in values and len(values) > 1 else shown)
    return f"{wanted['name']}({', '.join(arguments)})"


def shortened(text: str) -> str:
    """The text's beginning, on one line, with an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1].rstrip() + "…"


def enumeration(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]])) if items else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
