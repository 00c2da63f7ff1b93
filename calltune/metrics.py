"""The names of the metrics and verdicts, once. Imports nothing slow, so that a config can check names without waiting."""

import json
import re
from collections.abc import Sequence

ALPHA = 0.05
"""All intervals are 95 % intervals."""

PROPORTIONS = (
    "tool_accuracy",
    "tool_accuracy_calls",
    "call_accuracy",
    "ast_call_accuracy",
    "valid_call_rate",
    "abstention_accuracy",
    "max_length_stop_rate",
)
"""Shares of questions, each 0 to 1: every one can be counted again from its per-question outcomes."""

MEANS = ("prompt_tokens_mean",)
"""Means over all questions, in the unit that the name says."""

METRICS = (*PROPORTIONS, *MEANS)

ROBUSTNESS = {
    "shuffled_tools": "tool_accuracy_shuffled_tools",
    "distractor": "tool_accuracy_distractor",
    "rephrased": "tool_accuracy_rephrased",
}
"""Ways to ask every question again, and the metric of each: a share of all questions, there only where it was asked so."""

LOWER_IS_BETTER = frozenset({"max_length_stop_rate", "prompt_tokens_mean"})

SUITES = ("general", "instructions", "execution")
"""What can be measured beside the tool questions. A measure's name begins with its suite's: ``general.gsm8k.exact_match``."""

TEXT_LOSS = "general.text_loss"
"""Nats per token of a held-out text: the one measure of a suite of which less is better, and its perplexity's logarithm."""

_SHARES_OF_TASKS = ("acc", "acc_norm", "exact_match")


def is_share(measure: str) -> bool:
    """Whether a suite's measure is known to be a share of its items, or their mean of numbers from 0 to 1.

    Of lm-eval's metrics these are the usual ones; another may be in whatever unit its task has.
    """
    suite, _, name = measure.partition(".")
    return suite != "general" or name.rpartition(".")[2] in _SHARES_OF_TASKS


VERDICTS = (
    "malformed",
    "unwanted_call",
    "missing_call",
    "wrong_tool",
    "extra_call",
    "wrong_arguments",
    "correct",
)
"""What can be said of one answer: the first that applies."""

NO_CALL, UNREADABLE = "no call", "malformed"
"""Labels in the confusion matrix of an answer without a call, and of one that attempts a call nobody can read."""


def label_of(names: Sequence[str]) -> str:
    """The confusion matrix's label of the called or expected tools: their names, sorted, joined by " + ".

    A name that would be taken for something else in a label is in quotes: a model may call a tool ``no call``, or ``a + b``.
    """
    return " + ".join(map(_shown, sorted(names))) or NO_CALL


def names_in(label: str) -> list[str]:
    """The names that a label is made of, sorted; none in those of an answer without calls, and of one that cannot be read."""
    return [] if label in (NO_CALL, UNREADABLE) else [_meant(name) for name in _NAME.findall(label)]


_NAME = re.compile(r'(?:\A| \+ )("(?:[^"\\]|\\.)*"|[^"+][^+]*?)(?= \+ |\Z)', re.DOTALL)


def _shown(name: str) -> str:
    swallowed = name in (NO_CALL, UNREADABLE) or not name.strip() or "+" in name or name.startswith('"')
    return json.dumps(name, ensure_ascii=False) if swallowed else name


def _meant(shown: str) -> str:
    try:
        return str(json.loads(shown)) if shown.startswith('"') else shown
    except ValueError:  # no label of ours; the gate says so, and the report still shows it
        return shown
