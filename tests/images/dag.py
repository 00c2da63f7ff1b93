"""The demo's DAG through kfp.local, in containers or as plain processes, with a clock at every step."""

import json
import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.models.containers import ContainerCollection
from kfp import local
from kfp.local.docker_task_handler import DockerTaskHandler
from kfp.local.subprocess_task_handler import SubprocessTaskHandler

from pipelines.config import load
from pipelines.finetune import STEPS, build
from pipelines.local import Events
from tests.images.pods import RESTRICTED

RUN_LABEL = "calltune.test.run"
FOLLOW_S = 900


@dataclass
class Run:
    """A run that has ended, or is going on.

    Attributes:
        id: of the run.
        file: where its steps write their events.
        walls: each step in order, a retried one again, with the seconds from its start until it was gone.
    """

    id: str
    file: Path
    walls: list[tuple[str, float]]

    def events(self, kind):
        """The events of a kind, so far."""
        return [event for event in Events(self.file).new() if event["kind"] == kind]

    def notes(self):
        """What the steps have noted, so far."""
        return [event["message"] for event in self.events("note")]

    def until(self, seen):
        """Follow the run until `seen()` is true."""
        until = time.monotonic() + FOLLOW_S
        while not seen():
            assert time.monotonic() < until, f"not seen in {FOLLOW_S} s: {self.file.read_text()[-1000:]}"
            time.sleep(0.1)

    def costs(self):
        """Of each step the seconds in the step's own code, and those around it, in which it was started and ended."""
        walls = [seconds for name, seconds in self.walls if name != "due"]  # which is one expression, and reports nothing
        steps = self.events("step")
        found = {step["name"]: (step["seconds"], wall - step["seconds"]) for step, wall in zip(steps, walls, strict=True)}
        return dict(sorted(found.items()))


def new(root):
    """A run that has not begun; its steps, of another user, may write to its events."""
    run = Run(uuid.uuid4().hex, root / f"events-{uuid.uuid4().hex}.jsonl", [])
    run.file.touch()
    run.file.chmod(0o666)
    return run


def in_containers(run, config, image, network, variables, root):
    """Run the DAG as it is compiled for a cluster, each step in its image."""
    environment = {**variables, "CALLTUNE_RUN_ID": run.id, "CALLTUNE_EVENTS": str(run.file)}
    runner = local.DockerRunner(network=network, environment=environment, labels={RUN_LABEL: run.id}, **RESTRICTED)
    start = ContainerCollection.run

    def start_and_keep(self, *arguments, auto_remove, **options):
        # kfp takes a container that is removed before it asks for the exit code for one that has done its work.
        return start(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContainerCollection, "run", start_and_keep)
        _run(run, config, image, True, patch, DockerTaskHandler, runner, root)


def in_processes(run, config, variables, root):
    """Run the DAG as `calltune run` does."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "CALLTUNE_RUN_ID": run.id, "CALLTUNE_EVENTS": str(run.file)}.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setattr(sys, "executable", "python3")  # as pipelines/worker.py, which says why
        _run(run, config, "none", False, patch, SubprocessTaskHandler, local.SubprocessRunner(use_venv=False), root)


def _run(run, config, code, on_cluster, patch, handler, runner, root):
    work = handler.run

    def clocked(self):
        name = self.full_command[self.full_command.index("--function_to_execute") + 1]
        begun = time.monotonic()
        try:
            return work(self)
        finally:
            run.walls.append((name, time.monotonic() - begun))

    patch.setattr(handler, "run", clocked)
    local.init(runner, pipeline_root=str(root), enable_caching=False)
    before = os.umask(0)  # what this process makes for a step, the step's user must be able to write
    try:
        build(load(config), dict.fromkeys(STEPS, code), on_cluster)()
    finally:
        os.umask(before)


def config(place, name, train, tools, servers):
    """Write a run's config; returns its file."""
    file = place / f"{name}.yaml"
    settings = {
        "name": name,
        "model": {"base": "s3://calltune/inputs/model"},
        "ingest": {"source": "s3://calltune/inputs/rows", "tools": str(tools)},
        "format": {"max_tokens": 1024},
        "train": {"learning_rate": 1.0e-3, "batch_rows": 8, **train},
        "evaluate": {"max_new_tokens": 16},
        "gate": {"min_questions": 10, "thresholds": {"tool_accuracy": 0.01}},
        "storage": {"uri": servers.variables["CALLTUNE_STORAGE"], "endpoint_url": servers.variables["AWS_ENDPOINT_URL_S3"]},
        "tracking": {"uri": servers.variables["CALLTUNE_TRACKING"]},
    }
    file.write_text(json.dumps(settings))
    return file
