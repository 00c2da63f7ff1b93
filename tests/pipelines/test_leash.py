"""No process is left behind, however the one that started it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines import leash

# Starts a grandchild, as a pipeline does with its steps, and says both pids.
FAMILY = """
import os, subprocess, sys, time
from pipelines import leash
leash.take_group_along()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_end_leaves_nothing_of_the_group():
    process = leash.start([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert all(map(alive, pids))
    leash.end(process)
    assert not any(map(alive, pids))


def test_a_group_whose_head_has_ended_is_ended_too():
    # The head is killed as by the out-of-memory killer: its step goes on, until the supervisor ends the group.
    process = leash.start([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    head, child = (int(pid) for pid in process.stdout.readline().split())
    os.kill(head, signal.SIGKILL)
    process.wait()
    assert alive(child)
    leash.end(process)
    assert not alive(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_group_ends_with_a_killed_supervisor(number):
    supervisor = f"""
import subprocess, sys, time
from pipelines import leash
process = leash.start([sys.executable, "-c", {FAMILY!r}])
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert all(map(alive, pids))
    process.send_signal(number)
    process.wait()
    assert gone(pids)


def test_ctrl_c_while_ending_does_not_interrupt_it(monkeypatch):
    process = leash.start([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    real = process.wait

    def impatient():
        os.kill(os.getpid(), signal.SIGINT)
        return real()

    monkeypatch.setattr(process, "wait", impatient)
    leash.end(process)
    assert not any(map(alive, pids))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as it was before


def test_a_command_on_a_leash_gives_its_exit_code():
    done = subprocess.run([sys.executable, "-m", "pipelines.leash", sys.executable, "-c", "raise SystemExit(7)"])
    assert done.returncode == 7
