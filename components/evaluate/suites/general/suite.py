"""The suite `general`: is the model still good at what it was not trained for? Tasks of lm-eval, and a held-out text."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from calltune import models
from calltune.errors import ConfigError
from calltune.metrics import TEXT_LOSS
from components.evaluate.config import GeneralConfig
from components.evaluate.served import Served
from components.evaluate.suites.general.documents import documents
from components.evaluate.suites.general.tasks import bundled, manager_of, metrics_of
from components.evaluate.suites.general.text import losses
from components.evaluate.suites.measure import Measure

BATCH_ROWS = 8
"""Rows of a batch of lm-eval, which keeps the logits of all their tokens: at 700 tokens and 128,000 words 3 GB in float32."""
SEED = 1234
"""Of the examples that are shown before a question: lm-eval's own."""


def measures(served: Served, settings: GeneralConfig) -> dict[str, Measure]:
    """The measures of one model.

    Raises:
        ConfigError: a task cannot be loaded, or has no number for each of its questions.
        DataError: the text has no document of two tokens or more.
    """
    cuda = torch.cuda.is_available()
    # Plain transformers, not the attention to a shared prefix: these prompts share none.
    network = models.load(served.folder.path, dtype="auto" if cuda else torch.float32)
    network = network.to("cuda" if cuda else "cpu").eval()  # type: ignore[arg-type]
    found = _tasks(network, served.folder.path, settings) if settings.tasks else {}
    if settings.text:
        texts = documents(Path(settings.text))
        found[TEXT_LOSS] = Measure(losses(network, models.tokenizer(served.folder.path), texts), texts)
    return found


def _tasks(network: PreTrainedModel, folder: Path, settings: GeneralConfig) -> dict[str, Measure]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    manager = manager_of(settings)
    metrics = metrics_of(settings, manager)
    tokenizer = models.tokenizer(folder)  # before the folder changes: a path to it may be relative
    # Paths in the user's YAML are relative to its folder, wherever the step runs.
    with contextlib.chdir(settings.tasks_folder or "."):
        loaded = {task: _loaded(manager, task) for task in settings.tasks}
        # A tokenizer of its own, since lm-eval gives one without a padding token some. Without the chat template, because
        # the base model was not trained on the candidate's: what both know is asked for as lm-eval's published numbers do.
        judge = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=BATCH_ROWS)
        for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            # In a log a bar is a line for each of its steps.
            setattr(judge, kind, functools.partial(getattr(judge, kind), disable_tqdm=True))
        parts = {name: part for parts in loaded.values() for name, part in parts.items()}
        answered = evaluate(judge, {"tasks": parts, "groups": {}}, limit=settings.limit or None, bootstrap_iters=0)
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = answered["samples"]
    return {
        f"general.{task}.{metrics[task]}": _measure(task, metrics[task], {name: samples[name] for name in loaded[task]})
        for task in settings.tasks
    }


def _loaded(manager: Any, task: str) -> dict[str, Any]:
    """A task of that name, or those of the group: lm-eval's objects by name, their data at hand."""
    try:
        parts: dict[str, Any] = manager.load([bundled().get(task, task)])["tasks"]
        for part in parts.values():
            if part.get_config("num_fewshot") is None:
                part.set_config(key="num_fewshot", value=0)
            part.set_fewshot_seed(seed=SEED)
    except Exception as error:  # a task's YAML may name any data set, and code of its own
        reason = " ".join(str(error).split())
        raise ConfigError(f"evaluate.general.tasks: {task} cannot be loaded: {type(error).__name__}: {reason}") from None
    return parts


def _measure(task: str, metric: str, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Measure:
    """One measure from what lm-eval says of each question."""
    items: dict[str, float] = {}
    asked: dict[str, list[str]] = {}
    for name, samples in parts.items():
        for sample in samples:
            # Answers can be read in several ways, each a filter of lm-eval's; the first is what it calls strict.
            if sample["filter"] != samples[0]["filter"]:
                continue
            number = sample.get(metric)
            if isinstance(number, bool) or not isinstance(number, Real):
                raise ConfigError(f"evaluate.general.tasks: {task} has no number for each question: its {metric} is {number!r}")
            id_ = f"{name}/{sample['doc_id']}"
            items[id_] = float(number)
            asked[id_] = [sample[key] for key in ("doc_hash", "prompt_hash", "target_hash")]
    return Measure(items, asked)
