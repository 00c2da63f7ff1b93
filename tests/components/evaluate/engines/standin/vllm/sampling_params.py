"""The settings of a request, with what vLLM 0.33.0 refuses in them."""

from dataclasses import dataclass, field

import llguidance
import llguidance.hf


class VLLMValidationError(ValueError):
    pass


@dataclass
class StructuredOutputsParams:
    json: str | dict | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def __post_init__(self):
        given = (self.json, self.regex, self.choice, self.grammar, self.json_object, self.structural_tag)
        if sum(one is not None for one in given) != 1:
            raise VLLMValidationError("You must use one kind of structured outputs constraint")

    def validate(self, backend):
        assert backend == "guidance", "the other backends read other grammars"
        # As vLLM does it: without the tokenizer, so that a grammar that names a special token is refused.
        error = llguidance.LLMatcher.validate_grammar(llguidance.grammar_from("grammar", self.grammar), None)
        if error:
            raise VLLMValidationError(f"Grammar error: {error}")

    def matcher(self, tokenizer):
        return llguidance.LLMatcher(llguidance.hf.from_tokenizer(tokenizer), llguidance.grammar_from("grammar", self.grammar))


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self):
        assert self.temperature == 0, "the stand-in is greedy"
        if self.max_tokens is not None and self.max_tokens < 1:
            raise VLLMValidationError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not all(isinstance(one, int) for one in self.stop_token_ids):
            raise VLLMValidationError(f"stop_token_ids must contain only integers, got {self.stop_token_ids}.")
        if self.stop and not self.detokenize:
            raise VLLMValidationError("stop strings are only supported when detokenize is True.")
