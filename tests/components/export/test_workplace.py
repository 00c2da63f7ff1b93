"""An export's place goes with it; that of a killed one goes with the next; that of a running one stays."""

import subprocess
import sys

import pytest

from calltune import models
from components.export.workplace import workplace

WAITING = """
from components.export.workplace import workplace
with workplace() as work:
    work.mkdir()
    print(work, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def other():
    """Another process in the middle of an export."""
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def left():
    return {path.parent for path in (models.cache_dir() / "exports").glob("*/model")}


def test_a_place_is_gone_at_the_end_however_that_comes():
    with workplace() as work:
        work.mkdir()
        assert left() == {work.parent}
    with pytest.raises(RuntimeError), workplace() as work:
        work.mkdir()
        raise RuntimeError
    assert not list((models.cache_dir() / "exports").iterdir())


def test_what_a_killed_export_left_behind_goes_with_the_next_and_a_running_one_stays(other):
    theirs = other.stdout.readline().strip()
    with workplace():
        assert [str(path / "model") for path in left()] == [theirs]
    other.kill()
    other.wait()
    assert [str(path / "model") for path in left()] == [theirs]
    with workplace():
        assert not left()
