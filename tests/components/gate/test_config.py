"""The gate's settings refuse what could never hold, or could never fail."""

from typing import Any

import pytest
from pydantic import ValidationError

from components.gate.config import GateConfig


def test_the_designs_example_is_valid() -> None:
    config = GateConfig.model_validate(
        {
            "min_questions": 50.0,  # kfp hands numbers on as floats
            "thresholds": {"tool_accuracy": 0.8},
            "over_baseline": {"tool_accuracy": 0.1},
            "against_champion": {"tool_accuracy": {"test": "better", "margin": 0.0}},
            "maximum": {"max_length_stop_rate": 0.02, "prompt_tokens_mean": 700},
        }
    )
    assert config.min_questions == 50
    assert config.against_champion["tool_accuracy"].test == "better"
    assert GateConfig().thresholds == {}
    assert GateConfig().min_questions == 50


def against(**test: Any) -> dict[str, Any]:
    return {"against_champion": {"tool_accuracy": test}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"threshold": {}}, "Extra inputs are not permitted"),
        ({"thresholds": {"tool_acuracy": 0.8}}, "'tool_acuracy' is not a metric; the nearest is 'tool_accuracy'"),
        ({"over_baseline": {"accuracy": 0.1}}, "'accuracy' is not a metric; the nearest is"),
        ({"maximum": {"max_length_stop": 0.1}}, "the nearest is 'max_length_stop_rate'"),
        ({"against_champion": {"tools": {"test": "better"}}}, "'tools' is not a metric"),
        ({"thresholds": {"tool_accuracy": float("nan")}}, "finite number"),
        ({"thresholds": {"tool_accuracy": float("-inf")}}, "finite number"),
        ({"thresholds": {"tool_accuracy": 0}}, "greater than 0"),
        ({"thresholds": {"tool_accuracy": 85}}, "less than or equal to 1"),
        ({"thresholds": {"max_length_stop_rate": 0.02}}, "'max_length_stop_rate' cannot stand here; limit it in gate.maximum"),
        ({"thresholds": {"prompt_tokens_mean": 1}}, "limit it in gate.maximum"),
        ({"over_baseline": {"tool_accuracy": -0.1}}, "greater than or equal to 0"),
        ({"over_baseline": {"tool_accuracy": float("nan")}}, "finite number"),
        ({"maximum": {"tool_accuracy": 0.9}}, "'tool_accuracy' cannot stand here; more of it is better"),
        ({"maximum": {"max_length_stop_rate": 1.0}}, "limited below 1"),
        ({"maximum": {"max_length_stop_rate": float("inf")}}, "finite number"),
        ({"against_champion": {"prompt_tokens_mean": {"test": "point"}}}, "no outcome per question"),
        (against(test="not_worse"), "not_worse needs a margin above 0"),
        (against(test="not_worse", margin=-0.1), "not_worse needs a margin above 0"),
        (against(test="better", margin=-0.1), "better needs a margin of at least 0"),
        (against(test="better", margin=float("nan")), "finite number"),
        (against(test="best"), "'better', 'not_worse' or 'point'"),
        (against(margin=0.1), "Field required"),
        (against(test="point", margin=5), "less than or equal to 1"),
        ({"thresholds": {"tool_accuracy_shuffled": 0.5}}, "the nearest is 'tool_accuracy_shuffled_tools'"),
        ({"maximum": {"tool_accuracy_rephrased": 0.5}}, "'tool_accuracy_rephrased' cannot stand here; more of it is better"),
        ({"min_questions": 0}, "greater than or equal to 1"),
        ({"min_questions": 2.5}, "valid integer"),
        ({"min_questions_per_tool": -1}, "greater than or equal to 0"),
        # What YAML makes of `yes` and `no`: as 1 and 0 they would ask for next to nothing.
        ({"min_questions": True}, "must be a number"),
        ({"max_data_age_days": False}, "must be a number"),
        ({"over_baseline": {"tool_accuracy": False}}, "must be a number"),
        ({"regression": {"general.text_loss": True}}, "must be a number"),
        (against(test="not_worse", margin=True), "must be a number"),
    ],
)
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GateConfig.model_validate(config)


def test_point_accepts_a_loss_that_somebody_asked_for() -> None:
    assert GateConfig.model_validate(against(test="point", margin=-0.05)).against_champion["tool_accuracy"].margin == -0.05
