import json

import pytest

from calltune import storage
from calltune.errors import DataError, UserError
from calltune.records import read_jsonl
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
    with pytest.raises(DataError, match=rf"{bucket}/nothing: no .jsonl, .ndjson, .json object there"):
        ingest(IngestConfig(source=f"{bucket}/nothing"), tmp_path)
    with pytest.raises(DataError, match=rf"{bucket}/nothing: there is no object"):
        fingerprint(f"{bucket}/nothing", "")
    with pytest.raises(UserError, match=r"s3://no-bucket/x: NoSuchBucket"):
        ingest(IngestConfig(source="s3://no-bucket/x"), tmp_path)
    with pytest.raises(UserError, match=r"s3://no-bucket/x: NoSuchBucket"):
        fingerprint("s3://no-bucket/x", "")
