"""What evaluate says of a champion that it does not ask anything: there is none, or what is left of it is no model."""

from pathlib import Path
from typing import Any

from calltune import exports, runtime
from calltune.errors import UserError
from calltune.records import write_jsonl


def absent(metrics: Path, predictions: Path) -> dict[str, Any]:
    """Say that there is no champion: a first run has none."""
    return _said({"present": False, "which": "champion"}, metrics, predictions)


def unusable(champion: dict[str, Any], error: exports.Damaged, metrics: Path, predictions: Path) -> dict[str, Any]:
    """Say that the champion's files are gone or damaged, so that the gate refuses with that reason, and the report has it.

    KFP hands this result to every later run whose look has found the same champion. That is right as long as the store has
    the same at the champion's address, which is therefore a part of what look finds: `stored`. Where it has changed since
    look, the result would stand for a store that it is not about; so there is none, and the next look sees what there is.

    Args:
        champion: as look found it.
        error: what is wrong with its files.
        metrics: gets `metrics.json`.
        predictions: gets none.

    Raises:
        UserError: the files were changed since look.
    """
    if exports.state(champion) != champion["stored"]:
        raise UserError(f"the champion's files were changed while this run went on, which must be run again: {error}")
    return refused(champion["version"], champion["digest"], error, metrics, predictions)


def refused(version: str, digest: str, error: UserError, metrics: Path, predictions: Path) -> dict[str, Any]:
    """Say that the champion cannot be asked, so that the gate refuses with that reason, and the report has it."""
    runtime.note(f"evaluate champion: it cannot be: {error}")
    known = {"version": version, "model_digest": digest, "error": str(error)}
    return _said({"present": True, "which": "champion", **known}, metrics, predictions)


def _said(result: dict[str, Any], metrics: Path, predictions: Path) -> dict[str, Any]:
    write_jsonl(predictions, [])
    runtime.write_json(metrics, result)
    return result
