"""Why to train, or that there is no reason to: `look` asks in a run, and `calltune watch` before it submits one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from calltune import ledger
from components.look.config import LookConfig
from components.look.recent import drifted


@dataclass(frozen=True)
class Reason:
    """A reason to train.

    Attributes:
        kind: what has given it.
        text: the same in words.
    """

    kind: Literal["asked", "first", "changed", "age", "drift"]
    text: str


def reason(config: LookConfig, found: str, history: Sequence[ledger.Entry]) -> Reason | None:
    """The reason to train; None where there is none.

    Args:
        config: the step's settings.
        found: the fingerprint of data, tools and base model, as they are now.
        history: the ledger, the champion last; empty where nothing serves.

    Raises:
        DataError: the recent questions that `drift` names cannot be read.
    """
    if config.when == "always":
        return Reason("asked", "asked for")
    if not history:
        return Reason("first", "no champion yet")
    serving = history[-1]
    # What a model was trained on that somebody has gone back from is nothing new: it would be the same model again.
    back = [entry["fingerprint"] for entry in history if entry["digest"] == serving.get("rolled_back")]
    if found not in (serving["fingerprint"], *back):
        return Reason("changed", "the data or the base model has changed")
    if config.max_age_days:
        age = datetime.now(UTC) - datetime.fromisoformat(serving["time"])
        if age >= timedelta(days=config.max_age_days):
            return Reason("age", f"the champion is {age.days} days old, and retrain.max_age_days is {config.max_age_days}")
    if config.drift.questions:
        differs = drifted(config, serving)
        return Reason("drift", differs) if differs else None
    return None
