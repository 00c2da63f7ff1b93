"""A stand-in for vLLM 0.33.0, which needs a GPU: the names, parameters and refusals that our engine of that name meets.

It answers by transformers, one row after the other, and hands each answer out at the step at which vLLM would: when as many
tokens are written. What it cannot show is what vLLM's own kernels, scheduler and prefix cache do.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from calltune import models

from .sampling_params import SamplingParams, VLLMValidationError

__all__ = ["LLM", "SamplingParams", "TokensPrompt"]
MADE = []
"""Every LLM so far, for a test to look at."""


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: int | None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        structured_outputs_config: dict | None = None,
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
    ):
        assert isinstance(model, str) and not trust_remote_code
        self.network = models.load(Path(model), dtype=torch.float32).eval()
        self.tokenizer = models.tokenizer(Path(model))
        self.max_model_len = max_model_len or self.network.config.max_position_embeddings
        if self.max_model_len > self.network.config.max_position_embeddings:
            raise ValueError(f"User-specified max_model_len ({max_model_len}) is greater than the derived max_model_len")
        self.prefix_caching, self.backend = enable_prefix_caching, (structured_outputs_config or {}).get("backend", "auto")
        self.llm_engine = Engine()
        self.count = 0
        MADE.append(self)

    def enqueue(
        self,
        prompts,
        sampling_params=None,
        lora_request=None,
        priority=None,
        use_tqdm=True,
        tokenization_kwargs=None,
        mm_processor_kwargs=None,
    ) -> list[str]:
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        if len(each) != len(prompts):
            raise ValueError("The lengths of prompts and params must be the same.")
        ids = []
        for prompt, params in zip(prompts, each, strict=True):
            self._require(prompt["prompt_token_ids"], params)
            # An id of its own, for which the answer has only the number.
            ids.append(f"{self.count}-{secrets.token_hex(4)}")
            self.llm_engine.waiting[str(self.count)] = self._written(prompt["prompt_token_ids"], params)
            self.count += 1
        return ids

    def _require(self, ids, params):
        if not ids:
            raise VLLMValidationError("The decoder prompt cannot be empty")
        if max(ids) >= len(self.tokenizer):
            raise VLLMValidationError(f"Token id {max(ids)} is out of vocabulary")
        if len(ids) >= self.max_model_len:
            raise VLLMValidationError(f"The decoder prompt (length {len(ids)}) is longer than {self.max_model_len}")
        if params.structured_outputs:
            params.structured_outputs.validate(self.backend)

    @torch.inference_mode()
    def _written(self, prompt, params):
        limit = min(params.max_tokens, self.max_model_len - len(prompt))
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else (self.tokenizer.eos_token_id,))}
        matcher = params.structured_outputs.matcher(self.tokenizer) if params.structured_outputs else None
        ids, cache, written = torch.tensor([prompt]), None, []
        while len(written) < limit:
            out = self.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits, cache = out.logits[0, -1], out.past_key_values
            if matcher:
                logits[torch.tensor(list(matcher.compute_logit_bias())) == 0] = float("-inf")
            written.append(int(logits.argmax()))
            if matcher:
                matcher.consume_token(written[-1])
            if written[-1] in stops:
                return CompletionOutput(0, "", written, "stop", written[-1])
            ids = torch.tensor([written[-1:]])
        return CompletionOutput(0, "", written, "length", None)


class Engine:
    def __init__(self):
        self.waiting: dict[str, CompletionOutput] = {}
        self.steps = 0

    def has_unfinished_requests(self) -> bool:
        if not self.waiting:
            self.steps = 0
        return bool(self.waiting)

    def step(self) -> list[RequestOutput]:
        self.steps += 1
        ended = [number for number, output in self.waiting.items() if len(output.token_ids) <= self.steps]
        return [RequestOutput(number, [self.waiting.pop(number)], True) for number in ended]
