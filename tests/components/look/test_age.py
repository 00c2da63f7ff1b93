"""The data's age: that of the newest thing in it, as the source tells it."""

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from calltune.errors import DataError
from components.look.age import age_days

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def file(path, days):
    """A file that was changed so many days before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1\n")
    then = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))
    return str(path)


def test_a_file_is_as_old_as_its_last_change_in_whole_days(tmp_path):
    rows = file(tmp_path / "rows.jsonl", 3.9)
    assert age_days([rows], NOW) == 3
    assert age_days([rows], NOW - timedelta(days=4.5)) == 0, "from the future, where clocks differ"
    with pytest.raises(DataError, match=r"rows\.jsonl: was last changed at .* UTC, which is yet to come"):
        age_days([rows], NOW - timedelta(days=9))


def test_of_a_folder_and_of_several_sources_the_newest_counts(tmp_path):
    old = file(tmp_path / "old.jsonl", 90)
    file(tmp_path / "folder" / "a.jsonl", 40)
    file(tmp_path / "folder" / "deep" / "b.jsonl", 20)
    file(tmp_path / "folder" / "README.md", 1)  # which ingest does not read
    file(tmp_path / "folder" / ".runs" / "records.jsonl", 1)  # nor this
    assert age_days([str(tmp_path / "folder")], NOW) == 20
    assert age_days([old, str(tmp_path / "folder")], NOW) == 20
    assert age_days([old], NOW) == 90


def test_objects_are_as_old_as_since_they_were_put_there(s3):
    s3.put("rows/a.jsonl", b"1")
    s3.put("rows/b.jsonl", b"1")
    s3.put("rows2/later.jsonl", b"1")
    s3.put("notes/README.md", b"1")
    now = datetime.now(UTC)
    assert age_days([f"{s3.uri}/rows"], now) == 0
    assert age_days([f"{s3.uri}/rows"], now + timedelta(days=5.5)) == 5
    with pytest.raises(DataError, match="there is no object that can be read as data"):
        age_days([f"{s3.uri}/notes"], now)


def test_a_data_set_of_the_hub_is_as_old_as_the_commit_that_is_meant(monkeypatch):
    asked = []

    def commits(self, name, *, repo_type, revision):
        asked.append((name, repo_type, revision))
        return [SimpleNamespace(created_at=NOW - timedelta(days=days)) for days in (7, 300)]

    monkeypatch.setattr(HfApi, "list_repo_commits", commits)
    assert age_days(["hf://datasets/acme/calls@v2#train"], NOW) == 7
    assert asked == [("acme/calls", "dataset", "v2")]


def test_what_is_not_there_has_no_age(tmp_path, s3):
    (tmp_path / "empty").mkdir()
    for source, says in (
        ("none.jsonl", "no such data file"),
        (str(tmp_path / "empty"), "no file"),
        (f"{s3.uri}/none", "no object"),
    ):
        with pytest.raises(DataError, match=says):
            age_days([source], NOW)
