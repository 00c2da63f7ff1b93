"""Where models come from, what is checked on the way, and what a folder says of itself."""

import json
import shutil

import pytest

from calltune import models, storage
from calltune.errors import DataError, UserError
from calltune.settings import ModelConfig

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


def test_a_folder_is_read_for_its_digest_and_not_before(folder):
    found = models.fetch(ModelConfig(base=str(folder)))
    (folder / "model.safetensors").write_bytes(b"written after the fetch")
    assert found.digest == models.digest(models.checksums(folder))


def test_a_base_model_in_the_store_has_the_digest_of_its_folder(s3, folder):
    for name in FILES:
        s3.upload(folder / name, f"base/{name}")
        s3.put(f"base2/{name}", b"another model")
    fetched = models.fetch(ModelConfig(base=f"{s3.uri}/base"))
    assert models.checksums(fetched.path) == models.checksums(folder)
    assert fetched.digest == models.fetch(ModelConfig(base=str(folder))).digest


def test_other_weights_at_the_same_address_are_fetched_again(s3, folder):
    for name in FILES:
        s3.upload(folder / name, f"weights/{name}")
    first = models.fetch(ModelConfig(base=f"{s3.uri}/weights"))
    s3.put("weights/model.safetensors", b"trained further")
    second = models.fetch(ModelConfig(base=f"{s3.uri}/weights"))
    assert (second.path / "model.safetensors").read_bytes() == b"trained further"
    assert second.digest != first.digest


def test_an_export_is_fetched_by_its_address_alone_once_and_whole(address, folder, place):
    fetched = models.fetch_address(address + "/")
    assert fetched.path == models.cache_dir() / "models" / fetched.digest
    assert address.endswith(f"/models/{fetched.digest}")
    assert models.checksums(fetched.path) == models.checksums(folder)
    store, prefix = storage.at(address)
    store.put(f"{prefix}/config.json", b"changed")
    assert models.fetch_address(address).path == fetched.path


@pytest.mark.parametrize("damage", ["changed", "one more"])
def test_what_is_not_what_its_address_says_is_refused(address, damage):
    store, prefix = storage.at(address)
    store.put(f"{prefix}/{'config.json' if damage == 'changed' else 'more.json'}", b'{"a": 1}')
    with pytest.raises(DataError, match=r"models/\w{64}: not what was exported: its files have another digest"):
        models.fetch_address(address)
    assert not (models.cache_dir() / "models" / address.rsplit("/", 1)[1]).exists()


def test_an_address_with_nothing_there_is_refused(place):
    with pytest.raises(DataError, match=rf"models/{'0' * 64}: nothing is there"):
        models.fetch_address(f"{place.uri}/models/{'0' * 64}")


@pytest.mark.parametrize("uri", ["s3://bucket/models/helpdesk", "s3://bucket", f"s3://bucket/{'0' * 64}/config.json"])
def test_an_address_that_does_not_end_in_a_digest_is_refused(uri):
    with pytest.raises(DataError, match="not the address of an exported model: it ends in /models/ and the model's digest"):
        models.fetch_address(uri)


@pytest.mark.parametrize(("written", "read"), [(2, [2]), ([2], [2]), ([2, 7], [2, 7]), (0, [0])])
def test_one_or_several_tokens_end_an_answer(folder, written, read):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    assert models.stop_ids(folder) == read


@pytest.mark.parametrize("config", [{}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_a_folder_that_names_no_token_to_end_an_answer_is_refused(folder, config):
    (folder / "generation_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"generation_config.json: no eos_token_id: it must name the tokens that end an answer"):
        models.stop_ids(folder)


def test_a_folder_without_a_generation_config_is_refused(folder):
    with pytest.raises(UserError, match=r"generation_config.json: no such file"):
        models.stop_ids(folder)


def test_a_known_digest_is_not_computed_again(address, folder):
    fetched = models.fetch_address(address)
    shutil.rmtree(fetched.path)
    assert fetched.digest == models.digest(models.checksums(folder))
