"""A run's config: the steps' own settings, composed; YAML in, validated, frozen."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from calltune.errors import ConfigError
from calltune.records import sha256
from calltune.settings import ModelConfig, Settings
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.format.config import FormatConfig
from components.gate.config import GateConfig
from components.ingest.config import IngestConfig
from components.train.config import TrainConfig

MAX_INTEGER = 2**53
"""KFP carries numbers as doubles: a larger integer would come out as another one."""


class PromoteSection(Settings):
    """Settings of the promote step, without the model's name, which is the run's."""

    alias: str = Field("champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """The registry's name for the model that serves."""


class RetrainConfig(Settings):
    """When a run trains."""

    when: Literal["always", "changed"] = "always"
    """`always`, or only if data or tools have `changed` since the champion was trained."""


class StorageConfig(Settings):
    """Where models, checkpoints and reports are kept. Credentials come from the environment only."""

    uri: str = Field("embedded", pattern=r"^(embedded|s3://[a-z0-9][a-z0-9.-]+(/.*)?|/.*|\./.*)$")
    """`embedded`: a server that the run starts; `s3://bucket/prefix`; or a folder."""
    endpoint_url: str = ""
    """The S3 server, where it is not AWS."""


class TrackingConfig(Settings):
    """Where metrics and the model registry are kept."""

    uri: str = "embedded"
    """`embedded`: SQLite in the workdir; or an MLflow server's address."""


class Resources(Settings):
    """What a step asks of Kubernetes; without effect on a laptop."""

    gpu: int = Field(0, ge=0)
    """GPUs."""
    cpu: float = Field(1, gt=0)
    """CPU cores."""
    memory_gib: float = Field(4, gt=0)
    """Memory in GiB."""
    node_selector: dict[str, str] = {}
    """Labels that the node must have."""
    tolerations: list[dict[str, str]] = []
    """Taints that the pod tolerates."""


class RunConfig(Settings):
    """The whole config of a run. One section for each step; unknown keys are refused."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """The registered model's name."""
    model: ModelConfig
    ingest: IngestConfig
    format: FormatConfig = FormatConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    promote: PromoteSection = PromoteSection()
    retrain: RetrainConfig = RetrainConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: dict[Literal["ingest", "format", "train", "export", "evaluate", "gate", "promote", "report"], Resources] = {}

    @model_validator(mode="after")
    def _the_gate_has_enough_questions(self) -> "RunConfig":
        if self.format.split.test == 0:
            raise ValueError("format.split.test is 0: the gate needs held-out questions")
        return self

    @property
    def sha256(self) -> str:
        """Of everything that the run's result depends on."""
        return sha256(self.model_dump(mode="json", exclude={"storage", "tracking", "resources"}))

    def for_step(self, step: str) -> dict[str, Any]:
        """The dict that a step gets as its parameter: JSON values, no nulls, as KFP wants them."""
        model = self.model.model_dump(mode="json")
        if step == "look":
            look = {"name": self.name, "source": self.ingest.source, "tools": self.ingest.tools, "alias": self.promote.alias}
            return {**look, "when": self.retrain.when, "run": self.model_dump(mode="json", exclude_none=True)}
        if step == "notify":
            return {"name": self.name}
        if step == "report":
            return {"name": self.name, "config_sha256": self.sha256}
        section: dict[str, Any] = getattr(self, step).model_dump(mode="json", exclude_none=True)
        if step == "promote":
            return {**section, "name": self.name}
        return {**section, "model": model} if step in ("format", "train", "export", "evaluate") else section


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a config file.

    Paths in it are relative to the current folder, as on any command line.

    Args:
        path: the YAML file.
        overrides: `a.b=value`, the value read as YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest is named), or a wrong value.
    """
    file = Path(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of sections; pipelines/recipes/ has examples")
    for override in overrides:
        _apply(raw, override)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error)}") from None
    _refuse_large_integers(raw, str(path))
    return config


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: must be key=value, for example gate.thresholds.tool_accuracy=0.9")
    *parents, last = key.split(".")
    place = raw
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None


def _explained(error: ValidationError) -> str:
    """The first of pydantic's errors, as one line: which key, what is wrong, what would be right."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        *parents, last = (str(part) for part in first["loc"])
        near = difflib.get_close_matches(last, _known_keys(parents), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_known_keys(parents))}"
        return f"{key}: unknown key; {hint}{more}"
    if first["type"] == "missing":
        return f"{key}: is required{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{given}{more}" if key else f"{message}{more}"


def _known_keys(parents: Sequence[str]) -> list[str]:
    section: Any = RunConfig
    for parent in parents:
        field = section.model_fields.get(parent)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, Settings)):
            return []
    return list(section.model_fields)


def _refuse_large_integers(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_large_integers(item, f"{where}: {key}")
    elif isinstance(value, list):
        for item in value:
            _refuse_large_integers(item, where)
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise ConfigError(f"{where}: {value} is too large; integers must be below 2^53")


def absolute(config: RunConfig) -> RunConfig:
    """The config with local paths made absolute, so that a step may run in any folder."""

    def path(value: str) -> str:
        return os.path.abspath(value) if value and "://" not in value else value

    ingest = config.ingest.model_copy(update={"source": path(config.ingest.source), "tools": path(config.ingest.tools)})
    base = config.model.base
    model = config.model.model_copy(update={"base": path(base)}) if Path(base).is_dir() else config.model
    return config.model_copy(update={"ingest": ingest, "model": model})
