"""A number beside its limit: rounding hides neither a failure nor a pass."""

import pytest

from calltune.figures import beside


@pytest.mark.parametrize(
    ("shown", "value", "limit", "read"),
    [
        ("0.858", 0.8580060422960725, 0.8, "0.858"),
        ("0.8", 0.79996, 0.8, "0.79996"),
        ("0.02", 0.0200049, 0.02, "0.020005"),
        ("+0.1", 0.099996, 0.1, "+0.099996"),
        ("+0.02", 0.1 - 0.08, 0.02, "+0.02"),
        ("640.5", 640.5045, 640.5, "640.505"),
        ("1,234", 1234.0, 1000, "1,234"),
        ("0.7996", 0.79961, None, "0.7996"),
        ("nan", float("nan"), 0.8, "nan"),
    ],
)
def test_a_rounded_number_stays_on_its_side_of_the_limit(shown: str, value: float, limit: float | None, read: str) -> None:
    assert beside(shown, value, limit) == read
