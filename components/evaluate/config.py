"""Settings of the evaluate step."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from calltune.metrics import TEXT_LOSS
from calltune.records import sha256
from calltune.settings import InputFile, Settings, with_files, written_as

RUBRIC = Path(__file__).parent / "suites" / "instructions" / "rubric.jinja"
"""What a judge is told. Fixed: numbers that were judged by another rubric are other numbers."""

Argument = Annotated[str, written_as(r"[^.]+\..+", "tool.argument")]
Rule = Annotated[str, written_as(r"ast|any|f1>=(0\.\d*[1-9]\d*|1(\.0+)?)", "ast, any, or f1>=x with 0 < x <= 1")]
Task = Annotated[str, written_as(r"[A-Za-z0-9][\w.-]*", "the name of an lm-eval task, or of a group of them")]


class SuiteConfig(Settings):
    """A suite: what can be measured beside the tool questions. It measures nothing until its settings ask for it."""

    has_rows: ClassVar[bool] = False
    """Whether it writes a row for each question, for people to read."""

    def measures(self) -> list[str]:
        """Names of what it measures, as the gate's conditions may name it."""
        return []

    def measures_also(self, name: str) -> bool:
        """Whether it measures what is in :meth:`measures` under another name only because a library says so later."""
        return name in self.measures()

    def libraries(self) -> list[str]:
        """Packages that it needs beside Calltune's own."""
        return []

    def depends_on(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What its results depend on, of its settings and beside them: they are kept by it, and compare where it is equal.

        Args:
            settings: its own as JSON, of a file the content.
        """
        return settings


class GeneralConfig(SuiteConfig):
    """Whether general ability was lost: tasks of lm-eval, and the loss on a held-out text."""

    files = ("tasks_folder", "text")

    tasks: list[Task] = []
    """Tasks or groups of lm-eval, such as `mmlu`, `gsm8k`, `truthfulqa_mc1` (fetched from the Hub), or `calltune_knowledge`,
    40 questions that come with Calltune. Each is a measure, `general.<task>.<metric>` (docs/metrics.md)."""
    tasks_folder: InputFile = ""
    """Folder with tasks of your own, in lm-eval's YAML; paths in them are relative to it."""
    limit: int = Field(0, ge=0)
    """The first so many questions of each task; 0: all."""
    text: InputFile = ""
    """A text in UTF-8 that no training has seen, blank lines between its documents: `general.text_loss`, in nats per token."""

    @model_validator(mode="after")
    def _the_folder_is_asked_for(self) -> "GeneralConfig":
        if self.tasks_folder and not self.tasks:
            raise ValueError("tasks_folder is set, and tasks names none of it")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one of them twice")
        return self

    def measures(self) -> list[str]:
        """A task's metric is `acc` for most; which one it is, only lm-eval knows."""
        return [f"general.{task}.acc" for task in self.tasks] + [TEXT_LOSS] * bool(self.text)

    def measures_also(self, name: str) -> bool:
        """Whether it is one of :meth:`measures`, or a task's metric under its own name."""
        task, _, metric = name.removeprefix("general.").rpartition(".")
        return name in self.measures() or (bool(metric) and task in self.tasks)

    def libraries(self) -> list[str]:
        """A text alone needs none."""
        return ["lm-eval"] if self.tasks else []


class JudgeConfig(Settings):
    """A language model that says whether an answer is better than the reference answer. Its token, where it wants one, is
    `CALLTUNE_JUDGE_TOKEN` in the environment."""

    url: Annotated[
        str,
        # Neither user and password nor a key in the query: whoever may see a run may read its settings.
        written_as(r"(https?://[^/\s@?#]+(/[^\s?#]*)?)?", "an address such as https://api.openai.com/v1, without any credential"),
    ] = ""
    """An endpoint with OpenAI's chat completions, to which `/chat/completions` is added; empty: there is no judge."""
    model: str = ""
    """The judge's name at that endpoint."""
    timeout_s: int = Field(120, ge=1)
    """How long one verdict may take before it is asked for again."""
    parallel: int = Field(4, ge=1, le=64)
    """How many verdicts are asked for at once."""

    @model_validator(mode="after")
    def _whole(self) -> "JudgeConfig":
        if bool(self.url) != bool(self.model):
            raise ValueError(f"a judge needs url and model, and {'model' if self.url else 'url'} is empty")
        return self


class InstructionsConfig(SuiteConfig):
    """Whether the model follows instructions that call no tool: its answers to a file of them, held against the file's own."""

    files = ("questions",)
    has_rows = True

    questions: InputFile = ""
    """JSON lines or a JSON array of instructions that no training has seen, each with its reference answer: Alpaca's rows, or
    conversations that end in one (docs/metrics.md)."""
    limit: int = Field(0, ge=0)
    """The first so many questions; 0: all."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer in tokens."""
    judge: JudgeConfig = JudgeConfig()

    @model_validator(mode="after")
    def _there_is_something_to_judge(self) -> "InstructionsConfig":
        if self.judge.url and not self.questions:
            raise ValueError("judge is set, and questions names no file")
        return self

    def measures(self) -> list[str]:
        """A judge's verdicts, or without one how much of the reference answers' words there is."""
        if not self.questions:
            return []
        judged = ("win_rate", "judge_agreement", "verdict_rate")
        return [f"instructions.{name}" for name in (judged if self.judge.url else ("rouge_l", "exact_match"))]

    def depends_on(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Who judges, and by which rubric; not how patiently it is asked."""
        judge = {"url": self.judge.url, "model": self.judge.model, "rubric": sha256(RUBRIC.read_text(encoding="utf-8"))}
        return {**settings, "judge": judge if self.judge.url else {}}


class ExecutionConfig(SuiteConfig):
    """What becomes of the calls: they are run, the results go back to the model, and its final answer is judged."""

    files = ("questions", "tools", "documents")
    has_rows = True

    questions: InputFile = ""
    """JSON lines, `{"question": …, "document": …, "answer_contains": […]}`; of `document` and `answer_contains` each row has what
    it is to be judged by (docs/metrics.md)."""
    tools: InputFile = ""
    """Python file whose functions are the tools, as `ingest.tools` has them, with bodies: they are run."""
    documents: InputFile = ""
    """Folder of `.md` and `.txt` files that `search_knowledge_base` then searches, whatever its body in the tools file is."""
    timeout_s: int = Field(10, ge=1)
    """Seconds that a call may take, the import of the tools file included."""
    max_turns: int = Field(4, ge=1)
    """Answers that the model gives to a question at most, the final one included."""
    max_new_tokens: int = Field(160, ge=1)
    """Longest of these answers, in tokens."""

    @model_validator(mode="after")
    def _belongs_together(self) -> "ExecutionConfig":
        if bool(self.questions) != bool(self.tools) or (self.documents and not self.questions):
            raise ValueError("questions and tools are needed together, and documents only with them")
        if self.tools and not self.tools.endswith(".py"):
            raise ValueError(f"tools: {self.tools} has no functions that could be run: name a Python file")
        return self

    def measures(self) -> list[str]:
        """Those that a question may be judged by; which of them one is, stands in its row."""
        names = ["success", "finished", *["retrieved"] * bool(self.documents), "answered"]
        return [f"execution.{name}" for name in names] if self.questions else []

    def libraries(self) -> list[str]:
        """The search alone needs one."""
        return ["bm25s"] if self.documents else []


class EvaluateConfig(Settings):
    """Settings of the evaluate step."""

    engine: Literal["auto", "hf", "vllm"] = "auto"
    """What answers: `hf`, transformers; `vllm`, which needs a GPU and on a cluster has an image of its own; `auto`, `vllm` where
    it is installed beside a GPU, else `hf`, which on a cluster it always is. Metrics name the one that it was, and compare only
    with those of the same one."""
    decoding: Literal["free", "tools"] = "free"
    """`free`: an answer is what the model writes. `tools`: only what the tools' JSON Schemas allow, text or valid calls; for
    templates that write calls as `hermes`, or as JSON in `<calls>` (docs/metrics.md)."""
    max_new_tokens: int = Field(160, ge=1)
    """Longest answer in tokens; one that reaches it counts in `max_length_stop_rate`."""
    arguments: dict[Argument, Rule] = {}
    """Match rule for an argument, `tool.argument: ast | any | f1>=0.5`; the default depends on its type (docs/metrics.md)."""
    robustness: list[Literal["shuffled_tools", "distractor", "rephrased"]] = []
    """Ask every question again: its tools in another order, with a tool more that fits nothing, or in slightly other words.
    Each way is a metric of its own, and takes about as long as the evaluation without it (docs/metrics.md)."""
    general: GeneralConfig = GeneralConfig()
    instructions: InstructionsConfig = InstructionsConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @field_validator("robustness")
    @classmethod
    def _each_once(cls, ways: list[str]) -> list[str]:
        if len(set(ways)) < len(ways):
            raise ValueError("names one of them twice")
        return ways

    @property
    def suites(self) -> dict[str, SuiteConfig]:
        """The suites by name, those that measure nothing among them."""
        return {"general": self.general, "instructions": self.instructions, "execution": self.execution}

    def with_files(self, change: Callable[[str, str], str]) -> "EvaluateConfig":
        """A copy in which each file that a suite reads is what `change` makes of it.

        Args:
            change: from the setting's name and its value; not called for those that are empty.
        """
        return with_files(self, "evaluate", change)
