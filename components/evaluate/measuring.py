"""What is measured beside the tool questions: each suite that the config asks for, in one form.

A suite's results are kept in the store under what they depend on, which the test questions are not: base and champion are
not measured again because the data has grown, and a step that is started again does not repeat a suite that had ended.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune import input_files as files
from calltune import runtime, storage
from calltune.errors import ConfigError
from calltune.records import sha256
from components.evaluate import engines
from components.evaluate.config import EvaluateConfig, ExecutionConfig, GeneralConfig, InstructionsConfig
from components.evaluate.served import Served
from components.evaluate.suites.details import Details

if TYPE_CHECKING:
    from components.evaluate.suites.measure import Measure


def recorded(config: EvaluateConfig) -> dict[str, Any]:
    """The settings as `metrics.json` and the key of the results have them.

    Of a file its content, wherever it lies, and a suite's libraries with their versions; a suite that measures nothing is
    left out.

    Raises:
        ConfigError: a suite's library is not installed.
        DataError: a file is not there.
    """
    settings = config.with_files(files.content).model_dump(mode="json")
    for name, suite in config.suites.items():
        if not suite.measures():
            del settings[name]
            continue
        settings[name] = suite.depends_on(settings[name])
        if suite.libraries():
            settings[name]["versions"] = {library: _version(name, library) for library in suite.libraries()}
    return settings


def _version(suite: str, library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        needs = f"evaluate.{suite} needs the package {library}, which is not installed"
        raise ConfigError(f"{needs}: pip install -c constraints.txt {library}") from None


def measured(
    served: Served,
    config: EvaluateConfig,
    code: str = "",
    beside: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every measure that the config asks for: `suites` in `metrics.json`.

    Args:
        served: the model.
        config: the step's settings.
        code: what the step's code is; empty: results are neither kept in the store nor taken from there.
        beside: folder for the suites' rows where they are not kept in the store; None: for none.
        settings: what :func:`recorded` says of the config, where that is known: it reads every file.

    Raises:
        UserError: what a suite needs is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    here = config.with_files(files.local).suites
    for name, details in _details(served, config, code, beside, settings):
        place = f"{details.place}.json"
        kept = details.store.get_json(place) if details.store else None
        if kept is None:
            with runtime.phase(f"evaluate {served.identity['which']}: {name}"):
                kept = {measure: one.as_dict() for measure, one in _SUITES[name](served, here[name], details).items()}
            if details.store:
                details.store.put_json(place, kept)
                details.clear()
        found |= kept
    return found


def rows_at(
    served: Served,
    config: EvaluateConfig,
    code: str = "",
    beside: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Where what a suite was answered can be read, question by question, after :func:`measured` with the same: by its name."""
    details = _details(served, config, code, beside, settings)
    found = {name: one.address for name, one in details if config.suites[name].has_rows}
    return {name: address for name, address in found.items() if address}


def _details(
    served: Served, config: EvaluateConfig, code: str, beside: Path | None, settings: Mapping[str, Any] | None
) -> Iterator[tuple[str, Details]]:
    settings, store = recorded(config) if settings is None else settings, storage.of_run() if code else None
    for name, suite in config.suites.items():
        if suite.measures():
            identity = [served.folder.digest, served.tokenizer.chat_template, name, settings[name], engines.device(), code]
            yield name, Details(store, f"evaluations/suites/{sha256(identity)}", beside and beside / f"{name}.jsonl")


def _general(served: Served, settings: GeneralConfig, _: Details) -> "dict[str, Measure]":
    from components.evaluate.suites.general import suite

    return suite.measures(served, settings)


def _instructions(served: Served, settings: InstructionsConfig, details: Details) -> "dict[str, Measure]":
    from components.evaluate.suites.instructions import suite

    return suite.measures(served, settings, details)


def _execution(served: Served, settings: ExecutionConfig, details: Details) -> "dict[str, Measure]":
    from components.evaluate.suites.execution import suite

    return suite.measures(served, settings, details)


# Each imports what it needs only when it is asked for: some of it takes seconds.
_SUITES: dict[str, Callable[[Served, Any, Details], "dict[str, Measure]"]] = {
    "general": _general,
    "instructions": _instructions,
    "execution": _execution,
}
