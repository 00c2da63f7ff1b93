"""What the suites of evaluate need of this machine, looked at before anything is started, and what of it is in the cache key."""

from collections.abc import Iterator, Mapping

from calltune.errors import ConfigError
from calltune.records import sha256
from components.evaluate.config import EvaluateConfig
from components.evaluate.suites import recorded
from pipelines.config import RunConfig


def require(config: RunConfig) -> list[str]:
    """Refuse what evaluate would stumble over after hours of training; returns the names of what it will measure.

    Raises:
        ConfigError: a suite's library is not installed, lm-eval has no such task, or the gate has a condition on a metric that is
            not the task's.
        DataError: a file that a suite reads is not there.
    """
    recorded(config.evaluate)
    names = _asked_for(config.evaluate)
    if config.evaluate.general.tasks:
        from components.evaluate.tasks import metrics_of

        metrics = metrics_of(config.evaluate.general)
        # Until here `acc` stands for whichever it is.
        names = [_renamed(name, metrics) for name in names]
        for condition, limits in (("suites", config.gate.suites), ("regression", config.gate.regression)):
            for name in limits:
                if _renamed(name, metrics) != name:
                    raise ConfigError(f"gate.{condition}: {name!r} is not measured, but {_renamed(name, metrics)!r} is")
    return names


def _renamed(measure: str, metrics: Mapping[str, str]) -> str:
    """A task's measure under the name of its metric; any other as it is."""
    task = measure.removeprefix("general.").rpartition(".")[0]
    return f"general.{task}.{metrics[task]}" if task in metrics else measure


def keyed(config: RunConfig, code: Mapping[str, str]) -> dict[str, str]:
    """The steps' code as the cache keys have it: of evaluate also what is in the files that its suites read."""
    if not _asked_for(config.evaluate):
        return dict(code)
    return {**code, "evaluate": sha256([code["evaluate"], recorded(config.evaluate)])}


def described(config: RunConfig) -> Iterator[str]:
    """What `calltune check` says of them, after :func:`require`."""
    for number, measure in enumerate(require(config)):
        yield f"{'' if number else 'suites':<13}{measure}"


def _asked_for(config: EvaluateConfig) -> list[str]:
    return [measure for suite in config.suites.values() for measure in suite.measures()]
