"""`calltune schedule`: five fields in, six out; one schedule by name, whatever interrupts its making."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from pipelines import cron
from pipelines.cron import next_times, six_fields


def created(cluster, command, *words, at="0 3 * * 1"):
    code, out, err = command("schedule", "create", "-c", cluster.config, "--no-preflight", "--cron", at, *words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("given", ["0 3 * * 1", "*/15 0-6,22 1 jan MON-fri", "5 4 * * *"])
def test_five_fields_become_six_with_the_seconds_first(given):
    assert six_fields(given) == f"0 {given}"


def test_the_next_times_are_in_the_clusters_time_zone(monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 27, 12, tzinfo=tz)

    monkeypatch.setattr(cron, "datetime", Clock)
    times = next_times("30 3 * * 0,1", "Europe/Berlin")
    assert [f"{moment:%a %d %H:%M %z}" for moment in times] == ["Sun 29 03:30 +0200", "Mon 30 03:30 +0200", "Sun 05 03:30 +0200"]
    assert times[0].tzinfo == ZoneInfo("Europe/Berlin")


def test_a_schedule_is_pinned_runs_alone_and_only_for_a_reason(cluster, command):
    out = created(cluster, command, "--set", "cluster.timezone=Asia/Tokyo")
    (made,) = cluster.schedules()
    assert made.trigger.cron_schedule.cron == "0 0 3 * * 1"
    assert (made.max_concurrency, made.no_catchup, made.mode, made.service_account) == ("1", True, "ENABLE", "runner")
    version = cluster.double.objects["versions"][made.pipeline_version_reference.pipeline_version_id]
    look = version.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]["look_config"]["defaultValue"]
    assert look["when"] == "changed"
    (line,) = [line for line in out.splitlines() if line.startswith("next")]
    assert line.count("Mon ") == 3 and line.endswith("03:00 (Asia/Tokyo)")


def test_the_same_schedule_twice_is_one_and_a_changed_one_replaces_it(cluster, command):
    created(cluster, command)
    (first,) = cluster.schedules()
    assert "nothing to do" in created(cluster, command)
    assert cluster.schedules() == [first]
    cluster.double.calls.clear()
    assert "replaced" in created(cluster, command, at="0 4 * * 1")
    (second,) = cluster.schedules()
    assert (second.trigger.cron_schedule.cron, second.mode) == ("0 0 4 * * 1", "ENABLE")
    changes = [call for call in cluster.double.calls if "recurringruns" in call and not call.startswith("GET")]
    new, old = (f"/apis/v2beta1/recurringruns/{item.recurring_run_id}" for item in (second, first))
    assert changes == ["POST /apis/v2beta1/recurringruns", f"POST {old}:disable", f"POST {new}:enable", f"DELETE {old}"]


@pytest.mark.parametrize("interrupted", ["DELETE", ":disable", ":enable"])
def test_an_interrupted_replacement_is_finished_by_the_next_one(cluster, command, interrupted):
    created(cluster, command)
    plain = cluster.double.handle

    def breaks(method, path, query, body):
        if "recurringruns/" in path and interrupted in f"{method} {path}":
            raise ConnectionResetError("the server has gone")
        return plain(method, path, query, body)

    cluster.double.handle = breaks
    words = ("schedule", "create", "-c", cluster.config, "--no-preflight", "--cron", "0 4 * * 1")
    assert command(*words)[0] == 2
    cluster.double.handle = plain
    assert command(*words)[0] == 0
    (left,) = cluster.schedules()
    assert (left.trigger.cron_schedule.cron, left.mode) == ("0 0 4 * * 1", "ENABLE")


def test_pause_resume_run_now_list_and_delete(cluster, command):
    created(cluster, command, "--name", "weekly")
    (made,) = cluster.schedules()
    assert command("schedule", "pause", "weekly", "-c", cluster.config)[0] == 0
    assert made.mode == "DISABLE"
    assert "still paused" in created(cluster, command, "--name", "weekly", at="0 5 * * 1")
    (made,) = cluster.schedules()
    assert made.mode == "DISABLE"
    assert command("schedule", "resume", "weekly", "-c", cluster.config)[0] == 0
    code, out, _ = command("schedule", "list", "-c", cluster.config)
    assert (
        code == 0 and out.split()[:2] == ["weekly", "on"] and out.split(maxsplit=2)[2] == "0 0 5 * * 1          0 5 * * 1 (UTC)\n"
    )
    assert command("schedule", "run-now", "weekly", "-c", cluster.config)[0] == 0
    (run,) = cluster.runs()
    assert run.pipeline_version_reference.pipeline_version_id == made.pipeline_version_reference.pipeline_version_id
    assert command("schedule", "delete", "weekly", "-c", cluster.config)[0] == 0
    assert cluster.schedules() == []


def test_a_dry_run_of_a_schedule_asks_nobody(cluster, command):
    code, out, _ = command("schedule", "create", "-c", cluster.config, "--cron", "0 3 * * 1", "--dry-run")
    assert (code, cluster.double.calls) == (0, [])
    assert "'0 0 3 * * 1' for KFP" in out and "next" in out
