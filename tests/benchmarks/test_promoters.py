"""The race of promoters, small: `python -m benchmarks.promoters` runs fifty rounds of eight."""

import shutil

import pytest

from benchmarks import promoters
from calltune import ledger


@pytest.fixture
def place(s3, empty_mlflow, tmp_path, monkeypatch):
    """A store and an MLflow that this process does not open: open databases do not survive a fork."""
    shutil.copyfile(empty_mlflow, tmp_path / "race.db")
    monkeypatch.setenv("CALLTUNE_TRACKING", f"sqlite:///{tmp_path / 'race.db'}")
    return tmp_path


def test_of_promoters_at_once_exactly_one_wins_also_when_some_are_killed(place):
    played = promoters.rounds(place, count=2, promoters=4, kills=2, seed=0)
    assert [one.wrong for one in played] == [[], []]
    assert [entry["n"] for entry in ledger.entries(promoters.NAME, "champion")] == [1, 2]
