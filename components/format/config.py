"""Settings of the format step."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from calltune.settings import InputFile, Settings, with_files


class SplitConfig(Settings):
    """How rows are divided into training, validation and test; rows with the same first user turn stay together."""

    mode: Literal["auto", "exact", "growing"] = "auto"
    """`exact`: seeded, stratified by expected tools, exact shares. `growing`: each question's part follows from itself and
    the seed, so that more rows later move none; the shares are then met on average. `auto`: `exact` for fewer than 1,000 rows
    and for `by: tool`, else `growing`."""
    test: float = Field(0.33, ge=0, lt=1)
    """Share of the questions held out for the verdict."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the questions held out to stop training early."""
    by: Literal["question", "tool"] = "question"
    """`question`: any question may be in any part. `tool`: the test's calls are of tools that training never calls or shows, so
    that it measures tools never seen; `test` is then their share of the questions that call something."""
    test_source: str = ""
    """Where the test comes from, instead of a share: the rows whose source ends in this file name or matches this pattern, such
    as `holdout.jsonl` or `s3://bucket/test/*`."""
    seed: int = 0
    """Another seed, another split."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "SplitConfig":
        # With a named source the share is not used.
        if (0 if self.test_source else self.test) + self.validation >= 1:
            raise ValueError(f"test {self.test} and validation {self.validation} leave no row to train on")
        if self.by == "tool" and self.test_source:
            raise ValueError("by: tool and test_source both say what the test is: leave one of them out")
        return self


class ContaminationConfig(Settings):
    """What counts as the same question in training and in test or validation; such a training row is quarantined. One that asks
    what a benchmark asks fails the run."""

    files = ("benchmarks",)

    similarity: float = Field(0.8, ge=0.5, le=1)
    """Words that two users' texts share, divided by the words of both, from which on they nearly equal; 1: the same words."""
    shared_words: int = Field(13, ge=5)
    """Words in a row that are enough by themselves, unless more than 1 % of all rows (and more than ten) have them."""
    max_share: float = Field(1, ge=0, le=1)
    """Share of the training rows that may be taken out so before the run fails, with the pairs listed."""
    benchmarks: list[InputFile] = []
    """Files of outside benchmarks whose questions no training row may ask: JSON lines or a JSON array (also `.gz` and `.zst`) in
    any dialect that ingest reads, with or without answers, such as the question files of the Berkeley leaderboard."""


class FormatConfig(Settings):
    """Settings of the format step."""

    template: str = "auto"
    """Chat template: `auto` (the model's own if it can carry tool calls, else `hermes`), `hermes`, `functiongemma`, `llama3`,
    `phi3`, `xlam`, `alpaca`, or the path of a Jinja file that ends in `.jinja`; its text becomes the setting."""
    call_syntax: Literal["auto", "json", "yaml", "python"] = "auto"
    """How calls are written: `auto` as the template does; `yaml` or `python` for `llama3`, `phi3`, `xlam` and `alpaca`."""
    tool_detail: Literal["full", "short", "names", "none"] = "full"
    """How much of each tool the prompt shows: `full`; `short`, one sentence and the parameters without their descriptions;
    `names`; or `none`, for tools that the model learns by heart. It becomes part of the chat template."""
    supervise_tools: bool = Field(False, strict=True)
    """Whether the loss of training covers the tools as well as the answers: only with `template: xlam`, whose tools stand after
    the first question. The validation loss stays that of the answers."""
    shuffle_tools: int = Field(0, ge=0)
    """Training rows that share one order of the tools, another for the next ones, so that a tool's place is not what is learnt;
    0: as given. The test keeps its order."""
    max_tokens: int = Field(2048, ge=16)
    """Longest row in tokens; a longer one is quarantined, never cut."""
    too_long: Literal["quarantine", "drop_turns"] = "quarantine"
    """What to do with a longer one: `quarantine` it, or leave its earliest user turns with all that belongs to them out until it
    fits, in the test as well."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share of the records that may be quarantined here (too long, or nothing that the template can express) before the run
    fails."""
    split: SplitConfig = SplitConfig()
    contamination: ContaminationConfig = ContaminationConfig()

    @model_validator(mode="after")
    def _supervises_what_stands_apart(self) -> "FormatConfig":
        if self.supervise_tools and self.template != "xlam":
            # Elsewhere the tools are the beginning that rows share: none could be computed once for all of them.
            raise ValueError(
                "supervise_tools: only template: xlam prints the tools after the question; set that, or leave it out"
            )
        if self.supervise_tools and self.tool_detail == "none":
            raise ValueError("supervise_tools: with tool_detail: none there are no tools in the prompt: leave one of them out")
        return self

    def with_files(self, change: Callable[[str, str], str]) -> "FormatConfig":
        """A copy in which each file that it names is what `change` makes of it, from the setting's name and its value."""
        return with_files(self, "format", change)

    @field_validator("template")
    @classmethod
    def _read_a_file(cls, value: str) -> str:
        # The text and not the path is the setting: it is in the config's hash and the steps' cache keys, and goes to a cluster.
        if not value.endswith(".jinja"):
            return value
        try:
            return Path(value).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{value!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{value!r} is no text in UTF-8: {error}") from None
