"""Settings of the gate: the conditions that a model must meet before it is promoted."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from calltune.metrics import LOWER_IS_BETTER, METRICS, PROPORTIONS, ROBUSTNESS, SUITES, TEXT_LOSS, is_share
from calltune.settings import Settings, written_as


def _no_boolean(value: Any) -> Any:
    """YAML reads `yes` and `no` as booleans, which would count as 1 and 0, and ask for less."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


NO_BOOLEAN = BeforeValidator(_no_boolean)
Count = Annotated[int, NO_BOOLEAN]
Share = Annotated[float, Field(ge=0.0, le=1.0), NO_BOOLEAN]
"""A share of the questions, or a difference of two, 0 to 1."""
Measure = Annotated[str, written_as(rf"({'|'.join(SUITES)})\..+", "a suite's measure such as general.gsm8k.exact_match")]

SHARES = (*PROPORTIONS, *ROBUSTNESS.values())
"""The metrics that have an outcome for each question."""


class AgainstChampion(Settings):
    """How the candidate must stand against the present champion, on the same questions.

    The gain is candidate minus champion, or champion minus candidate for a metric of which less is better.
    """

    test: Literal["better", "not_worse", "point"]
    """`better`: the gain's paired 95 % interval lies above `margin`, and McNemar's exact test agrees; `not_worse`: the
    interval lies above `-margin`; `point`: the gain itself is at least `margin`, noise or not."""
    margin: Annotated[float, NO_BOOLEAN] = Field(default=0.0, ge=-1.0, le=1.0)
    """In shares of the questions: 0.02 is two percentage points."""

    @model_validator(mode="after")
    def _margin_fits_test(self) -> "AgainstChampion":
        if self.test == "not_worse" and self.margin <= 0:
            raise ValueError("not_worse needs a margin above 0: how much worse would be acceptable")
        if self.test == "better" and self.margin < 0:
            raise ValueError("better needs a margin of at least 0; use not_worse to accept a small loss")
        return self


class GateConfig(Settings):
    """What a candidate must reach. Without a single condition the gate refuses."""

    min_questions: Count = Field(default=50, ge=1)
    """Test questions that an evaluation must rest on."""
    min_questions_per_tool: Count = Field(default=0, ge=0)
    """Test questions that must expect each tool that they offer; 0: not checked."""
    min_questions_per_metric: Count = Field(default=0, ge=0)
    """Test questions that each metric with a condition must count, such as those that expect no call; 0: not checked."""
    max_data_age_days: Count = Field(default=0, ge=0)
    """Whole days since the newest of the data was changed, counted when the run looks, that are not too many; 0: not checked."""
    thresholds: dict[str, Annotated[float, Field(gt=0.0, le=1.0), NO_BOOLEAN]] = Field(default_factory=dict)
    """Metric to the value that it must reach at least."""
    over_baseline: dict[str, Share] = Field(default_factory=dict)
    """Metric to the gain over the untuned base model that it must reach at least."""
    against_champion: dict[str, AgainstChampion] = Field(default_factory=dict)
    """Metric to its test against the present champion; skipped while there is no champion."""
    maximum: dict[str, Annotated[float, Field(ge=0.0), NO_BOOLEAN]] = Field(default_factory=dict)
    """Metric to the value that it must not exceed, for those of which less is better."""
    suites: dict[Measure, Annotated[float, Field(gt=0.0), NO_BOOLEAN]] = Field(default_factory=dict)
    """A suite's measure (`general.calltune_knowledge.acc`) to the value that it must reach at least."""
    regression: dict[Measure, Annotated[float, Field(ge=0.0), NO_BOOLEAN]] = Field(default_factory=dict)
    """A suite's measure to how much of it may be lost at most against the base model, on the same items: a share of them, and for
    `general.text_loss` nats per token. It is no condition by itself: the base model meets it."""

    @field_validator("thresholds", "over_baseline")
    @classmethod
    def _more_is_better(cls, conditions: dict[str, float]) -> dict[str, float]:
        _check_names(conditions, [name for name in SHARES if name not in LOWER_IS_BETTER], "limit it in gate.maximum")
        return conditions

    @field_validator("maximum")
    @classmethod
    def _less_is_better(cls, conditions: dict[str, float]) -> dict[str, float]:
        _check_names(conditions, LOWER_IS_BETTER, "more of it is better: set it in gate.thresholds")
        for name in set(conditions) & set(SHARES):
            if conditions[name] >= 1:
                raise ValueError(f"{name}: a share of the questions is limited below 1, not by {conditions[name]}")
        return conditions

    @field_validator("against_champion")
    @classmethod
    def _has_outcomes(cls, conditions: dict[str, AgainstChampion]) -> dict[str, AgainstChampion]:
        _check_names(conditions, SHARES, "it has no outcome per question to compare: limit it in gate.maximum")
        return conditions

    @field_validator("suites", "regression")
    @classmethod
    def _shares_are_below_one(cls, limits: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        for measure, limit in limits.items():
            if info.field_name == "suites" and measure == TEXT_LOSS:
                raise ValueError(f"{measure}: less of it is better: say in gate.regression how much more there may be")
            if is_share(measure) and (limit > 1 or (limit == 1 and info.field_name == "regression")):
                raise ValueError(
                    f"{measure} is a share of the items, and {limit:g} is {'all' if limit == 1 else 'more than all'}"
                )
        return limits


def _check_names(given: Iterable[str], allowed: Iterable[str], otherwise: str) -> None:
    for name in given:
        known = (*METRICS, *ROBUSTNESS.values())
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{name!r} is not a metric; the nearest is {nearest!r}")
        if name not in allowed:
            raise ValueError(f"{name!r} cannot stand here; {otherwise}")
