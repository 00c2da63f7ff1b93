"""Exported models between the store and this machine's cache."""

import shutil

import pytest

from calltune import exports, models, storage
from calltune.errors import DataError, UserError

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "deep/tokenizer.json": b"[]"}


@pytest.fixture
def folder(tmp_path):
    """A folder with a model's files."""
    for name, data in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    return tmp_path / "folder"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["store", "s3"])
def place(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def address(place, folder):
    """Where the store has the folder, as export puts it there."""
    digest = models.digest(models.checksums(folder))
    for name in FILES:
        place.upload(folder / name, f"models/{digest}/{name}")
    return f"{place.uri}/models/{digest}"


def test_an_export_is_fetched_by_its_address_alone_once_and_whole(address, folder, place):
    fetched = exports.fetch_address(address + "/")
    assert fetched.path == models.cache_dir() / "models" / fetched.digest
    assert address.endswith(f"/models/{fetched.digest}")
    assert models.checksums(fetched.path) == models.checksums(folder)
    store, prefix = storage.at(address)
    store.put(f"{prefix}/config.json", b"changed")
    assert exports.fetch_address(address).path == fetched.path


@pytest.mark.parametrize("damage", ["changed", "one more"])
def test_what_is_not_what_its_address_says_is_refused(address, damage):
    store, prefix = storage.at(address)
    store.put(f"{prefix}/{'config.json' if damage == 'changed' else 'more.json'}", b'{"a": 1}')
    with pytest.raises(DataError, match=r"models/\w{64}: not what was exported: its files have another digest"):
        exports.fetch_address(address)
    assert not (models.cache_dir() / "models" / address.rsplit("/", 1)[1]).exists()


def test_an_address_with_nothing_there_is_refused(place):
    with pytest.raises(DataError, match=rf"models/{'0' * 64}: nothing is there"):
        exports.fetch_address(f"{place.uri}/models/{'0' * 64}")


@pytest.mark.parametrize("uri", ["s3://bucket/models/helpdesk", "s3://bucket", f"s3://bucket/{'0' * 64}/config.json"])
def test_an_address_that_does_not_end_in_a_digest_is_refused(uri):
    with pytest.raises(DataError, match="not the address of an exported model: it ends in /models/ and the model's digest"):
        exports.fetch_address(uri)


def test_a_known_digest_is_not_computed_again(address, folder):
    fetched = exports.fetch_address(address)
    shutil.rmtree(fetched.path)
    assert fetched.digest == models.digest(models.checksums(folder))


@pytest.fixture
def told(address, folder):
    """What `model.json` says of the folder."""
    files = models.checksums(folder)
    return {"uri": address, "digest": models.digest(files), "files": files}


def emptied(told):
    """The store and the model's place in it, with nothing there any more but one file."""
    store, prefix = storage.at(told["uri"])
    for name in ("model.safetensors", "deep/tokenizer.json"):
        if isinstance(store, storage.S3):
            store.client.delete_object(Bucket=store.bucket, Key=f"{prefix}/{name}")
        else:
            (store.root / prefix / name).unlink()
    return store, prefix


def test_what_the_store_has_lost_is_uploaded_again_from_this_machine(told, tmp_path):
    exports.fetch(told)
    exports.require_stored(told)
    assert not (tmp_path / "events.jsonl").exists() or "uploaded again" not in (tmp_path / "events.jsonl").read_text()
    store, prefix = emptied(told)
    exports.require_stored(told)
    assert {name: store.get(f"{prefix}/{name}") for name in FILES} == FILES
    assert "it had lost deep/tokenizer.json, model.safetensors of model" in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("copy", ["none", "edited"])
def test_what_the_store_has_lost_and_no_whole_copy_has_is_an_error(told, copy):
    if copy == "edited":
        edited = exports.fetch(told).path / "config.json"
        edited.chmod(0o644)
        edited.write_text("{ }")
    store, prefix = emptied(told)
    with pytest.raises(DataError, match=r"the store has no deep/tokenizer.json, model.safetensors, and .* is no whole copy"):
        exports.require_stored(told)
    assert store.list(prefix) == [f"{prefix}/config.json"]


def test_what_was_changed_in_the_store_is_found_by_reading_it_and_uploaded_again(told, tmp_path):
    exports.fetch(told)
    store, prefix = storage.at(told["uri"])
    store.put(f"{prefix}/config.json", b"{ }")
    exports.require_stored(told)
    assert store.get(f"{prefix}/config.json") == b"{ }"
    exports.require_stored(told, read=True)
    assert {name: store.get(f"{prefix}/{name}") for name in FILES} == FILES
    assert "it had lost or changed config.json of model" in (tmp_path / "events.jsonl").read_text()


def test_what_was_changed_and_lost_without_a_copy_is_one_error(told):
    store, prefix = storage.at(told["uri"])
    store.put(f"{prefix}/config.json", b"{ }")
    store.delete(f"{prefix}/model.safetensors")
    with pytest.raises(
        DataError, match=r"has no model.safetensors, and another config.json than was exported, and .* is no whole"
    ):
        exports.require_stored(told, read=True)


def test_checksums_that_are_not_those_of_the_digest_are_refused(told):
    files = {**told["files"], "config.json": "0" * 64}
    with pytest.raises(DataError, match="checksums are not those that its digest is made of"):
        exports.require_stored({**told, "files": files}, read=True)


@pytest.mark.parametrize("damage", ["gone", "changed", "nothing left"])
def test_files_that_the_store_has_not_or_otherwise_are_damage(told, damage):
    store, prefix = storage.at(told["uri"])
    for name in FILES if damage == "nothing left" else ("config.json",):
        store.put(f"{prefix}/{name}", b"{ }") if damage == "changed" else store.delete(f"{prefix}/{name}")
    says = {"gone": "config.json is gone", "changed": "not what was exported: config.json", "nothing left": "nothing is there"}
    with pytest.raises(exports.Damaged, match=f"{told['digest']}: {says[damage]}$"):
        exports.fetch(told)


def test_a_store_that_does_not_answer_is_no_damage(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    told = {"uri": f"{s3.uri}/models/{'d' * 64}", "digest": "d" * 64, "files": {"config.json": "0" * 64}}
    storage.open_store.cache_clear()
    with pytest.raises(UserError, match="InvalidAccessKeyId") as refused:
        exports.fetch(told)
    assert not isinstance(refused.value, exports.Damaged)


def test_the_state_of_a_stored_model_is_another_one_whenever_something_of_it_is(told):
    store, prefix = storage.at(told["uri"])
    whole = exports.state(told)
    assert exports.state(told) == whole
    store.delete(f"{prefix}/config.json")
    without = exports.state(told)
    store.put(f"{prefix}/config.json", b"{ }")
    changed = exports.state(told)
    assert len({whole, without, changed}) == 3
