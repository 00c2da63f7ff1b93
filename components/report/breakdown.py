"""The report's tables by tool and by argument: those that the tuned model gets wrong most often first."""

from collections.abc import Mapping
from typing import Any

from components.report import words

ROWS_SHOWN = 30
"""Of hundreds of tools or arguments the worst ones are what a reader looks for; all of them are in `metrics.json`."""
SIDES = ("base", "tuned")


def by_tool(models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """`{"rows": [{"name", "n", "cells": {(model, part): (value, interval)}}], "all": how many there are}`.

    Args:
        models: `metrics.json` of each model, by its name in the report.
    """
    parts = ("recall", "precision")
    found = {side: models[side]["tools"] for side in SIDES}
    rows = [
        {
            "name": tool,
            "n": tuned["recall"]["n"],
            "worst": tuned["recall"]["value"],
            "cells": [_cell(found[side].get(tool, {}).get(part), tuned["recall"]["n"]) for part in parts for side in SIDES],
        }
        for tool, tuned in found["tuned"].items()
    ]
    return _worst_first(rows)


def by_argument(models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The same for arguments, with their match `rule`; a cell for each model."""
    found = {side: models[side]["arguments"] for side in SIDES}
    rows = [
        {
            "name": argument,
            "rule": tuned["rule"],
            "n": tuned["n"],
            "worst": tuned["value"],
            "cells": [_cell(found[side].get(argument), tuned["n"]) for side in SIDES],
        }
        for argument, tuned in found["tuned"].items()
    ]
    return _worst_first(rows)


def _cell(estimate: Mapping[str, Any] | None, rows_n: int) -> tuple[str, str]:
    if estimate is None:
        return words.NOTHING, ""
    spread = words.interval("", estimate["low"], estimate["high"])
    return words.metric("", estimate["value"]), words.small_print(spread, estimate["n"], rows_n)


def _worst_first(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(rows, key=lambda row: (row["worst"] is None, row["worst"], -row["n"], row["name"]))
    return {"rows": ordered[:ROWS_SHOWN], "all": len(rows)}
