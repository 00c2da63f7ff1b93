"""Where models come from, what is checked on the way, and what a folder says of itself."""

import json
import socket

import pytest

from calltune import models
from calltune.errors import DataError, UserError
from calltune.settings import ModelConfig
from components.export.card import base_license
from components.export.config import ExportConfig

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


def test_an_empty_variable_is_none_and_not_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLTUNE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_dir() == tmp_path / "calltune"


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


def test_a_folder_marker_in_s3_is_no_file_of_the_model(s3, folder):
    s3.put("marked/", b"")
    s3.put("marked/deep/", b"")
    for name in FILES:
        s3.upload(folder / name, f"marked/{name}")
    assert models.checksums(models.fetch(ModelConfig(base=f"{s3.uri}/marked")).path) == models.checksums(folder)


def test_what_is_in_the_cache_is_read_only_and_stays_what_it_was_made(tmp_path):
    with models.making(tmp_path / "made") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text("1")
    assert (tmp_path / "made" / "deep" / "a").stat().st_mode & 0o777 == 0o444
    with models.making(tmp_path / "made") as folder:
        (folder / "b").write_text("2")
    assert not (tmp_path / "made" / "b").exists()


@pytest.mark.parametrize(("offline", "exit_code"), [(False, 1), (True, 2)])
def test_a_hub_that_is_not_reached_is_one_line_and_somebodys_mistake_only_where_it_was_switched_off(
    monkeypatch, tmp_path, offline, exit_code
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # its back-off
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        with pytest.raises(UserError, match=r"model\.base: acme/small at 0{40} cannot be fetched: ") as raised:
            models.fetch(ModelConfig(base="acme/small", revision="0" * 40))
    assert raised.value.exit_code == exit_code and "\n" not in str(raised.value)


def test_of_a_hub_model_its_card_comes_along_and_no_second_set_of_weights(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    there = ["config.json", "model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "README.md", "logo.png"]

    def download(reference, revision, **patterns):
        for name in filter_repo_objects(there, **patterns):
            (tmp_path / "snapshot").mkdir(exist_ok=True)
            (tmp_path / "snapshot" / name).write_text("---\nlicense: mit\n---\n")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = ModelConfig(base="acme/small", revision="0" * 40)
    fetched = models.fetch(model).path
    assert {path.name for path in fetched.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert base_license(model, fetched, ExportConfig()) == "mit"


def test_other_weights_at_the_same_address_are_fetched_again(s3, folder):
    for name in FILES:
        s3.upload(folder / name, f"weights/{name}")
    first = models.fetch(ModelConfig(base=f"{s3.uri}/weights"))
    s3.put("weights/model.safetensors", b"trained further")
    second = models.fetch(ModelConfig(base=f"{s3.uri}/weights"))
    assert (second.path / "model.safetensors").read_bytes() == b"trained further"
    assert second.digest != first.digest


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
