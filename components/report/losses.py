"""What training's losses say, as a curve and in a sentence: from the rows of `loss.csv`."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from calltune.pages import plots
from components.report import words

Rows = Sequence[Mapping[str, Any]]


def curve(rows: Rows, best_epoch: float | None) -> Markup | None:
    """The losses of training and validation by epoch, or None where none was logged.

    Args:
        rows: of `loss.csv`.
        best_epoch: the one whose weights were kept; None where nobody knows.
    """
    train, validation = _points(rows, "train_loss"), _points(rows, "validation_loss")
    return plots.loss_curve(train, validation, best_epoch) if train or validation else None


def overfitting(rows: Rows) -> str:
    """Whether the validation loss rose again, in a sentence; empty where it was not measured twice."""
    validation = _points(rows, "validation_loss")
    if len(validation) < 2:
        return ""
    (best, lowest), (end, last) = min(validation, key=lambda point: point[1]), validation[-1]
    if best == end:
        return "The validation loss was lowest at the end: overfitting does not show."
    lowest_at = f"the validation loss was lowest after epoch {best:g}, {words.number(lowest)}"
    return f"Overfitting shows: {lowest_at}, and {words.number(last)} at the end ({last / lowest - 1:+.0%})."


def _points(rows: Rows, column: str) -> list[tuple[float, float]]:
    return [(float(row["epoch"]), float(row[column])) for row in rows if row.get(column) not in (None, "")]
