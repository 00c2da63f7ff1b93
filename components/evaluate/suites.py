"""What is measured beside the tool questions: each suite that the config asks for, in one form.

A suite's results are kept in the store under what they depend on, which the test questions are not: base and champion are
not measured again because the data has grown, and a step that is started again does not repeat a suite that had ended.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from calltune import runtime, storage
from calltune.errors import ConfigError
from calltune.records import sha256
from components.evaluate import files
from components.evaluate.config import EvaluateConfig, GeneralConfig

if TYPE_CHECKING:
    from components.evaluate.measure import Measure
    from components.evaluate.step import Served


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
        elif suite.libraries():
            settings[name]["versions"] = {library: _version(name, library) for library in suite.libraries()}
    return settings


def _version(suite: str, library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        needs = f"evaluate.{suite} needs the package {library}, which is not installed"
        raise ConfigError(f"{needs}: pip install -c constraints.txt {library}") from None


def measured(served: "Served", config: EvaluateConfig, code: str = "") -> dict[str, dict[str, Any]]:
    """Every measure that the config asks for: `suites` in `metrics.json`.

    Args:
        served: the model.
        config: the step's settings.
        code: what the step's code is; empty: results are neither kept in the store nor taken from there.

    Raises:
        UserError: what a suite needs is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    settings, here = recorded(config), config.with_files(files.local).suites
    for name, suite in here.items():
        if not suite.measures():
            continue
        identity = [served.folder.digest, served.tokenizer.chat_template, name, settings[name], code]
        place = f"evaluations/suites/{sha256(identity)}.json"
        kept = storage.of_run().get_json(place) if code else None
        if kept is None:
            with runtime.phase(f"evaluate {served.identity['which']}: {name}"):
                kept = {measure: result.as_dict() for measure, result in _SUITES[name](served, suite).items()}
            if code:
                storage.of_run().put_json(place, kept)
        found |= kept
    return found


def _general(served: "Served", settings: GeneralConfig) -> "dict[str, Measure]":
    from components.evaluate import general

    return general.measures(served, settings)


# Each imports what it needs only when it is asked for: some of it takes seconds.
_SUITES: dict[str, Callable[["Served", Any], "dict[str, Measure]"]] = {"general": _general}
