"""What `calltune check` says of the gate: what it asks, and what a test set of that size can show."""

import math
from collections.abc import Iterator

from calltune.power import smallest_difference
from components.gate.config import GateConfig
from pipelines.config import RunConfig

DISCORDANT = 0.2
"""Share of the questions that only one of two models answers rightly, for the width of the interval of their difference:
of two candidates of the same base it is mostly less, of the base model and a tuned one more."""
LARGER = "raise format.split.test or bring more rows"
"""What makes the test larger, where it is a share of the rows."""


def described(config: RunConfig, test: int) -> Iterator[str]:
    """The lines of it.

    Args:
        config: of the run.
        test: about how many test questions there will be.
    """
    larger = "bring more rows of format.split.test_source" if config.format.split.test_source else LARGER
    yield from _resolution(test)
    yield from _margins(config.gate, test, larger)
    yield from _gate(config.gate, test, larger)


def count(number: int, thing: str) -> str:
    """A number of things in words: `1 row`, `2,168 rows`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _resolution(test: int) -> Iterator[str]:
    half = 1.96 * math.sqrt(DISCORDANT / test)
    yield (
        f"test set     {count(test, 'question')}: a measured difference of two models is uncertain by about ±{half:.3f}, "
        f"if they disagree on {DISCORDANT:.0%} of them"
    )


def _margins(gate: GateConfig, test: int, larger: str) -> Iterator[str]:
    smallest = smallest_difference(test, DISCORDANT)
    if smallest is None:
        yield "             too few to show any difference of two such models in 4 of 5 test sets"
    else:
        yield f"             the smallest difference that such a test set shows in 4 of 5 cases is {smallest:.3f}"
    asked = [(f"over_baseline.{name}", gain) for name, gain in gate.over_baseline.items()]
    # `better` asks no margin of the test set: its interval begins above whatever margin only if the gain is larger by so much.
    compared = [(name, against) for name, against in gate.against_champion.items() if against.test != "better"]
    asked += [(f"against_champion.{name}", abs(against.margin)) for name, against in compared]
    instead = "" if smallest is None else f", or ask for {math.ceil(100 * smallest) / 100:g}"
    for name, margin in asked:
        if margin and (smallest is None or margin < smallest):
            yield (
                f"warning: gate.{name} asks for a margin of {margin:g}, which about {count(test, 'question')} cannot tell from "
                f"chance: {larger}{instead}"
            )


def _gate(gate: GateConfig, test: int, larger: str) -> Iterator[str]:
    conditions = [f"at least {count(gate.min_questions, 'test question')}"]
    if gate.min_questions_per_tool:
        conditions.append(f"at least {count(gate.min_questions_per_tool, 'test question')} for each tool")
    if gate.max_data_age_days:
        conditions.append(f"data of which something was changed in the last {count(gate.max_data_age_days, 'day')}")
    asked = [f"{name} at least {least:g}" for name, least in gate.thresholds.items()]
    asked += [f"{name} at most {most:g}" for name, most in gate.maximum.items()]
    asked += [f"{name} at least {gain:g} above the base model" for name, gain in gate.over_baseline.items()]
    for name, against in gate.against_champion.items():
        asked.append(
            {
                "better": f"{name} better than the champion: the 95 % interval of its gain above {against.margin:g}",
                "not_worse": f"{name} not worse than the champion: the 95 % interval of its gain above {-against.margin:g}",
                "point": f"{name} at least {against.margin:g} above the champion, noise or not",
            }[against.test]
        )
    asked += [f"{name} at least {least:g}" for name, least in gate.suites.items()]
    # The base model itself loses nothing: no condition that a gate can rest on.
    kept = [f"{name} at most {most:g} worse than the base model's" for name, most in gate.regression.items()]
    for number, condition in enumerate([*conditions, *asked, *kept]):
        yield f"{'' if number else 'gate':<13}{condition}"
    if not asked:
        yield "warning: the gate has no condition and will refuse every model: set gate.thresholds"
    elif not (gate.thresholds or gate.maximum or gate.over_baseline or gate.suites):
        yield "warning: without a champion to compare with, the gate has no condition and will refuse: set gate.thresholds"
    if gate.min_questions > test:
        expected = f"about {test} {'is' if test == 1 else 'are'} expected"
        yield (
            f"warning: gate.min_questions is {gate.min_questions}, and {expected}: the gate will refuse; lower it, or {larger}"
        )
