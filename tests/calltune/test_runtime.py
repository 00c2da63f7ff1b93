"""A step says how it went: one error event, one line in the log, and the exit code, also where it can hardly write any more."""

import errno
import json
import math
import os
import tracemalloc

import pytest

from calltune import runtime, storage
from calltune.errors import Stopped, UserError


@pytest.fixture
def events(tmp_path):
    """Reads the events of one kind."""

    def of_kind(kind):
        seen = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        return [event for event in seen if event["kind"] == kind]

    return of_kind


def test_a_step_is_recorded_in_the_store_before_it_is_told(store, events):
    with runtime.step("look"):
        pass
    (told,) = events("step")
    assert {key: told[key] for key in ("name", "seconds", "peak_rss_mib", "error")} == store.get_json(
        "runs/run-1/steps/look.json"
    )
    assert told["error"] is None and events("error") == []


def test_a_users_error_is_exit_code_2_and_in_the_record(store, events, capsys):
    with pytest.raises(SystemExit) as ended, runtime.step("ingest"):
        raise UserError("row 3: no question")
    assert ended.value.code == 2
    (error,) = events("error")
    assert (error["step"], error["code"], error["message"]) == ("ingest", 2, "row 3: no question")
    assert store.get_json("runs/run-1/steps/ingest.json")["error"]["message"] == "row 3: no question"
    assert capsys.readouterr().err == "calltune: ingest: row 3: no question\n"


def test_being_stopped_is_no_mistake_of_the_user_and_one_line(store, events, capsys):
    with pytest.raises(SystemExit) as ended, runtime.step("train"):
        raise Stopped("stopped by SIGTERM at step 3 of 8")
    assert ended.value.code == 1
    assert store.get_json("runs/run-1/steps/train.json")["error"]["code"] == 1
    assert capsys.readouterr().err == "calltune: train: stopped by SIGTERM at step 3 of 8\n"


def test_progress_says_what_is_left_at_the_speed_of_this_process(events, monkeypatch):
    now = iter([0.0, 0.0, 30.0, 60.0, 100.0])
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(now))
    progress = runtime.Progress("train", 100, "steps", already=80)
    for done in (83, 86, 100):
        progress.update(done)
    told = [(event["done"], event["left_s"]) for event in events("progress")]
    # Ten seconds a step, whatever the 80 before them took.
    assert told == [(80, None), (83, 170.0), (86, 140.0), (100, 0.0)]


def test_any_other_exception_goes_up_with_its_traceback_in_the_log(store, events, capsys):
    with pytest.raises(ZeroDivisionError), runtime.step("train"):
        _ = 1 / 0
    assert [error["code"] for error in events("error")] == [1]
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_exit_code_2_and_one_line(store, events, tmp_path, capsys):
    (tmp_path / "weights").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as ended, runtime.step("export"):
        (tmp_path / "weights").write_bytes(b"x")
    assert ended.value.code == 2
    assert [error["message"] for error in events("error")] == ["no room left on the disk: while writing"]
    assert capsys.readouterr().err == "calltune: export: no room left on the disk: while writing\n"


def test_a_quota_that_is_used_up_is_a_full_disk(store, events):
    with pytest.raises(SystemExit) as ended, runtime.step("export"):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert ended.value.code == 2
    assert [error["message"] for error in events("error")] == ["no room left on the disk: while writing"]


def test_a_full_disk_in_the_words_of_safetensors_is_the_same(store, events):
    from safetensors import SafetensorError

    with pytest.raises(SystemExit) as ended, runtime.step("train"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert ended.value.code == 2
    assert [error["message"] for error in events("error")] == ["no room left on the disk: while writing"]


def test_a_disk_too_full_for_events_hides_neither_the_exit_code_nor_the_reason(store, monkeypatch, capsys):
    monkeypatch.setenv("CALLTUNE_EVENTS", "/dev/full")
    with pytest.raises(SystemExit) as ended, runtime.step("look"):
        pytest.fail("a step that cannot report must not begin")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "calltune: look: no room left on the disk: while writing\n"


def unwritable(store_is, monkeypatch, tmp_path):
    if store_is == "below a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("CALLTUNE_STORAGE", str(tmp_path / "file" / "store"))
    else:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    storage.open_store.cache_clear()


@pytest.mark.parametrize(
    ("store_is", "said"),
    [("below a file", "file/store: the store cannot be written: Not a directory"), ("of somebody else", "SignatureDoesNotMatch")],
)
def test_a_store_that_cannot_be_written_is_one_error_and_no_success(store_is, said, s3, events, tmp_path, monkeypatch, capsys):
    unwritable(store_is, monkeypatch, tmp_path)
    with pytest.raises(SystemExit) as ended, runtime.step("look"):
        pass
    assert ended.value.code == 2
    (error,) = events("error")
    assert said in error["message"] and "\n" not in error["message"]
    assert events("step") == []
    assert capsys.readouterr().err == f"calltune: look: {error['message']}\n"


@pytest.mark.parametrize("error", [None, UserError("no store"), KeyError("outcome")])
def test_a_step_that_may_fail_ends_well_whatever_happens_and_says_it(error, events, tmp_path, monkeypatch):
    unwritable("below a file", monkeypatch, tmp_path)
    with runtime.step("notify", may_fail=True):
        if error:
            raise error
    (note,) = events("note")
    assert note["message"].startswith("notify: ") and events("error") == events("step") == []


def test_the_steps_own_error_is_told_where_the_store_cannot_be_written_either(events, tmp_path, monkeypatch):
    unwritable("below a file", monkeypatch, tmp_path)
    with pytest.raises(SystemExit), runtime.step("ingest"):
        raise UserError("row 3: no question")
    assert [error["message"] for error in events("error")] == ["row 3: no question"]


def test_a_long_list_is_written_piece_by_piece_and_what_is_no_json_leaves_no_file(tmp_path):
    numbers = list(range(100_000))
    tracemalloc.start()
    runtime.write_json(tmp_path / "long.json", numbers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert json.loads((tmp_path / "long.json").read_text()) == numbers and peak < 1_000_000, "all pieces together are 7 MB"
    with pytest.raises(ValueError, match="not JSON compliant"):
        runtime.write_json(tmp_path / "nan.json", [1, math.nan])
    assert [path.name for path in tmp_path.iterdir()] == ["long.json"]
