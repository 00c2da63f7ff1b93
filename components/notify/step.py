"""The exit task: says how the run ended, whatever happened, in the log and to whom the config names. It never fails the run."""

import os

from calltune import runtime, storage, tracking
from calltune.credentials import line_without_secrets
from components.notify import channels, message
from components.notify.config import ADDRESSES, PASSWORD, NotifyConfig
from components.notify.message import Ending

LINKED = ("report", "model")
"""Of the summary's artifacts, what a reader wants to open."""
SUBJECT = 150
"""Characters of the sentence that become a mail's subject."""


def notify(config: NotifyConfig) -> str:
    """Say how the run ended; returns the sentence."""
    with tracking.hurried():  # a run that failed because MLflow is away should be told of soon
        ending = _ending(config)
    sentence = message.sentence(ending)
    runtime.note(sentence)
    if ending.outcome in config.about:
        for channel in config.via:
            runtime.note(f"notify: {channel}: {_sent(channel, ending, config)}")
    return sentence


def _ending(config: NotifyConfig) -> Ending:
    """An exit task cannot read the outputs of other tasks, so it reads the store. A run without a summary has failed."""
    place, run = f"runs/{runtime.run_id()}", (config.name, runtime.run_id())
    try:
        store = storage.of_run()
        summary = store.get_json(f"{place}/summary.json")
        if summary is not None:
            artifacts = summary["artifacts"] or {}
            links = {key: artifacts[key] for key in LINKED if key in artifacts}
            return Ending(*run, summary["outcome"], summary, links={**links, **_page(config.name, failed=False)})
        records = [store.get_json(key) for key in store.list(f"{place}/steps/")]
        error = next((record["error"] for record in records if record and record["error"]), None)
    except Exception as problem:  # whatever it is, it must not turn a promoted model's run into a failed one
        return Ending(*run, "failed", error=f"how it ended cannot be read: {problem}")
    links = _page(config.name, failed=True)
    if error is None:
        return Ending(*run, "failed", error="no step has said why", links=links)
    return Ending(*run, "failed", step=error["step"], error=error["message"], links=links)


def _page(name: str, failed: bool) -> dict[str, str]:
    """The run's page in MLflow, where that is a server; and MLflow told that the run has failed."""
    if not failed and not tracking.is_server():
        return {}
    try:
        with runtime.phase("end the run in MLflow" if failed else "find the run in MLflow"):
            run = tracking.run_of(name)
            if failed:
                tracking.end(run, ok=False)
            return {"MLflow": tracking.page_of(run)} if tracking.is_server() else {}
    except Exception as problem:  # MLflow may be what the run has failed at: that is to be said, all the same
        why = line_without_secrets(problem)
        runtime.note(f"notify: MLflow {'was not told' if failed else 'does not answer'}: {why}")
        return {}


def _sent(channel: str, ending: Ending, config: NotifyConfig) -> str:
    """Send the message; returns what came of it, without any address."""
    try:
        if channel == "email":
            password = os.environ.get(PASSWORD, "")
            if config.email.user and not password:
                return f"not sent: {PASSWORD} is not set"
            channels.mail(config.email, password, message.sentence(ending)[:SUBJECT], message.text(ending))
            return "sent"
        address = os.environ.get(ADDRESSES[channel], "")
        if not address:
            return f"not sent: {ADDRESSES[channel]} is not set"
        channels.post(address, message.slack(ending) if channel == "slack" else message.payload(ending))
        return "sent"
    except channels.NotSent as problem:
        return f"not sent: {problem}"
    except Exception as problem:  # its text may have the address in it
        return f"not sent: {type(problem).__name__}"
