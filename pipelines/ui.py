"""MLflow's pages for a workdir: its server, and the embedded S3 server that the artifacts are in."""

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from calltune.errors import UserError
from pipelines import leash
from pipelines.config import RunConfig
from pipelines.embedded import free_ports, s3_server

READY_TIMEOUT_S = 120


@contextmanager
def serving(config: RunConfig | None, workdir: Path, port: int = 0) -> Iterator[dict[str, str]]:
    """Serve while the block runs; yields the addresses: of MLflow, and of the report where there is one.

    Args:
        config: of the run, None for a workdir with embedded store and tracking.
        workdir: of the run.
        port: of MLflow; 0 takes a free one.

    Raises:
        UserError: nothing has run in the workdir, a run is using it, or MLflow does not come up.
    """
    found = workdir / "report.html"
    report = {"report": found.as_uri()} if found.is_file() else {}
    if config is not None and config.tracking.uri != "embedded":
        yield {"MLflow": config.tracking.uri, **report}
        return
    database = workdir / "mlflow.db"
    if not database.is_file():
        raise UserError(f"{database}: no such file: `calltune run` makes it, or use another --workdir")
    embedded = config is None or config.storage.uri == "embedded"
    around: AbstractContextManager[dict[str, str]] = s3_server(workdir / "s3") if embedded else nullcontext({})
    with around as store:
        port = port or free_ports(1)[0]
        address, log = f"http://127.0.0.1:{port}", workdir / "mlflow.log"
        command = [sys.executable, "-m", "pipelines.leash", sys.executable, "-m", "mlflow", "server"]
        command += ["--backend-store-uri", f"sqlite:///{database}", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # Its job runner, five more processes, serves what Calltune does not use.
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {**os.environ, **store, **quiet}
        print("calltune: starting MLflow, which takes some ten seconds", file=sys.stderr, flush=True)
        with log.open("wb") as output:
            server = leash.start(command, env=environment, stdout=output, stderr=output, cwd=workdir)
        try:
            until = time.monotonic() + READY_TIMEOUT_S
            while not _answers(address):
                if server.poll() is not None or time.monotonic() > until:
                    tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
                    raise UserError(f"MLflow did not start; {log} ends: {tail}")
                time.sleep(0.2)
            yield {"MLflow": address, **report}
        finally:
            leash.end(server)


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a loopback address needs no proxy
    try:
        with opener.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
