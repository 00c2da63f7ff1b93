"""Machines that train together, as a TrainJob tells them who they are: here they are processes with a folder each."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from calltune.errors import Stopped
from components.train import ranks
from components.train.config import TrainConfig
from components.train.keeper import Keeper
from tests.components.train.conftest import SETTINGS, free_port, same


def worker(rows, model, settings, out, processes, environment, answers):
    """One machine, in a process of its own: what its pod would run."""
    from components.train.step import train_part

    os.environ |= environment
    machine = ranks.machine()
    if "SIGTERM_AFTER_SUM" in environment and machine.number == 0:
        at_end = Keeper.on_step_end

        def late(self, args, state, control, **more):
            if state.global_step == 2:
                self._stop()
            at_end(self, args, state, control, **more)

        Keeper.on_step_end = late
    try:
        config = TrainConfig(**settings)
        done = train_part(rows, model, config, out / "adapter", out, "code", "", processes, machine)
        answers.put((machine.number, done is not None, None))
    except Exception as error:
        answers.put((machine.number, False, error))


class Machines:
    """Two machines that train together, each with a disk of its own; the store is shared."""

    def __init__(self, place, rows, model, processes=1, late_sigterm=False, **settings):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["components.train.step"])  # with torch, which takes longer than what is trained here
        self.answers, self.out, self.processes = context.Queue(), [place / "0", place / "1"], []
        port = free_port()
        for number, out in enumerate(self.out):
            out.mkdir(parents=True, exist_ok=True)
            told = {"PET_NNODES": "2", "PET_NODE_RANK": str(number), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
            told |= {"GLOO_SOCKET_IFNAME": "lo", "CALLTUNE_EVENTS": str(out / "events.jsonl")}
            told |= {"CALLTUNE_STORAGE": str(place / "store"), "OMP_NUM_THREADS": "1"}
            told |= {"SIGTERM_AFTER_SUM": "1"} if late_sigterm else {}
            arguments = (rows, model, {**SETTINGS, **settings}, out, processes, told, self.answers)
            self.processes.append(context.Process(target=worker, args=arguments))
            self.processes[-1].start()

    def end(self):
        """How each ended: whether it has a result, and its error."""
        answers = sorted((self.answers.get(timeout=900) for _ in self.processes), key=lambda answer: answer[0])
        for process in self.processes:
            process.join(60)
        return [answer[1:] for answer in answers]

    def steps(self):
        """Optimiser steps that the first machine has told of."""
        events = self.out[0] / "events.jsonl"
        told = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
        return max((event["done"] for event in told if event["kind"] == "progress" and event["name"] == "train"), default=0)

    def notes(self):
        text = (self.out[0] / "events.jsonl").read_text()
        return [event["message"] for event in map(json.loads, text.splitlines()) if event["kind"] == "note"]


@pytest.mark.parametrize("processes", [1, 2])
def test_two_machines_come_to_the_losses_and_weights_of_one(alone, rows, tiny, tmp_path, processes):
    machines = Machines(tmp_path, rows, tiny, processes)
    assert machines.end() == [(True, None), (False, None)]
    assert f"train: {2 * processes} processes on 2 machines together, each on a part of every batch" in machines.notes()
    same(alone, machines.out[0])
    assert not (machines.out[1] / "adapter").exists() and not (machines.out[1] / "metrics.json").exists()
    assert not [path for out in machines.out for path in out.glob(".*checkpoints")]


@pytest.mark.parametrize(("preempted", "processes"), [(0, 2), (1, 1)])
def test_a_preempted_machine_stops_all_at_one_step_and_they_go_on_from_there(alone, rows, tiny, tmp_path, preempted, processes):
    machines = Machines(tmp_path, rows, tiny, processes)
    until = time.monotonic() + 600
    while machines.steps() < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(machines.processes[preempted].pid, signal.SIGTERM)
    (_, first), (_, second) = machines.end()
    assert isinstance(first, Stopped) and "goes on from there" in str(first)
    assert isinstance(second, Stopped) and "the first process writes the checkpoint" in str(second)
    assert str(first).split(":")[0] == str(second).split(":")[0], "both at the same step"
    again = Machines(tmp_path, rows, tiny)
    assert again.end() == [(True, None), (False, None)]
    assert any("goes on from the checkpoint of step" in note for note in again.notes())
    same(alone, again.out[0])


def test_a_sigterm_that_comes_after_the_step_was_agreed_stops_all_at_the_next_one(rows, tiny, tmp_path):
    (_, first), (_, second) = Machines(tmp_path, rows, tiny, late_sigterm=True).end()
    assert isinstance(first, Stopped) and "at step 3 of" in str(first) and "goes on from there" in str(first)
    assert isinstance(second, Stopped) and "at step 3 of" in str(second)


def test_who_a_machine_is_comes_from_torchruns_variables(monkeypatch):
    told = {"PET_NNODES": "4", "PET_NODE_RANK": "3", "PET_MASTER_ADDR": "train-node-0-0.train", "PET_MASTER_PORT": "29500"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert ranks.machine() == ranks.Machine(3, 4, "tcp://train-node-0-0.train:29500")
