"""Which library answers the questions, and the one that was chosen, with a model loaded."""

import gc
import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from calltune.errors import ConfigError
from components.evaluate.engines.answer import Answer


class Ask(Protocol):
    """A loaded model: from prompts to answers, as they come."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        stop_ids: Sequence[int],
        max_new_tokens: int,
        grammars: Sequence[str] | None,
    ) -> Iterator[Answer]:
        """Answer each prompt greedily.

        Args:
            prompts: token ids of each.
            stop_ids: tokens that end an answer.
            max_new_tokens: longest answer, in tokens.
            grammars: what the answer to each prompt may be, as :func:`calltune.grammar.grammar` writes it; None for anything.
        """


def chosen(engine: str) -> tuple[str, str]:
    """The engine that a setting means here, and why.

    Args:
        engine: `auto`, `hf` or `vllm`.

    Raises:
        ConfigError: it is `vllm`, which is not installed here or has no GPU.
    """
    if engine == "hf":
        return "hf", "evaluate.engine says so"
    missing = lacking()
    if engine == "auto":
        return ("hf", missing) if missing else ("vllm", "vLLM is installed, and there is a GPU")
    if missing:
        raise ConfigError(f"evaluate.engine: vllm cannot run here: {missing}; auto or hf can")
    return "vllm", "evaluate.engine says so"


def lacking() -> str:
    """What vLLM would need and does not find; empty if nothing. It is only looked for, since it takes long to import."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    import torch

    return "" if torch.cuda.is_available() else "vLLM is installed, but there is no GPU that torch can use"


def device() -> str:
    """`cuda` or `cpu`: where answers are computed, and so in which precision: a CPU's are float32, whatever the weights are."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def opened(engine: str, folder: Path, tokenizer: Any, longest: int) -> Ask:
    """Load a model, to ask it.

    Args:
        engine: `hf` or `vllm`.
        folder: of the model.
        tokenizer: the model's.
        longest: prompt and answer together, in tokens.

    Raises:
        ConfigError: a model that the engine cannot run.
    """
    # lm-eval's wrapper of a model refers to itself, and would keep the weights that a suite has loaded.
    gc.collect()
    if engine == "vllm":
        from components.evaluate.engines import vllm

        return partial(vllm.answers, vllm.load(folder, longest))
    from components.evaluate.engines import hf

    network = hf.load(folder)

    def ask(
        prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], max_new_tokens: int, grammars: Sequence[str] | None
    ) -> Iterator[Answer]:
        constraint = None
        if grammars:
            from components.evaluate.engines.constraint import Constraint

            constraint = Constraint(tokenizer, grammars)
        return hf.answers(network, prompts, stop_ids, max_new_tokens, constraint)

    return ask
