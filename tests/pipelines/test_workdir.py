"""The workdir: it goes with one store and one tracking, loses its temporary files, and has the results at its top."""

import os
import subprocess
import sys

import pytest
from rich.console import Console

from calltune import models
from calltune.errors import UserError
from pipelines import local
from pipelines.config import RunConfig
from pipelines.screen import Screen
from pipelines.workdir import LONGEST_TEMPORARY, link_results, remember_places, require_own, require_same_places, temporary


def config(storage="embedded", tracking="embedded", endpoint=""):
    sections = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": __file__}}  # a file that is there
    store = {"uri": storage, "endpoint_url": endpoint}
    return RunConfig.model_validate({**sections, "storage": store, "tracking": {"uri": tracking}})


@pytest.fixture
def screen(tmp_path):
    with (tmp_path / "screen").open("w") as file:
        yield Screen(Console(file=file))


@pytest.mark.parametrize("other", [config(storage="s3://other/place"), config(tracking="http://127.0.0.1:5000")])
def test_another_store_or_tracking_in_a_used_workdir_is_refused_in_one_line(other, tmp_path):
    require_same_places(other, tmp_path)  # never used
    remember_places(config(), tmp_path)
    require_same_places(config(), tmp_path)
    with pytest.raises(UserError) as refused, local.environment(other, tmp_path):
        pass
    was = "was used with storage.uri embedded and tracking.uri embedded"
    now = f"not with storage.uri {other.storage.uri} and tracking.uri {other.tracking.uri}"
    assert str(refused.value).startswith(f"{tmp_path}: {was}, {now}")
    assert "use another --workdir, or delete this one" in str(refused.value) and "\n" not in str(refused.value)


def test_a_store_in_a_folder_is_the_same_one_from_wherever_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remember_places(config(storage="./store"), tmp_path)
    require_same_places(config(storage=str(tmp_path / "store")), tmp_path)
    with pytest.raises(UserError, match=f"storage.uri {tmp_path}/other"):
        require_same_places(config(storage="./other"), tmp_path)


def test_a_bucket_of_the_same_name_on_another_server_is_another_store(tmp_path):
    remember_places(config(storage="s3://bucket/p", endpoint="http://one:9000"), tmp_path)
    require_same_places(config(storage="s3://bucket/p", endpoint="http://one:9000"), tmp_path)
    for other in ("http://two:9000", ""):
        with pytest.raises(UserError, match=r"was used with storage\.uri s3://bucket/p at http://one:9000 and"):
            require_same_places(config(storage="s3://bucket/p", endpoint=other), tmp_path)


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_a_folder_of_the_users_is_refused_in_one_line_and_stays_as_it_was(tmp_path, screen):
    workdir = tmp_path / "mine"
    (workdir / "model").mkdir(parents=True)
    for name in ("report.html", "summary.json", "run.log"):
        (workdir / name).write_text("my own")
    before = contents(workdir)
    with pytest.raises(UserError) as refused:
        local.run(config(), workdir, screen)
    assert str(refused.value).startswith(f"{workdir}: is no run's folder, and model is in it: use a new or an empty folder")
    assert "\n" not in str(refused.value)
    assert contents(workdir) == before


def test_a_model_that_is_no_link_is_refused_before_anything_runs(tmp_path, screen):
    remember_places(config(), tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/model: is not the link that a run has left there"):
        local.run(config(), tmp_path, screen)
    assert not (tmp_path / "s3").exists()


@pytest.mark.parametrize("made_by", ["nobody", "a step by itself", "a run", "a run that failed"])
def test_a_folder_that_calltune_has_made_is_taken(made_by, tmp_path):
    if made_by == "a step by itself":
        for name in ("cache", "s3"):
            (tmp_path / name).mkdir()
        (tmp_path / "mlflow.db").touch()
    elif made_by == "a run":
        remember_places(config(), tmp_path)
        (tmp_path / "model").symlink_to(tmp_path / "gone")
    elif made_by == "a run that failed":
        (tmp_path / "job.json").touch()
        (tmp_path / "run.log").touch()
    require_own(tmp_path)


def test_too_little_room_on_the_disk_is_refused_in_one_line(tmp_path, screen, monkeypatch):
    monkeypatch.setattr(local, "MIN_FREE_GIB", 2**30)
    with pytest.raises(UserError, match=rf"work: [0-9.]+ GiB free, a run needs {2**30}: free some, or use --workdir"):
        local.run(config(), tmp_path / "work", screen)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("name", ["work", "a work dir", "w" * LONGEST_TEMPORARY])
def test_what_a_step_makes_with_mktemp_is_gone_after_it(name, tmp_path):
    workdir = tmp_path / name
    workdir.mkdir()
    program = "import os, multiprocessing.connection as c; c.Listener(family='AF_UNIX')"  # its socket is in TMPDIR
    with temporary(workdir) as folder:
        environment = {**os.environ, "TMPDIR": str(folder)}
        made = subprocess.run(["sh", "-c", "mktemp -d"], env=environment, capture_output=True, text=True, check=True).stdout
        assert made.startswith(f"{folder}/tmp.")
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not folder.exists() and list(workdir.iterdir()) == []


def test_temporary_files_are_gone_after_ctrl_c_and_after_a_run_that_was_killed(tmp_path):
    with pytest.raises(KeyboardInterrupt), temporary(tmp_path) as folder:
        (folder / "tmp.x").mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (folder / "tmp.y").mkdir(parents=True)
    with temporary(tmp_path) as again:
        assert list(again.iterdir()) == []


@pytest.fixture
def ended(store, tmp_path, monkeypatch):
    """A run that has ended: its workdir and its summary; the store has the report and a model, the cache is empty."""
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "new cache"))
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "model.safetensors").write_bytes(b"weights")
    place = f"models/{models.digest(models.checksums(exported))}"
    store.upload(exported / "model.safetensors", f"{place}/model.safetensors")
    store.put("runs/1/report.html", b"<p>")
    workdir = tmp_path / "work"
    workdir.mkdir()
    return workdir, {"artifacts": {"report": f"{store.uri}/runs/1/report.html", "model": f"{store.uri}/{place}"}}


def test_the_model_is_fetched_where_the_cache_is_another_one(ended, tmp_path, screen):
    workdir, summary = ended
    (workdir / "model").symlink_to(tmp_path / "gone")
    link_results(workdir, summary, screen)
    assert (workdir / "report.html").read_text() == "<p>"
    assert (workdir / "model" / "model.safetensors").read_bytes() == b"weights"
    assert (workdir / "model").readlink().parent == tmp_path / "new cache" / "models"


def test_a_run_with_nothing_new_has_no_results_to_link(tmp_path, screen):
    link_results(tmp_path, {"artifacts": None}, screen)
    assert not (tmp_path / "model").is_symlink()
