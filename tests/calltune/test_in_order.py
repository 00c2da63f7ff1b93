import operator
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from calltune import in_order as module
from calltune.errors import DataError, Stopped
from calltune.in_order import UNTAKEN, batches, in_order
from calltune.processes import cpus
from components.ingest.sources import find

DOUBLE = partial(operator.mul, 2)
SLOW = """
import time
from functools import partial
from calltune import in_order
in_order.cpus = lambda: 3
print("begun", flush=True)
for _ in in_order.in_order(iter(lambda: 0.05, None), time.sleep, partial(partial, time.sleep), 0):
    print("one", flush=True)
"""


@pytest.fixture
def three(monkeypatch):
    """There are three CPUs, so that two processes help."""
    monkeypatch.setattr(module, "cpus", lambda: 3)


def doubled(items, alone=0):
    return list(in_order(items, DOUBLE, partial(partial, operator.mul, 2), alone))


def test_with_and_without_help_the_results_are_the_same_in_the_same_order(three, monkeypatch):
    helped = doubled(range(300))
    monkeypatch.setattr(module, "cpus", lambda: 1)
    assert helped == doubled(range(300)) == [(number, 2 * number) for number in range(300)]


def test_helpers_do_some_of_the_work_and_this_process_the_rest(three):
    # A slow enough source gives the helpers time to start. What they do comes to None.
    def slowly():
        for number in range(400):
            time.sleep(0.02)
            yield number / 1e6

    done = [result is None for _, result in in_order(slowly(), lambda number: number, partial(partial, time.sleep), 10)]
    assert not any(done[:10])
    assert 0 < sum(done) < 400


def test_an_error_in_a_helper_is_raised_as_it_is_after_what_comes_before_it(three, tmp_path):
    items = [__file__] * 40 + [str(tmp_path / "nowhere.jsonl")] + [__file__] * 40
    done = []
    with pytest.raises(DataError, match=r"^\S*nowhere\.jsonl: no such file$"):
        for item, _ in in_order(items, find, partial(partial, find), 0):
            done.append(item)
    assert done == [__file__] * 40


def test_what_cannot_be_made_in_a_helper_is_told_as_it_is(three, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(in_order(range(1000), _sleepy, partial(find, str(tmp_path / "nowhere")), 0))


def _sleepy(_):
    time.sleep(0.02)


def test_rows_before_one_that_cannot_be_read_come_first(three):
    def source():
        yield from range(25)
        raise DataError("line 26: not UTF-8")

    done = []
    with pytest.raises(DataError, match="line 26"):
        for batch, _ in in_order(batches(source(), 10), sum, partial(partial, sum), 0):
            done += batch
    assert done == list(range(25))


def test_only_a_few_items_are_in_memory_however_slowly_they_are_taken(three):
    drawn = 0

    def source():
        nonlocal drawn
        for number in range(500):
            drawn += 1
            yield number

    ahead = [drawn - taken for taken, _ in enumerate(in_order(source(), DOUBLE, partial(partial, operator.mul, 2), 0))]
    assert max(ahead) <= UNTAKEN + 1


def test_a_killed_helper_is_one_line(three):
    with pytest.raises(Stopped, match=r"^a process that helped was killed, as happens where memory runs out; [^\n]+$"):
        list(in_order(range(1000), _sleepy, partial(partial, os._exit), 0))


def test_closed_early_it_leaves_no_process(three):
    before = children()
    with closing(in_order(range(1000), DOUBLE, partial(partial, operator.mul, 2), 0)) as done:
        next(done)
        assert set(children()) - set(before)
    assert not set(children()) - set(before)


def children():
    """This process's children, but for the one that keeps multiprocessing's semaphores."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in pids if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_with_its_parent_a_helper_ends(how):
    """As Ctrl-C in a terminal, which reaches all, and as SIGKILL, which reaches one."""
    command = [sys.executable, "-c", SLOW]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for _ in range(20):
            run.stdout.readline()
        until(lambda: len(in_group(run.pid)) >= 3)
        if how == "interrupted":
            os.killpg(run.pid, signal.SIGINT)
        else:
            run.kill()
        run.stdout.close()
        assert "Process Spawn" not in run.stderr.read()  # of an interrupt only the parent says something
        run.wait(60)
        until(lambda: not in_group(run.pid))
    finally:
        for pid in in_group(run.pid):
            os.kill(pid, signal.SIGKILL)


def in_group(group):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 1000),
        ({"cpu.max": "max 100000\n"}, 1000),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1000),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_container_may_use_no_more_cpus_than_it_is_allowed(tmp_path, files, most):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpus(tmp_path) == min(most, len(os.sched_getaffinity(0)))
