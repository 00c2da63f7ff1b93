"""What `calltune check` says of where a run's results go: store, tracking, the Hub, and who is told."""

import os
from collections.abc import Iterator

from components.promote.config import PUSH_TOKENS
from pipelines.config import RunConfig
from pipelines.preflight import needed_by_notify, without_push_token


def described(config: RunConfig) -> Iterator[str]:
    """Yield, line by line, the places, and a warning for each secret that is missing."""
    yield from _places(config)
    yield from _push(config)
    yield from _notify(config)


def _places(config: RunConfig) -> Iterator[str]:
    storage, tracking = config.storage, config.tracking.uri
    at = f" at {storage.endpoint_url}" if storage.endpoint_url else ""
    store = "an S3 server that the run starts, data in WORKDIR/s3" if storage.uri == "embedded" else storage.uri + at
    yield f"store        {store}"
    yield f"tracking     {'MLflow in WORKDIR/mlflow.db' if tracking == 'embedded' else f'MLflow at {tracking}'}"


def _push(config: RunConfig) -> Iterator[str]:
    push = config.promote.push
    if push.repo:
        yield f"push         each champion to {push.repo} on the Hub, branch {push.revision}"
    if without_push_token(config) and not any(os.environ.get(name) for name in PUSH_TOKENS):
        yield f"warning: promote.push: neither {' nor '.join(PUSH_TOKENS)} is set here or in cluster.secrets: no push"


def _notify(config: RunConfig) -> Iterator[str]:
    if not config.notify.via:
        return
    outcomes = ", ".join(config.notify.about) or "nothing"
    yield f"notify       {', '.join(config.notify.via)}, of runs that end as: {outcomes}"
    for name in needed_by_notify(config):
        if not os.environ.get(name):
            yield f"warning: notify.via: {name} is neither set here nor in cluster.secrets: nothing would be sent there"
