"""Each answer beside the reference answer, judged in both orders: who is preferred because of its place is preferred twice."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from calltune import runtime
from calltune.errors import DataError
from calltune.records import sha256
from components.evaluate.config import JudgeConfig
from components.evaluate.suites.details import Details
from components.evaluate.suites.instructions.judge import Judge, messages, verdict

ORDERS = (("answer", "reference"), ("reference", "answer"))
"""Which of the two stands first, and which second."""
MOST_UNREADABLE = 0.1
"""Share of the questions without two verdicts above which the numbers would say more of the judge than of the model."""
SHOWN = 120


def judged(rows: Sequence[dict[str, Any]], settings: JudgeConfig, details: Details, which: str) -> list[dict[str, Any]]:
    """The rows, each with its `verdicts`: for both orders who stood `first`, who is `preferred`, and the judge's `words`.

    Args:
        rows: ``{"id": "1", "question": …, "reference": …, "answer": …}``.
        settings: of the judge.
        details: keeps each verdict as it comes: one that is paid for is not asked for twice.
        which: of the models, for messages.

    Raises:
        Unavailable: the judge does not answer.
        ConfigError: it does not take what it is asked.
        DataError: of more than a tenth of the questions it does not say, in both orders, which answer is better.
    """
    judge = Judge(settings)

    def asked(row: dict[str, Any], first: str, second: str) -> dict[str, Any]:
        texts = (row["question"], row[first], row[second])
        key = f"verdicts/{sha256(messages(*texts))}"
        kept = details.get(key)
        if kept is None:
            kept = {"words": judge.words(*texts)}
            # What cannot be read is asked for again by a step that is started again: the judge may have been mended.
            if verdict(kept["words"]):
                details.put(key, kept)
        preferred = {"A": first, "B": second, "tie": "tie"}.get(verdict(kept["words"]) or "")
        return {"first": first, "preferred": preferred, "words": kept["words"]}

    pool = ThreadPoolExecutor(settings.parallel)
    try:
        waiting = {
            pool.submit(asked, row, *order): (number, place)
            for number, row in enumerate(rows)
            for place, order in enumerate(ORDERS)
        }
        said: dict[tuple[int, int], dict[str, Any]] = {}
        for done in runtime.tracked(as_completed(waiting), f"judge {which}", len(waiting), "verdicts"):
            said[waiting[done]] = done.result()
    finally:
        # After the first error nobody needs the others' verdicts.
        pool.shutdown(cancel_futures=True)
    found = [{**row, "verdicts": [said[number, place] for place in range(len(ORDERS))]} for number, row in enumerate(rows)]
    _require_verdicts(found, settings.model)
    _say(found, settings.model, which)
    return found


def _require_verdicts(rows: Sequence[dict[str, Any]], judge: str) -> None:
    silent = [one["words"] for row in rows for one in row["verdicts"] if one["preferred"] is None]
    without = sum(not readable(row) for row in rows)
    if without > MOST_UNREADABLE * len(rows):
        words = " ".join(silent[0].split())
        raise DataError(
            f"evaluate.instructions.judge: {judge} gives no verdict of {without} of {len(rows)} answers, and a tenth of them is "
            f'allowed: it must end in a line such as {{"verdict": "A"}}, and said: {words[:SHOWN] or "nothing"}'
        )


def _say(rows: Sequence[dict[str, Any]], judge: str, which: str) -> None:
    given = [one for row in rows for one in row["verdicts"] if one["preferred"] not in (None, "tie")]
    first = sum(one["preferred"] == one["first"] for one in given)
    same = sum(agreement(row) for row in rows)
    runtime.note(
        f"evaluate {which}: {judge} says the same in both orders of {same:.0f} of {len(rows)} answers, and prefers what stands "
        f"first in {first} of {len(given)} verdicts that prefer one"
    )


def win(row: dict[str, Any]) -> float:
    """1 where the answer is preferred in both orders, 0 where the reference is, else 0.5."""
    preferred = [one["preferred"] for one in row["verdicts"]]
    return 1.0 if preferred == ["answer"] * 2 else 0.0 if preferred == ["reference"] * 2 else 0.5


def agreement(row: dict[str, Any]) -> float:
    """1 where both orders have the same verdict; a verdict that cannot be read agrees with none."""
    one, two = (said["preferred"] for said in row["verdicts"])
    return float(one == two and one is not None)


def readable(row: dict[str, Any]) -> float:
    """1 where both orders have a verdict."""
    return float(all(said["preferred"] is not None for said in row["verdicts"]))
