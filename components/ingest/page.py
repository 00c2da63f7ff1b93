"""The profile as one HTML file: what became of the rows, what the kept ones hold, and why the others were refused."""

from collections.abc import Mapping
from typing import Any

from calltune.pages import render_page
from components.ingest.config import IngestConfig

SHOWN = 25
"""Bars of one kind that are shown; of a data set with thousands of tools the others are in `profile.json`."""
TOOLS_SHOWN = 100
BUCKETS = 15


def render(config: IngestConfig, profile: Mapping[str, Any]) -> str:
    """The page.

    Args:
        config: the step's settings.
        profile: as `profile.json` has it.
    """
    lengths = {int(length): rows for length, rows in profile["question_words"].items()}
    return render_page(
        "components.ingest/page.html.jinja",
        config=config,
        p=profile,
        shown=SHOWN,
        classes=_bars(profile["classes"]),
        calls=_bars(profile["calls_per_row"]),
        lengths=_bars(buckets(lengths)),
        middle=quantile(lengths, 0.5),
        high=quantile(lengths, 0.95),
        longest=max(lengths, default=0),
        tools=[_tool(profile, name) for name in list(profile["arguments"])[:TOOLS_SHOWN]],
        uncalled=[name for name, calls in profile["tools"].items() if not calls],
        sensitive=[
            (name.replace("_", " "), kind, rows, getattr(config, name))
            for name in ("secrets", "personal_data")
            for kind, rows in profile[name].items()
        ],
    )


def buckets(lengths: Mapping[int, int]) -> dict[str, int]:
    """Rows by length, in at most `BUCKETS` stretches of equal width: ``{"1 to 5": 12, "6 to 10": 3}``."""
    if not lengths:
        return {}
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // BUCKETS)
    found: dict[str, int] = {}
    for start in range(low, high + 1, width):
        rows = sum(lengths.get(length, 0) for length in range(start, start + width))
        found[str(start) if width == 1 else f"{start} to {start + width - 1}"] = rows
    return found


def quantile(lengths: Mapping[int, int], share: float) -> int:
    """The length that this share of the rows do not exceed."""
    left = share * sum(lengths.values())
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 0:
            return length
    return 0


def _bars(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Label, rows and the bar's width in percent of the longest."""
    most = max(counts.values(), default=0) or 1
    return [(label, count, round(100 * count / most, 1)) for label, count in counts.items()]


def _tool(profile: Mapping[str, Any], name: str) -> tuple[str, int, int, list[tuple[str, float]]]:
    """Name, rows, calls, and for each argument the share of the calls that give it, in percent."""
    calls = profile["tools"][name]
    arguments = [(argument, 100 * given / calls) for argument, given in profile["arguments"][name].items()]
    return name, profile["rows_per_tool"][name], calls, arguments
