"""A folder and a real S3 server behave alike."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from calltune import s3 as in_s3
from calltune import storage
from calltune.errors import Unavailable, UserError
from calltune.storage import AlreadyThere

LARGE = 20 * 2**20  # above boto3's 8 MiB, so that the upload has parts


@pytest.fixture(params=["store", "s3"])
def place(request):
    """The run's store, once in a folder and once on the S3 server."""
    return request.getfixturevalue(request.param)


def test_what_was_put_is_got(place):
    place.put("a/b.bin", b"\x00\xff")
    assert place.get("a/b.bin") == b"\x00\xff"
    place.put("a/b.bin", b"")
    assert place.get("a/b.bin") == b""


@pytest.mark.parametrize("key", ["nothing", "a/nothing", "a"])
def test_what_is_not_there_is_none(place, key):
    place.put("a/b", b"x")
    assert place.get(key) is None and place.get_json(key) is None


def test_json_goes_and_comes_back(place):
    value = {"text": "é 🙂", "numbers": [1, 0.5, None], "deep": {"a": True}}
    place.put_json("x.json", value)
    assert place.get_json("x.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_nan_is_ever_written(place, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        place.put_json("x.json", {"a": value})
    assert place.get("x.json") is None


def test_a_list_has_the_keys_under_a_prefix_in_order_and_no_others(place):
    for key in ("runs/2/b", "runs/2/a", "runs/10/a", "runs/2", "other/runs/2/a"):
        if key != "runs/2":
            place.put(key, b"x")
    assert place.list("runs/2/") == ["runs/2/a", "runs/2/b"]
    assert place.list("runs/") == ["runs/10/a", "runs/2/a", "runs/2/b"]
    assert place.list("none/") == []
    assert len(place.list("")) == 4


@pytest.mark.parametrize("prefix", ["in/data", "in/data/"])
def test_a_folder_is_listed_without_its_siblings_however_it_is_written(place, prefix):
    for key in ("in/data/a.jsonl", "in/data/deep/b.jsonl", "in/data2/c.jsonl", "in/data.jsonl", "other/in/data/d.jsonl"):
        place.put(key, b"x")
    assert place.list(prefix) == ["in/data/a.jsonl", "in/data/deep/b.jsonl"]


def test_one_object_is_listed_by_its_own_key(place):
    for key in ("in/data.jsonl", "in/data.jsonl.old", "in/data.json"):
        place.put(key, b"x")
    assert place.list("in/data.jsonl") == ["in/data.jsonl"]
    assert place.list("in/data.j") == []


def test_a_list_is_not_cut_off_at_a_page(place):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: place.put(f"many/{number:04}", b""), range(1005)))
    assert place.list("many/") == [f"many/{number:04}" for number in range(1005)]


@pytest.mark.parametrize(("then", "there"), [(200, False), (412, True), (409, None)])
def test_a_write_beside_another_one_is_tried_again(s3, monkeypatch, then, there):
    """AWS says 409 while another write of the key goes on; SeaweedFS never does, so that botocore's own stub stands in for it."""
    from botocore.stub import Stubber

    monkeypatch.setattr(in_s3, "CONFLICT_PAUSES_S", (0.0, 0.0))
    answers = [409, 409, 409] if then == 409 else [409, then]
    with Stubber(s3.client) as stub:
        for status in answers:
            if status == 200:
                stub.add_response("put_object", {})
            else:
                code = "ConditionalRequestConflict" if status == 409 else "PreconditionFailed"
                stub.add_client_error("put_object", code, http_status_code=status)
        if there is False:
            s3.put("ledger/1", b"x", only_if_new=True)
        else:
            with pytest.raises(AlreadyThere if there else UserError):
                s3.put("ledger/1", b"x", only_if_new=True)
        stub.assert_no_pending_responses()


def test_a_conditional_put_never_overwrites(place):
    place.put("ledger/1", b"first", only_if_new=True)
    with pytest.raises(AlreadyThere, match="ledger/1"):
        place.put("ledger/1", b"second", only_if_new=True)
    assert place.get("ledger/1") == b"first"
    assert place.list("ledger/") == ["ledger/1"]


def test_of_eight_conditional_writers_exactly_one_wins(place):
    def write(number):
        try:
            place.put("ledger/1", str(number).encode(), only_if_new=True)
        except AlreadyThere:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(8)) if number is not None]
    assert len(winners) == 1
    assert place.get("ledger/1") == str(winners[0]).encode()


def test_a_large_file_goes_up_and_comes_down_whole(place, tmp_path):
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(bytes(range(256)) * (LARGE // 256))
    place.upload(source, "models/weights")
    place.download("models/weights", target)
    assert target.read_bytes() == source.read_bytes()


def test_half_a_file_does_not_stay_on_a_full_disk(store, tmp_path, monkeypatch):
    def full(_, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    (tmp_path / "shard").write_bytes(b"a whole file")
    monkeypatch.setattr(storage.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        store.upload(tmp_path / "shard", "models/shard")
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_what_is_deleted_is_gone_and_nothing_else(place):
    for key in ("a/b", "a/bc"):
        place.put(key, b"x")
    place.delete("a/b")
    place.delete("a/b")
    assert place.list("") == ["a/bc"]


def test_a_file_in_parts_has_a_checksum_over_the_whole_that_the_server_checks(s3, tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(bytes(range(256)) * (LARGE // 256))
    s3.upload(tmp_path / "f", "whole")
    head = s3.client.head_object(Bucket=s3.bucket, Key=f"{s3.prefix}/whole", ChecksumMode="ENABLED")
    assert (head["ChecksumType"], head["ChecksumCRC32"]) == ("FULL_OBJECT", in_s3._crc32(tmp_path / "f"))
    monkeypatch.setattr(in_s3, "_crc32", lambda path: "AAAAAA==")
    with pytest.raises(UserError, match="BadDigest"):
        s3.upload(tmp_path / "f", "changed-on-the-way")
    assert s3.list("") == ["whole"]


def test_uploads_that_were_never_ended_are_given_up(s3):
    place = {"Bucket": s3.bucket, "Key": f"{s3.prefix}/half/f"}
    begun = s3.client.create_multipart_upload(**place)
    s3.client.upload_part(**place, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 5 * 2**20)
    s3.end_uploads("half/")
    assert not s3.client.list_multipart_uploads(Bucket=s3.bucket, Prefix=s3.prefix).get("Uploads")


def test_downloading_what_is_not_there_is_one_line_with_its_name(place, tmp_path):
    with pytest.raises(UserError, match=r"models/none.*: (no such file|404: Not Found)") as raised:
        place.download("models/none", tmp_path / "x")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()


def test_an_address_leads_back_to_its_object(place):
    place.put("models/abc/config.json", b"{}")
    store, prefix = storage.at(f"{place.uri}/models/abc")
    assert store.get(f"{prefix}/config.json") == b"{}"
    assert [key.rsplit("/", 1)[1] for key in store.list(f"{prefix}/")] == ["config.json"]


def acts(store, folder):
    """What can be done with a store, by name."""
    (folder / "file").write_bytes(b"x")
    return {
        "put": lambda: store.put("a", b"x"),
        "get": lambda: store.get("a"),
        "list": lambda: store.list("a"),
        "upload": lambda: store.upload(folder / "file", "a"),
        "download": lambda: store.download("a", folder / "x"),
    }


@pytest.mark.parametrize("operation", ["put", "get", "list", "upload", "download"])
@pytest.mark.parametrize("wrong", ["secret", "key"])
def test_a_wrong_key_is_one_line_that_says_where(s3, monkeypatch, tmp_path, operation, wrong):
    monkeypatch.setenv({"secret": "AWS_SECRET_ACCESS_KEY", "key": "AWS_ACCESS_KEY_ID"}[wrong], "wrong")
    act = acts(storage.S3(s3.bucket, s3.prefix), tmp_path)[operation]
    with pytest.raises(UserError, match=rf"{s3.uri}/a: .*(403|SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied)") as raised:
        act()
    assert "\n" not in str(raised.value)
    assert s3.get("a") is None


@pytest.mark.parametrize("operation", ["get", "list"])
def test_a_bucket_that_does_not_exist_is_one_line(s3, operation):
    # Not `put`: SeaweedFS makes a bucket that a key with admin rights writes to.
    with pytest.raises(UserError, match="s3://no-such-bucket/a: NoSuchBucket"):
        getattr(storage.S3("no-such-bucket"), operation)("a")


def test_no_keys_at_all_are_one_line(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"s3://.*/a: Unable to locate credentials \(AWS_ACCESS_KEY_ID"):
        storage.S3(s3.bucket, s3.prefix).get("a")


@pytest.fixture
def away(monkeypatch):
    """A store at an address where nothing listens, which tries once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{taken.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        with storage.hurried():
            yield storage.S3("bucket")


@pytest.mark.parametrize("operation", ["put", "get", "list", "upload", "download"])
def test_a_server_that_does_not_answer_is_one_line_and_nobodys_mistake(away, tmp_path, operation):
    act = acts(away, tmp_path)[operation]
    with pytest.raises(Unavailable, match="s3://bucket/a: Could not connect") as raised:
        act()
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


@pytest.mark.parametrize(("status", "exit_code"), [(500, 1), (503, 1), (429, 1), (400, 2), (403, 2)])
@pytest.mark.parametrize("operation", ["put", "upload"])
def test_a_servers_own_error_may_pass_and_a_refusal_does_not(s3, tmp_path, operation, status, exit_code):
    from botocore.stub import Stubber  # SeaweedFS has no such errors on demand

    (tmp_path / "file").write_bytes(b"x")
    with Stubber(s3.client) as stub, pytest.raises(UserError, match=r"/a: .*SlowDown") as raised:
        stub.add_client_error("put_object", "SlowDown", http_status_code=status)
        s3.put("a", b"x") if operation == "put" else s3.upload(tmp_path / "file", "a")
    assert raised.value.exit_code == exit_code


def test_a_folders_writes_leave_nothing_half_done_behind(store, tmp_path):
    store.put("a", b"1")
    with pytest.raises(AlreadyThere):
        store.put("a", b"2", only_if_new=True)
    (tmp_path / "f").write_bytes(b"3")
    store.upload(tmp_path / "f", "b")
    assert sorted(path.name for path in store.root.iterdir()) == ["a", "b"]


def test_the_environment_names_the_runs_store(store, monkeypatch, tmp_path):
    assert json.dumps(store.uri) == json.dumps((tmp_path / "store").as_uri())
    monkeypatch.setenv("CALLTUNE_STORAGE", (tmp_path / "other").as_uri())
    assert storage.of_run().uri == (tmp_path / "other").as_uri()


def test_half_written_files_of_a_killed_upload_are_given_up(store):
    for key in ("here/whole", "there/whole"):
        store.put(key, b"x")
    for folder in ("here", "there"):
        (store.root / folder / f".big.bin.{'0a' * 16}").write_bytes(b"half")
    (store.root / "here" / ".own").write_bytes(b"somebody's")
    store.end_uploads("here")
    assert sorted(path.name for path in (store.root / "here").iterdir()) == [".own", "whole"]
    assert len(list((store.root / "there").iterdir())) == 2
