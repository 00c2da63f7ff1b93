import asyncio
import json
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from calltune import storage
from calltune.errors import DataError, Unavailable, UserError
from calltune.records import read_jsonl
from components.ingest import objects
from components.ingest.config import IngestConfig
from components.ingest.step import ingest
from components.look.fingerprint import fingerprint


@pytest.fixture
def bucket(s3):
    """A prefix of a real S3 server's bucket; its URI."""
    return f"{s3.uri}/rows"


def lines(*questions):
    rows = [{"instruction": question, "input": "", "output": "Yes."} for question in questions]
    return "\n".join(map(json.dumps, rows)).encode()


def test_every_object_under_a_prefix_is_read_and_named(bucket, tmp_path):
    store = storage.open_store(bucket)
    store.put("one/b.jsonl", lines("A?", "B?"))
    store.put(
        "one/deep/a.json", json.dumps([{"instruction": "C?", "output": "No."}, {"instruction": "A?", "output": "Yes."}]).encode()
    )
    store.put("one/readme.txt", b"not data")
    result = ingest(IngestConfig(source=f"{bucket}/one/"), tmp_path)
    assert (result.read, result.kept, result.duplicates) == (4, 3, 1)
    records = list(read_jsonl(tmp_path / "records.jsonl"))
    assert [(r["source"]["uri"], r["source"]["row"]) for r in records] == [
        (f"{bucket}/one/b.jsonl", 1),
        (f"{bucket}/one/b.jsonl", 2),
        (f"{bucket}/one/deep/a.json", 1),
    ]
    assert len({record["id"] for record in records}) == 3


def test_a_new_or_changed_object_changes_the_fingerprint(bucket):
    store = storage.open_store(bucket)
    store.put("two/a.jsonl", lines("A?"))
    seen = [fingerprint(f"{bucket}/two/", "")]
    assert fingerprint(f"{bucket}/two/", "") == seen[0]
    store.put("two/a.jsonl", lines("B?"))
    seen.append(fingerprint(f"{bucket}/two/", ""))
    store.put("two/b.jsonl", lines("C?"))
    seen.append(fingerprint(f"{bucket}/two/", ""))
    assert len(set(seen)) == 3


def test_what_is_not_there_is_one_clear_line(bucket, tmp_path):
    with pytest.raises(DataError, match=rf"{bucket}/nothing: no .jsonl, .ndjson, .json, .csv, .parquet object there"):
        ingest(IngestConfig(source=f"{bucket}/nothing"), tmp_path)
    with pytest.raises(DataError, match=rf"{bucket}/nothing: there is no object"):
        fingerprint(f"{bucket}/nothing", "")
    with pytest.raises(UserError, match=r"s3://no-bucket/x: NoSuchBucket"):
        ingest(IngestConfig(source="s3://no-bucket/x"), tmp_path)
    with pytest.raises(UserError, match=r"s3://no-bucket/x: NoSuchBucket"):
        fingerprint("s3://no-bucket/x", "")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("AWS_ACCESS_KEY_ID", r"rows/a.jsonl: InvalidAccessKeyId: .*\(AWS_ACCESS_KEY_ID is set wrong, or"),
        ("AWS_SECRET_ACCESS_KEY", r"rows/a.jsonl: SignatureDoesNotMatch: .*\(AWS_SECRET_ACCESS_KEY is set wrong\)"),
    ],
)
def test_a_wrong_key_is_one_clear_line(bucket, tmp_path, monkeypatch, variable, message):
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(UserError, match=message) as refused:
        ingest(IngestConfig(source=f"{bucket}/a.jsonl"), tmp_path)
    assert "\n" not in str(refused.value)


class Cut:
    """A real server behind a wire that is cut after so many bytes of answers, and dead for so many connections then."""

    def __init__(self, address, after, refused):
        self.address, self.left, self.refused, self.cuts = address, after, refused, 0

    async def serve(self, reader, writer):
        if self.left <= 0 and self.refused > 0:
            self.refused -= 1
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(self.address.hostname, self.address.port)
            await asyncio.gather(self.pass_on(reader, back, False), self.pass_on(there, writer, True))
        except ConnectionError:
            pass

    async def pass_on(self, reader, writer, counted):
        while data := await reader.read(4096):
            if counted and 0 < self.left <= len(data):
                self.left, self.cuts = 0, self.cuts + 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                writer.close()
                raise ConnectionError("cut")
            if counted:
                self.left -= len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def cut_wire(monkeypatch, endpoint, after, refused):
    """Lead this process's S3 calls over such a wire."""
    loop, wire = asyncio.new_event_loop(), Cut(urlsplit(endpoint), after, refused)
    server = loop.run_until_complete(asyncio.start_server(wire.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    yield wire
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize("refused", [0, 20])
def test_a_server_that_goes_away_in_the_middle_of_an_object_loses_and_doubles_nothing(
    bucket, server, tmp_path, monkeypatch, refused
):
    store = storage.open_store(bucket)
    questions = [f"{n} {'x' * 1000}?" for n in range(300)]
    for number in range(3):
        store.put(f"cut/{number}.jsonl", lines(*questions[number::3]))
    with cut_wire(monkeypatch, server["AWS_ENDPOINT_URL_S3"], 180_000, refused) as wire:
        result = ingest(IngestConfig(source=f"{bucket}/cut/"), tmp_path)
    assert (wire.cuts, wire.refused) == (1, 0)
    assert (result.read, result.kept, result.duplicates) == (300, 300, 0)
    asked = [record["messages"][0]["content"] for record in read_jsonl(tmp_path / "records.jsonl")]
    assert sorted(asked) == sorted(questions)
    parts = json.loads((tmp_path / "sources.json").read_text())["parts"]
    assert [part["uri"] for part in parts] == [f"{bucket}/cut/{number}.jsonl" for number in range(3)]
    assert all(len(part["etag"]) >= 32 and part["bytes"] > 100_000 for part in parts)


def test_a_server_that_stays_away_ends_the_run_in_one_line(bucket, server, tmp_path, monkeypatch):
    storage.open_store(bucket).put("gone/a.jsonl", lines(*(f"{n} {'x' * 1000}?" for n in range(200))))
    monkeypatch.setattr(objects, "PATIENCE_S", 0.0)
    with (
        cut_wire(monkeypatch, server["AWS_ENDPOINT_URL_S3"], 100_000, 10**9),
        pytest.raises(Unavailable, match=r"gone/a.jsonl: .*; tried for 0 s"),
    ):
        ingest(IngestConfig(source=f"{bucket}/gone/"), tmp_path)


def test_an_object_that_changes_while_it_is_read_is_not_mixed(bucket, tmp_path):
    store = storage.open_store(bucket)
    store.put("new/a.jsonl", lines("A?"))
    address = urlsplit(bucket)
    (listed,) = storage.S3(address.netloc).objects(f"{address.path[1:]}/new")
    store.put("new/a.jsonl", lines("B?"))
    with pytest.raises(DataError, match=r"new/a.jsonl: has changed since it was listed; run again"):
        objects.Fetcher(address.netloc).fetch(listed, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
