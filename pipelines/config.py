"""A run's config: the steps' own settings, composed; YAML in, validated, frozen."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from calltune.errors import ConfigError
from calltune.grammar import require_grammar
from calltune.metrics import ROBUSTNESS
from calltune.records import sha256
from calltune.settings import ModelConfig, Settings, written_as
from calltune.template import TEMPLATES, with_syntax
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.format.config import FormatConfig
from components.gate.config import GateConfig
from components.ingest.config import IngestConfig
from components.look.config import DriftConfig
from components.notify.config import NotifySection
from components.promote.config import PromoteSection
from components.train.config import TrainConfig
from pipelines import plain_yaml
from pipelines.cluster import ClusterConfig, ImagesConfig, Resources
from pipelines.explain import explained
from pipelines.places import StorageConfig, TrackingConfig

MAX_INTEGER = 2**53
"""KFP carries numbers as doubles: a larger integer would come out as another one."""


class RetrainConfig(Settings):
    """When a run trains."""

    when: Literal["always", "changed"] = "always"
    """`always`, or only if data, tools or base model have `changed` since the champion was trained, or for the next two."""
    max_age_days: int = Field(0, ge=0)
    """The champion's age in days that is a reason to train; 0: none is."""
    drift: DriftConfig = DriftConfig()


class RunConfig(Settings):
    """The whole config of a run. One section for each step; unknown keys are refused."""

    name: Annotated[
        str, written_as(r"[a-z0-9][a-z0-9_-]{0,62}", "small letters, digits, - and _, at most 63, a letter or digit first")
    ]
    """The registered model's name."""
    model: ModelConfig
    ingest: IngestConfig
    format: FormatConfig = FormatConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    promote: PromoteSection = PromoteSection()
    notify: NotifySection = NotifySection()
    retrain: RetrainConfig = RetrainConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: dict[Literal["ingest", "format", "train", "export", "evaluate", "gate", "promote", "report"], Resources] = {}
    cluster: ClusterConfig = ClusterConfig()
    images: ImagesConfig = ImagesConfig()

    @model_validator(mode="after")
    def _the_gate_has_enough_questions(self) -> "RunConfig":
        if self.format.split.test == 0 and not self.format.split.test_source:
            raise ValueError("format.split.test is 0: the gate needs held-out questions")
        return self

    @model_validator(mode="after")
    def _the_gates_metrics_are_measured(self) -> "RunConfig":
        asked = {*self.gate.thresholds, *self.gate.over_baseline, *self.gate.against_champion}
        for way, metric in ROBUSTNESS.items():
            if metric in asked and way not in self.evaluate.robustness:
                raise ValueError(
                    f"the gate has a condition on {metric}: name {way} in evaluate.robustness, so that it is measured"
                )
        return self

    @model_validator(mode="after")
    def _the_gates_suites_are_measured(self) -> "RunConfig":
        measured = {name: suite.measures() for name, suite in self.evaluate.suites.items()}
        known = [measure for measures in measured.values() for measure in measures]
        for condition in ("suites", "regression"):
            for name in getattr(self.gate, condition):
                if any(suite.measures_also(name) for suite in self.evaluate.suites.values()):
                    continue
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                instead = (
                    f"; the nearest that is, is {near[0]!r}" if near else f": nothing of evaluate.{name.split('.')[0]} is set"
                )
                raise ValueError(f"gate.{condition}: {name!r} is not measured{instead}")
        return self

    @model_validator(mode="after")
    def _the_template_has_a_grammar(self) -> "RunConfig":
        # What a file or `auto` comes to is known in the step, which looks again.
        if self.evaluate.decoding == "tools" and self.format.template in TEMPLATES:
            template = TEMPLATES[self.format.template]
            if self.format.call_syntax != "auto":
                template = with_syntax(template, self.format.call_syntax)
            require_grammar(template.syntax)
        return self

    @model_validator(mode="after")
    def _only_train_has_several_nodes(self) -> "RunConfig":
        for step, asked in self.resources.items():
            if asked.nodes > 1 and step != "train":
                raise ValueError(
                    f"resources.{step}.nodes is {asked.nodes}: train is the only step that several nodes do together"
                )
        return self

    @property
    def nodes(self) -> int:
        """How many nodes train together."""
        return self.resources["train"].nodes if "train" in self.resources else 1

    @property
    def sha256(self) -> str:
        """Of every setting that the run's result depends on.

        Of a local path only the last name counts, so that one config has one hash wherever its files lie; what is in them
        is in the data's fingerprint.
        """
        settings = self.model_dump(mode="json", exclude={"notify", "storage", "tracking", "resources", "cluster", "images"})
        for section in ("evaluate", "format"):
            named = getattr(self, section).with_files(lambda _, file: Path(file).name)
            settings[section] = named.model_dump(mode="json")
        del settings["train"]["price_per_hour"], settings["promote"]["push"]
        for section, key in _paths(self):
            settings[section][key] = Path(settings[section][key]).name
        for source in settings["ingest"]["more"]:
            source["source"] = Path(source["source"]).name if _is_local(source["source"]) else source["source"]
        return sha256(settings)

    def for_step(self, step: str) -> dict[str, Any]:
        """The dict that a step gets as its parameter: JSON values, no nulls, as KFP wants them."""
        model = self.model.model_dump(mode="json")
        if step == "look":
            look = {"name": self.name, "source": self.ingest.source, "tools": self.ingest.tools, "alias": self.promote.alias}
            return {
                **look,
                "more": [part.source for part in self.ingest.more],
                **self.retrain.model_dump(mode="json"),
                "config_sha256": self.sha256,
                "run": self.model_dump(mode="json", exclude_none=True, exclude={"notify", "cluster", "images"}),
            }
        if step == "report":
            # Here and not in train, where another price would be another key in the cache.
            return {"name": self.name, "config_sha256": self.sha256, "price_per_hour": self.train.price_per_hour}
        section: dict[str, Any] = getattr(self, step).model_dump(mode="json", exclude_none=True)
        if step == "train":
            del section["price_per_hour"]
        if step == "promote":
            return {**section, "name": self.name, "config_sha256": self.sha256}
        if step == "notify":
            return {**section, "name": self.name}
        return {**section, "model": model} if step in ("format", "train", "export", "evaluate") else section


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a config file.

    Paths in it are relative to the current folder, as on any command line.

    Args:
        path: the YAML file.
        overrides: `a.b=value`, the value read as YAML.

    Raises:
        ConfigError: no such file, not YAML, a key that is there twice or is unknown (the nearest is named), or a wrong value.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        raw = plain_yaml.read(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of sections; pipelines/recipes/ has examples")
    for override in overrides:
        _apply(raw, override)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        said = explained(error, RunConfig)
        set_there = any(said.startswith(f"{override.partition('=')[0]}:") for override in overrides)
        where = "--set" if set_there or (overrides and _is_right(plain_yaml.read(text))) else path
        raise ConfigError(f"{where}: {said}") from None
    _refuse_lossy_numbers(raw, config.model_dump(), str(path), ())
    return config


def _is_right(raw: dict[str, Any]) -> bool:
    try:
        RunConfig.model_validate(raw)
    except ValidationError:
        return False
    return True


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
        place[last] = plain_yaml.read(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None
    except ConfigError as error:
        raise ConfigError(f"--set {override}: {error}") from None


def _refuse_lossy_numbers(value: Any, read: Any, path: str, keys: tuple[str, ...]) -> None:
    """Refuse what would be another number in a step than in the file. The settings have been checked already, as `read`."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_lossy_numbers(item, read.get(key) if isinstance(read, Mapping) else None, path, (*keys, str(key)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_lossy_numbers(item, read[number] if isinstance(read, list) and number < len(read) else None, path, keys)
    elif isinstance(value, bool) and isinstance(read, bool):
        return
    elif isinstance(value, bool):  # pydantic has made a number of it
        raise ConfigError(f"{path}: {'.'.join(keys)}: must be a number, not {str(value).lower()}")
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise ConfigError(f"{path}: {'.'.join(keys)}: {value} is too large; integers must be below 2^53")


def absolute(config: RunConfig) -> RunConfig:
    """The config with local paths made absolute, so that a step may run in any folder."""
    sections: dict[str, Settings] = {}
    for section, key in _paths(config):
        before = sections.get(section, getattr(config, section))
        sections[section] = before.model_copy(update={key: os.path.abspath(getattr(before, key))})
    if config.ingest.more:
        more = [
            part.model_copy(update={"source": os.path.abspath(part.source)}) if _is_local(part.source) else part
            for part in config.ingest.more
        ]
        sections["ingest"] = sections.get("ingest", config.ingest).model_copy(update={"more": more})
    drift = config.retrain.drift
    if drift.questions and _is_local(drift.questions):
        there = drift.model_copy(update={"questions": os.path.abspath(drift.questions)})
        sections["retrain"] = config.retrain.model_copy(update={"drift": there})
    for section in ("evaluate", "format"):
        sections[section] = getattr(config, section).with_files(
            lambda _, file: os.path.abspath(file) if _is_local(file) else file
        )
    return config.model_copy(update=sections)


def _paths(config: RunConfig) -> list[tuple[str, str]]:
    """Section and key of the settings that are local paths."""
    files = {"source": config.ingest.source, "tools": config.ingest.tools}
    local = [("ingest", key) for key, value in files.items() if value and _is_local(value)]
    # A Hub id looks like a path, too: it is one where there is such a folder.
    return [*local, ("model", "base")] if Path(config.model.base).is_dir() else local


def _is_local(source: str) -> bool:
    return "://" not in source


def require_one_store(config: RunConfig) -> None:
    """Refuse what the run's own S3 server cannot reach, since its steps see no other.

    Raises:
        ConfigError: data or base model is in S3, and the store is embedded.
    """
    if config.storage.uri != "embedded":
        return
    read = [("ingest.more" if number else "ingest.source", part.source) for number, part in enumerate(config.ingest.sources)]
    read += [("ingest.tools", config.ingest.tools), ("model.base", config.model.base)]
    read += [("retrain.drift.questions", config.retrain.drift.questions)]
    for key, uri in read:
        if uri.startswith("s3://"):
            raise ConfigError(
                f"{key}: {uri} cannot be reached from a run with storage.uri: embedded, whose S3 is a server of its own: "
                "set storage.uri to s3://bucket/prefix"
            )
