"""Greedy answers from vLLM, with its prefix cache: on a GPU, in the image `vllm`.

Written against vLLM 0.33.0, from its sources. It has not been run: no machine with a GPU was at hand, and the tests have a
stand-in for it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calltune.errors import ConfigError
from components.evaluate.engines.answer import Answer


def load(folder: Path, longest: int) -> Any:
    """The folder's model in a `vllm.LLM`, in the folder's own dtype and on one GPU.

    Args:
        folder: of the model.
        longest: prompt and answer together, in tokens: the room that each row gets. Many models could take far more than
            fits beside their weights, and vLLM refuses to start where one row of full length does not.

    Raises:
        ConfigError: vLLM refuses the model: its kind, or so many tokens, for which it may have no context or no memory.
    """
    import torch

    # What torch keeps of a suite's model, vLLM would take for another program's, and refuse to start for it.
    torch.cuda.empty_cache()
    # The scheduler in this process and not in one of its own: which rows share a batch, and so the last bits of their logits,
    # is then the same each time, and what the step used of memory is this process's.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    try:
        return LLM(
            model=str(folder),
            trust_remote_code=False,
            enable_prefix_caching=True,
            max_model_len=longest,
            # The grammars are llguidance's, which this backend is; the engine hf has the same one.
            structured_outputs_config={"backend": "guidance"},
        )
    except ValueError as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"evaluate.engine: vllm cannot load the model with room for {longest} tokens, question and answer: {said}; hf may"
        ) from error


def answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    grammars: Sequence[str] | None = None,
) -> Iterator[Answer]:
    """Answer each prompt greedily; answers come in the order in which they end.

    Args:
        model: as :func:`load` gives it.
        prompts: token ids of each prompt.
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer, in tokens.
        grammars: what the answer to each prompt may be; None for anything.
    """
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    if not prompts:
        return
    settings = [
        SamplingParams(
            temperature=0,
            max_tokens=max_new_tokens,
            stop_token_ids=list(stop_ids),
            # These tokens end an answer, as in the engine hf, and not the tokenizer's eos besides.
            ignore_eos=True,
            include_stop_str_in_output=True,
            # The text is made from the ids here, so that every marker in it is kept.
            detokenize=False,
            structured_outputs=StructuredOutputsParams(grammar=grammars[row]) if grammars else None,
        )
        for row in range(len(prompts))
    ]
    tokens = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
    # `generate` would hand out nothing before all are answered; this is what it does, one step at a time.
    ids = model.enqueue(tokens, settings, use_tqdm=False)
    # vLLM makes an id of its own from each request's number, and its answers come with the number.
    rows = {id_.partition("-")[0]: row for row, id_ in enumerate(ids)}
    while model.llm_engine.has_unfinished_requests():
        for output in model.llm_engine.step():
            if output.finished:
                (written,) = output.outputs
                if written.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"vLLM gave up on question {rows[output.request_id]}: {written.finish_reason}")
                yield Answer(rows[output.request_id], list(written.token_ids), stopped=written.finish_reason == "stop")
