"""Is `ast` the match of the Berkeley Function Calling Leaderboard? The same answers, judged by its checker and by ours.

Takes every Python row that has gold answers (2,351 in eight files), the gold answer itself and `--perturbed` answers
in which something has been changed, guard and coercion off. Prints how often the two agree, for each kind of change, and
each reason for which they may differ with the number of answers that it explains. Ends with 1 if a difference has none.
With --json FILE it writes {"<kind>": {"ours": accepted answers, "theirs": accepted, "ratio": ours / theirs, "unit":
"answers accepted", "n": answers}, ...}.

    pip install --no-deps --target /tmp/bfcl bfcl-eval==2026.3.23
    python -m benchmarks.bfcl --bfcl /tmp/bfcl
"""

import argparse
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks import bfcl_answers
from benchmarks.bfcl_answers import Row
from calltune import tools
from calltune.guard import check_all
from calltune.loose_types import from_loose_types
from calltune.match import answer_matches, standardised
from calltune.records import Call

FILES = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
Checker = Callable[[Row, Sequence[Call]], bool]


@dataclass(frozen=True)
class Judged:
    """One answer, judged twice.

    Attributes:
        row: the question.
        kind: what was changed in the gold answer.
        calls: the answer.
        ours: our verdict.
        theirs: the checker's.
        why: the name of the reason if the two differ, "" if nothing explains it, None if they agree.
    """

    row: Row
    kind: str
    calls: list[Call]
    ours: bool
    theirs: bool
    why: str | None


def read(folder: Path) -> Iterator[Row]:
    """The Python rows with gold answers in the data of `bfcl_eval`."""
    for category in FILES:
        name = f"BFCL_v4_{category}.json"
        questions = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        lines = (folder / "possible_answer" / name).read_text(encoding="utf-8").splitlines()
        accepted = {row["id"]: row["ground_truth"] for row in map(json.loads, lines)}
        for question in questions:
            calls = [(name, arguments) for one in accepted[question["id"]] for name, arguments in one.items()]
            gold = [{"name": name, "arguments": arguments} for name, arguments in calls]
            yield Row(question["id"], category, question["function"], gold)


def checker_of(place: Path) -> Checker:
    """The leaderboard's own `ast_checker`, from the folder into which bfcl-eval was installed."""
    sys.path.insert(0, str(place))
    # Its table of models imports every vendor's client; the checker reads one flag from it.
    table = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = {"any": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[table.__name__] = table
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(row: Row, calls: Sequence[Call]) -> bool:
        answer = [{call["name"]: copy.deepcopy(call["arguments"])} for call in calls]
        gold = [{one["name"]: copy.deepcopy(one["arguments"])} for one in row.gold]
        try:
            return bool(ast_checker(row.functions, answer, gold, Language.PYTHON, row.category, "any")["valid"])
        except (AttributeError, TypeError):  # it reads the keys of what is no object: an answer that it accepts is no such
            return False

    return check


def ours(row: Row, calls: Sequence[Call]) -> bool:
    """Our verdict, by `ast` for every argument."""
    return answer_matches(calls, row.gold, [], None, literal=False)


def _forbidden(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    schemas = [tools.normalise(from_loose_types(one, row.id), row.id) for one in row.functions]
    return mine and not all(one.accepted for one in check_all(calls, schemas))


def _whole_numbers(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    schemas = {one["name"]: one["parameters"]["properties"] for one in row.functions}
    cast = [
        {**call, "arguments": {k: _as(v, schemas[call["name"]].get(k, {})) for k, v in call["arguments"].items()}}
        for call in calls
        if call["name"] in schemas
    ]
    return mine and theirs(row, cast)


def _as(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_as(item, schema.get("items", {})) for item in value]
    if type(value) is float and value.is_integer() and schema.get("type") == "integer":
        return int(value)
    return float(value) if type(value) is int and schema.get("type") == "float" else value


def _greedy(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    left = list(calls)
    for one in row.gold:
        found = next((call for call in left if answer_matches([call], [one], [], None, literal=False)), None)
        if found is None:
            return mine
        left.remove(found)
    return False


def _true_is_1(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    return not mine and ours(replace(row, gold=_deep(row.gold, bool, int)), _deep(calls, bool, int))


def _empty_list(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    optional = {(one["name"], name) for one in row.gold for name, values in one["arguments"].items() if "" in values}
    without = [
        {**call, "arguments": {k: v for k, v in call["arguments"].items() if v != [] or (call["name"], k) not in optional}}
        for call in calls
    ]
    return not mine and ours(row, without)


def _letter_by_letter(row: Row, calls: Sequence[Call], mine: bool, theirs: Checker) -> bool:
    return mine and theirs(replace(row, gold=_deep(row.gold, str, standardised)), _deep(calls, str, standardised))


def _deep(value: Any, kind: type, change: Callable[[Any], Any], inside: bool = False) -> Any:
    """The value with everything of a kind below `arguments` changed."""
    if isinstance(value, dict):
        return {key: _deep(item, kind, change, inside or key == "arguments") for key, item in value.items()}
    if isinstance(value, list):
        return [_deep(item, kind, change, inside) for item in value]
    return change(value) if inside and type(value) is kind else value


# The first five are the checker's own limits, the last is where the guard, which is off here, has its say.
REASONS: dict[str, Callable[[Row, Sequence[Call], bool, Checker], bool]] = {
    "we accept: the calls pair, only not greedily in gold order": _greedy,
    "we accept: 5.0 is the whole number 5, and 5 is 5.0 also in a list": _whole_numbers,
    "we accept: text in nested lists, or beside a gold of another type, spelt otherwise": _letter_by_letter,
    "we refuse: Python's True equals 1 inside an object": _true_is_1,
    "we refuse: an empty list where the argument may be left out": _empty_list,
    "we accept, but the guard would not: the tool's schema forbids the gold answer": _forbidden,
}


def judge(row: Row, kind: str, calls: list[Call], theirs: Checker) -> Judged:
    """One answer, judged by both; see :data:`REASONS` for what may explain a difference."""
    mine, their = ours(row, calls), theirs(row, calls)
    why = None
    if mine != their:
        why = next((name for name, explains in REASONS.items() if explains(row, calls, mine, theirs)), "")
    return Judged(row, kind, calls, mine, their, why)


def main() -> None:
    """Compare, print, and end with 1 if a difference is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bfcl", type=Path, required=True, help="where bfcl-eval is installed")
    parser.add_argument("--perturbed", type=int, default=2000, help="answers with something changed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table here")
    given = parser.parse_args()
    rows = list(read(given.bfcl / "bfcl_eval" / "data"))
    draw = random.Random(given.seed)
    theirs = checker_of(given.bfcl)
    judged = [judge(row, "gold", bfcl_answers.gold(row, draw), theirs) for row in rows]
    for row, kind, calls in bfcl_answers.perturbed(rows, given.perturbed, draw):
        judged.append(judge(row, kind, calls, theirs))
    print(f"{'answers':<34}{'n':>6}{'ours':>7}{'theirs':>8}{'equal':>8}")
    table = {}
    for kind in ["gold", *sorted({one.kind for one in judged} - {"gold"})]:
        those = [one for one in judged if one.kind == kind]
        accepted, by_them = sum(one.ours for one in those), sum(one.theirs for one in those)
        print(f"{kind:<34}{len(those):>6}{accepted:>7}{by_them:>8}{sum(one.why is None for one in those):>8}")
        ratio = accepted / by_them if by_them else None
        table[kind] = {"ours": accepted, "theirs": by_them, "ratio": ratio, "unit": "answers accepted", "n": len(those)}
    counted = Counter(one.why for one in judged if one.why is not None)
    print(f"\n{len(judged) - counted.total():,} of {len(judged):,} verdicts are equal. Reasons of the others:")
    for why in REASONS:
        print(f"{counted[why]:>6}  {why}")
    print(f"{counted['']:>6}  without a reason")
    for one in judged:
        if one.why == "":
            print(json.dumps([one.row.id, one.kind, one.ours, one.theirs, one.calls, one.row.gold])[:800])
    if given.json:
        given.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    sys.exit(1 if counted[""] else 0)


if __name__ == "__main__":
    main()
