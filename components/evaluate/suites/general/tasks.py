"""lm-eval's tasks by name: which there are, and the metric that each is measured by."""

import difflib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from calltune.errors import ConfigError
from components.evaluate.config import GeneralConfig

BUNDLED = Path(__file__).parent / "lm_eval_tasks"
"""Tasks that come with Calltune: for a machine without a network, and to see the suite work."""


def bundled() -> dict[str, dict[str, Any]]:
    """Calltune's own tasks by name, as lm-eval takes a task that is in none of its folders.

    Their data files are named by their whole paths: lm-eval reads them relative to the current folder.
    """
    found = {}
    for file in sorted(BUNDLED.glob("*.yaml")):
        task = yaml.safe_load(file.read_text(encoding="utf-8"))
        data = task["dataset_kwargs"]["data_files"]
        task["dataset_kwargs"] = {"data_files": {split: str(BUNDLED / name) for split, name in data.items()}}
        found[task["task"]] = task
    return found


def manager_of(settings: GeneralConfig) -> Any:
    """lm-eval's index of the tasks that are named: its own 15,000, which take seconds, only if one of them is.

    Raises:
        ConfigError: there is no task of such a name.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    own = TaskManager(include_path=settings.tasks_folder or None, include_defaults=False)
    asked = [task for task in settings.tasks if task not in bundled()]
    # A group of the user's may be of tasks of lm-eval.
    if all(task in own.all_subtasks for task in asked):
        return own
    every = TaskManager(include_path=settings.tasks_folder) if settings.tasks_folder else _lm_evals()
    for task in asked:
        if task not in every.all_tasks:
            near = difflib.get_close_matches(task, [*bundled(), *every.all_tasks], n=1, cutoff=0.0)
            raise ConfigError(f"evaluate.general.tasks: {task!r} is no task of lm-eval's; the nearest is {near[0]!r}")
    return every


@functools.cache
def _lm_evals() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def metrics_of(settings: GeneralConfig, manager: Any = None) -> dict[str, str]:
    """Task → the metric that it is measured by, read from its YAML: the first of which more is better.

    Args:
        settings: of the suite.
        manager: what :func:`manager_of` has made of them; None to have it made.

    Raises:
        ConfigError: there is no task of such a name, it has no such metric, or its parts do not have the same one.
    """
    manager = manager or manager_of(settings)
    found: dict[str, str] = {}
    for task in settings.tasks:
        parts = [bundled()[task]] if task in bundled() else list(_parts(manager.task_index, task, task))
        metrics = sorted({_main_metric(task, part) for part in parts})
        if len(metrics) != 1:
            raise ConfigError(
                f"evaluate.general.tasks: {task} has parts measured by {' and '.join(metrics)}: name them one by one"
            )
        found[task] = metrics[0]
    return found


def _parts(index: dict[str, Any], asked: str, name: str) -> Iterator[dict[str, Any]]:
    """The YAML of each task that a name stands for: itself, or those of its group or with its tag."""
    entry = index.get(name)
    if entry is None:
        raise ConfigError(f"evaluate.general.tasks: {asked} has a part {name!r}, which is no task of lm-eval's")
    if entry.kind.name == "TASK":
        yield entry.cfg
    elif entry.kind.name == "TAG":
        for part in sorted(entry.tags):
            yield from _parts(index, asked, part)
    elif entry.kind.name == "GROUP":
        for part in entry.cfg["task"]:
            if not isinstance(part, str):
                raise ConfigError(f"evaluate.general.tasks: {asked} changes its parts as it names them: name them one by one")
            yield from _parts(index, asked, part)
    else:
        raise ConfigError(f"evaluate.general.tasks: {name} is written in Python, and does not say what it is measured by")


def _main_metric(task: str, config: dict[str, Any]) -> str:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, is_higher_better

    usual = DEFAULT_METRIC_REGISTRY.get(config.get("output_type", "generate_until"), [])
    listed = config.get("metric_list") or [{"metric": name} for name in usual]
    for one in listed:
        metric = one["metric"]
        # A function is a path here. Only where the YAML does not say: what knows the metrics takes seconds to import.
        named = isinstance(metric, str) and "/" not in metric
        if named and (one["higher_is_better"] if "higher_is_better" in one else is_higher_better(metric)):
            return str(metric)
    instead = "; for perplexity there is evaluate.general.text" if config.get("output_type") == "loglikelihood_rolling" else ""
    raise ConfigError(f"evaluate.general.tasks: {task} has no metric of which more is better{instead}")
