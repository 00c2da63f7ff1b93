"""What evaluate's suites and format's benchmarks need of this machine, looked at before anything is started, and what of it is in
the cache keys."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calltune import input_files
from calltune.credentials import JUDGE_TOKEN
from calltune.errors import ConfigError, DataError
from calltune.records import sha256
from components.evaluate import engines
from components.evaluate.config import EvaluateConfig, ExecutionConfig, GeneralConfig
from components.evaluate.measuring import recorded
from components.evaluate.suites.general.documents import documents
from components.evaluate.suites.instructions.questions import questions
from components.format.benchmarks import benchmark_questions
from pipelines.config import RunConfig


@dataclass(frozen=True)
class Looked:
    """What was found in the files, each read once.

    Attributes:
        measures: names of what evaluate will measure.
        instructions: how many there are to answer; 0 also where the file is in the store already, and was looked at then.
        benchmarks: each file with how many questions it has, but for those that are in the store already.
    """

    measures: list[str]
    instructions: int
    benchmarks: Mapping[str, int]


def require(config: RunConfig) -> Looked:
    """Refuse what evaluate would stumble over after hours of training, or format after rendering; returns what is there.

    Raises:
        ConfigError: a suite's library is not installed, lm-eval has no such task, or the gate has a condition on a metric that is
            not the task's, or on a measure for which no question says what would be right.
        DataError: a file that a suite reads is not there, or is not what the suite reads; or a benchmark's has no questions.
    """
    benchmarks = _asked_elsewhere(config)
    recorded(config.evaluate)
    _require_readable(config.evaluate.general)
    instructions = _questions(config.evaluate)
    names = _asked_for(config.evaluate)
    if config.evaluate.general.tasks:
        from components.evaluate.suites.general.tasks import metrics_of

        metrics = metrics_of(config.evaluate.general)
        # Until here `acc` stands for whichever it is.
        names = [_renamed(name, metrics) for name in names]
        for condition, name in _conditions(config):
            if _renamed(name, metrics) != name:
                raise ConfigError(f"gate.{condition}: {name!r} is not measured, but {_renamed(name, metrics)!r} is")
    if config.evaluate.execution.questions:
        from components.evaluate.suites.execution.questions import prepare

        measured = prepare(config.evaluate.with_files(input_files.local).execution).measures
        names = [name for name in names if not name.startswith("execution.") or name in measured]
        for condition, name in _conditions(config):
            if name.startswith("execution.") and name not in measured:
                where = config.evaluate.execution.questions
                raise ConfigError(f"gate.{condition}: {name!r} is not measured: no row of {where} says what would be right")
    return Looked(names, instructions, benchmarks)


def _conditions(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The gate's conditions on measures of suites: where each stands, and the measure."""
    yield from (("suites", name) for name in config.gate.suites)
    yield from (("regression", name) for name in config.gate.regression)


def _require_readable(general: GeneralConfig) -> None:
    text, folder = general.text, general.tasks_folder
    if text and "://" not in text:
        documents(Path(text))
    if folder and "://" not in folder and not Path(folder).is_dir():
        raise DataError(f"evaluate.general.tasks_folder: {folder} is a file; the folder that it is in would be right")


def _renamed(measure: str, metrics: Mapping[str, str]) -> str:
    """A task's measure under the name of its metric; any other as it is."""
    task = measure.removeprefix("general.").rpartition(".")[0]
    return f"general.{task}.{metrics[task]}" if task in metrics else measure


def keyed(config: RunConfig, code: Mapping[str, str]) -> dict[str, str]:
    """The steps' code as a local run's cache keys have it: also what is in the files that evaluate and format read, and what
    answers where."""
    also: list[Any] = [recorded(config.evaluate)] if _asked_for(config.evaluate) else []
    # The setting stays `auto` when vLLM is installed, and the answers would be the other engine's.
    if config.evaluate.engine == "auto" and engines.chosen("auto")[0] == "vllm":
        also.append("vllm")
    # A workdir may have been begun on a machine without a GPU, whose answers compare with none of this one's.
    if engines.device() != "cpu":
        also.append(engines.device())
    keys = {**code, "evaluate": sha256([code["evaluate"], *also])} if also else dict(code)
    benchmarks = config.format.with_files(input_files.content).contamination.benchmarks
    return {**keys, "format": sha256([code["format"], sorted(benchmarks)])} if benchmarks else keys


def described(config: RunConfig, here: bool) -> Iterator[str]:
    """What `calltune check` says of them, after :func:`require`.

    Args:
        config: of the run.
        here: whether the run will be on this machine, and needs the suites' libraries on it. On a cluster the image has them.
    """
    there = config.evaluate
    unseen: list[tuple[str, str]] = []
    if not here and there.general.tasks and not find_spec("lm_eval"):
        there = there.model_copy(update={"general": there.general.model_copy(update={"tasks": []})})
        unseen.append(("lm-eval", "whether it has evaluate.general.tasks"))
    if not here and there.execution.documents and not find_spec("bm25s"):
        there = there.model_copy(update={"execution": ExecutionConfig()})
        unseen.append(("bm25s", "whether the files of evaluate.execution can be used"))
    looked = require(config.model_copy(update={"evaluate": there}))
    for number, measure in enumerate(looked.measures):
        yield f"{'' if number else 'suites':<13}{measure}"
    asked, judge = looked.instructions, config.evaluate.instructions.judge
    if asked:
        yield f"             instructions: {asked} question{'s' * (asked != 1)}, to each of the models"
    if judge.url:
        token = "with" if os.environ.get(JUDGE_TOKEN, "").strip() else "without"
        verdicts = f"{2 * asked} verdicts for each" if asked else "two verdicts for each answer"
        yield f"             judged by {judge.model} at {judge.url}, {token} a {JUDGE_TOKEN} here; {verdicts}"
    for library, what in unseen:
        yield f"warning: {library} is not installed here: {what}, only the run will tell"
    lines = [f"{file}: no training row may ask what its {count} questions ask" for file, count in looked.benchmarks.items()]
    lines += [f"{place}: in the store" for place in config.format.contamination.benchmarks if "://" in place]
    for number, line in enumerate(lines):
        yield f"{'' if number else 'benchmarks':<13}{line}"


def _asked_elsewhere(config: RunConfig) -> Counter[str]:
    """How many questions each outside benchmark has, but for those that are in the store already, and were looked at then."""
    settings = config.format.contamination
    here = [file for file in settings.benchmarks if "://" not in file]
    return Counter(one.file for one in benchmark_questions(settings.model_copy(update={"benchmarks": here})))


def _questions(config: EvaluateConfig) -> int:
    file = config.instructions.questions
    return len(questions(Path(file), config.instructions.limit)) if file and "://" not in file else 0


def _asked_for(config: EvaluateConfig) -> list[str]:
    return [measure for suite in config.suites.values() for measure in suite.measures()]
