"""Do the tests notice when the gate or the scoring is wrong? Changes one thing at a time in a file, and runs its tests.

The changes are those of two tools: cosmic-ray (each comparison by each other one, numbers, conditions, loops, handlers,
decorators) and mutmut (arguments left out or None, None assigned, names of keys). What both make counts once; left out is what
differs in nothing but type annotations or prose, that is: a text with a space in it. No file is written: a change is made
in the memory of a forked process, which has imported and collected everything already.

Prints each change that no test notices, as a diff, and for each file how many were killed; a change whose tests run ten times
as long as the unchanged file's (in CPU time) counts as killed, as a timeout. Ends with 1 if in any file less than 95 % were.
RESULTS.md names the changes that no test can notice, each with the reason.

    make mutants FILES=components/gate/step.py
"""

import argparse
import ast
import difflib
import gc
import json
import os
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

REPO = Path(__file__).parents[1]
LEAST = 0.95
"""Share of a file's changes that its tests must notice."""
TESTS = {
    "calltune/score.py": ("calltune/test_score.py", "calltune/test_breakdown.py", "components/gate/test_step.py"),
    "calltune/match.py": ("calltune/test_match.py", "calltune/test_score.py"),
    "components/gate/step.py": ("components/gate/test_step.py",),
    "components/gate/check.py": ("components/gate",),
    "components/gate/evidence.py": ("components/gate",),
    "components/gate/predictions.py": ("components/gate",),
    "components/gate/questions.py": ("components/gate/test_step.py",),
}
"""The tests of a file."""
DEFAULT = ("calltune/score.py", "components/gate/step.py")


def main() -> None:
    """Try every change, print, and end with 1 if too few were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TESTS)}; without one: {', '.join(DEFAULT)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    unknown = [file for file in given.files if file not in TESTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(TESTS)}")
    _prepare()
    files = given.files or DEFAULT
    trial = _Trial(files)
    tests = {str(REPO / "tests" / test) for file in files for test in TESTS[file]}
    # Without the reporter, which would tell of every fork; the option that is for it is left out, too.
    pytest.main(
        ["-p", "no:terminal", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "--capture=sys", *tests], [trial]
    )
    if trial.problem:
        sys.exit(trial.problem)
    figures = {file: dict(found) for file, found in trial.found.items()}
    for file, found in figures.items():
        print(f"{file}: {_share(found):.1%} killed: {found}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(int(min(map(_share, figures.values())) < LEAST))


def _share(found: dict[str, int]) -> float:
    return 1 - found.get("survived", 0) / sum(found.values())


def mutants(code: str, file: str) -> Iterator[str]:
    """The file's code with one thing changed, for everything that the two tools change; each behaviour once."""
    seen = {_behaviour(code)}
    for mutant in (*_of_cosmic_ray(code), *_of_mutmut(code, file)):
        try:
            behaviour = _behaviour(mutant)
        except SyntaxError:  # such as `a ** = b`: no Python, so no mistake that somebody could make
            continue
        if behaviour not in seen:
            seen.add(behaviour)
            yield mutant


def _of_cosmic_ray(code: str) -> Iterator[str]:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    for operator in map(get_operator, operator_names()):
        if operator.arguments():  # those that replace a variable, at random, want its name
            continue
        occurrence = 0
        while (mutant := mutate_code(code, operator(), occurrence)) is not None:
            occurrence += 1
            yield mutant


def _of_mutmut(code: str, file: str) -> Iterator[str]:
    from mutmut.mutation.file_mutation import create_mutations

    module, mutations, *_ = create_mutations(file, code)
    for mutation in mutations:
        yield module.deep_replace(mutation.original_node, mutation.mutated_node).code  # type: ignore[arg-type]


class _WithoutProse(ast.NodeTransformer):
    """Takes out what does not decide anything: annotations, docstrings and sentences."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        prose = isinstance(node.value, str) and " " in node.value
        return ast.Constant("") if prose else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _behaviour(code: str) -> str:
    return ast.dump(_WithoutProse().visit(ast.parse(code)))


def _prepare() -> None:
    """Set up what every forked process inherits."""
    os.chdir(REPO)
    sys.path.insert(0, str(REPO))
    os.environ["OMP_NUM_THREADS"] = "1"
    # The same examples each time: a change is not to be found by luck. None of them need be the smallest one.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    # Nor may a slow machine fail a test: that would count as a change that was noticed.
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        phases=phases,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")


class _Trial:
    """Instead of running the collected tests once, runs a file's tests once for each change of it, each time in a fork."""

    def __init__(self, files: Sequence[str]) -> None:
        self.found: dict[str, Counter[str]] = {file: Counter() for file in files}
        self.noticed: Counter[str] = Counter()
        self.problem = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try every change of every file; for pytest the tests have then been run."""
        gc.freeze()  # a collection in a fork would touch, and so copy, every page
        for file, found in self.found.items():
            places = tuple(str(REPO / "tests" / test) for test in TESTS[file])
            items = [item for item in session.items if str(item.path).startswith(places)]
            code = (REPO / file).read_text(encoding="utf-8")
            status, seconds = self._tested(items, file, code, limit_s=600)
            if status != 0:
                self.problem = f"{file}: its tests do not pass on the unchanged file: pytest {' '.join(places)}"
                return True
            limit_s = max(10, round(10 * seconds))
            every = list(mutants(code, file))
            for number, mutant in enumerate(every):
                if number % 50 == 0:
                    _say(f"{file}: {number} of {len(every)} changes tried, {found['survived']} survived")
                status, _ = self._tested(items, file, mutant, limit_s)
                what = "survived" if status == 0 else "timeout" if status == -signal.SIGXCPU else "killed"
                found[what] += 1
                if what != "killed":
                    _say(what, *list(difflib.unified_diff(code.splitlines(), mutant.splitlines(), n=0, lineterm=""))[2:])
            # Otherwise something else than the changes was noticed, such as the order or a full disk.
            if self._tested(items, file, code, limit_s)[0] != 0:
                self.problem = f"{file}: its tests do not pass any more on the unchanged file: the figures mean nothing"
                return True
        return True

    def _tested(self, items: list[pytest.Item], file: str, code: str, limit_s: int) -> tuple[int, float]:
        """Run the tests on changed code.

        Returns:
            0 if they all pass, else another status, or minus the signal that ended the process; and its CPU seconds.
        """
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
            warnings.simplefilter("ignore")  # "is" with a literal, which is one of the changes
            os._exit(self._run_changed(items, file, code, writing))
        os.close(writing)
        _, status, used = os.wait4(child, 0)
        with open(reading, encoding="utf-8") as told:
            self.noticed[told.read()] += 1
        return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

    def _run_changed(self, items: list[pytest.Item], file: str, code: str, writing: int) -> int:
        try:
            _install(file, code)
        except Exception:  # a change that breaks the import is noticed by whoever imports
            return 1
        # What has noticed the most changes comes first.
        items = sorted(items, key=lambda item: -self.noticed[item.nodeid])
        for item, following in zip(items, (*items[1:], None), strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed:
                os.write(writing, item.nodeid.encode())
                return 1
        return 0


def _install(file: str, code: str) -> None:
    """Run a module's changed code in its place, and give whoever has imported from it the new functions and classes."""
    name = file.removesuffix(".py").replace("/", ".")
    module = vars(sys.modules[name])
    before = {key: value for key, value in module.items() if getattr(value, "__module__", None) == name}
    exec(compile(code, file, "exec"), module)
    after = {id(value): module[key] for key, value in before.items()}
    for other in list(sys.modules.values()):
        if str(getattr(other, "__file__", None)).startswith(str(REPO)):
            for key, value in list(vars(other).items()):
                if id(value) in after:
                    setattr(other, key, after[id(value)])


def _say(*lines: str) -> None:
    # pytest has put its own capture in the place of sys.stdout.
    print(*lines, sep="\n", file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
