"""The exit task: says how the run ended, whatever happened. It only logs; its own failure never fails the run."""

from calltune import runtime, storage, tracking
from components.notify.config import NotifyConfig


def notify(config: NotifyConfig) -> str:
    """Say how the run ended; returns the sentence."""
    try:
        sentence = _ending(config)
    except Exception as error:  # whatever it is, it must not turn a promoted model's run into a failed one
        sentence = f"{config.name}: run {runtime.run_id()}: how it ended cannot be read: {error}"
    runtime.note(sentence)
    return sentence


def _ending(config: NotifyConfig) -> str:
    """An exit task cannot read the outputs of other tasks, so it reads the store. A run without a summary has failed."""
    store, place = storage.of_run(), f"runs/{runtime.run_id()}"
    summary = store.get_json(f"{place}/summary.json")
    if summary is not None:
        return f"{config.name}: run {runtime.run_id()}: {summary['outcome']}"
    records = [store.get_json(key) for key in store.list(f"{place}/steps/")]
    failed = next((record for record in records if record and record["error"]), None)
    where = f" at {failed['name']}: {failed['error']['message']}" if failed else ""
    sentence = f"{config.name}: run {runtime.run_id()}: failed{where}"
    try:
        with runtime.phase("end the run in MLflow"):
            tracking.end(tracking.run_of(config.name), ok=False)
    except Exception as error:  # MLflow may be what the run has failed at: that is to be read, all the same
        return f"{sentence}; MLflow was not told: {error}"
    return sentence
