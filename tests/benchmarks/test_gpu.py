"""The GPU benchmark in miniature, on whatever is here; `benchmarks/gpu.sh` runs it whole."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, train

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "benchmarks" / "gpu.sh"
ON_THE_MACHINE = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "pytest", "pydantic", "jsonschema")
WALL = """
import sys
from importlib.machinery import PathFinder

class Wall(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {absent} else super().find_spec(name, path, target)

sys.meta_path = [Wall if finder is PathFinder else finder for finder in sys.meta_path]
"""
ROW_TOKENS, SHARED_TOKENS = 128, 96


@pytest.mark.slow
def test_ours_and_trls_learn_the_same_from_the_same_rows(tmp_path):
    with torch.random.fork_rng():
        base = gpu.make_model(tmp_path / "base", gpu.TINY)
    rows = gpu.make_rows(tmp_path / "rows", ROW_TOKENS, SHARED_TOKENS, 2 * train.BATCH_ROWS)
    ours, padded = (train.contend(name, base, "qlora", rows, steps=1) for name in ("ours", "padded"))
    assert ours["losses"] == pytest.approx(padded["losses"], abs=0.05)
    assert 0 < ours["mfu"] < 1 and ours["rate"] > 0 and ours["peak_mib"] > 0


def test_what_a_gpu_still_has_to_do_counts_for_the_step(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    clock = train.Clock()
    clock.on_step_begin()
    clock.on_step_end()
    assert len(clock.seconds) == 1 and len(waited) == 2


def test_the_script_says_what_it_wants():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2 and "benchmarks/gpu.sh WHEELS" in done.stderr


def test_the_script_may_be_called_from_any_folder(tmp_path):
    done = subprocess.run(["bash", "./gpu.sh"], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "benchmarks/gpu.sh WHEELS" in done.stderr
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "x.whl").touch()
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", SCRIPT, "wheels"], cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
    assert str(tmp_path / "wheels" / "x.whl") in done.stdout.splitlines()[0]


def named_tests():
    """The files that the script has pytest look into."""
    (line,) = [line for line in SCRIPT.read_text().splitlines() if "pytest" in line and not line.startswith("#")]
    command = shlex.split(line)
    assert command[:5] == ["python3", "-m", "pytest", "-m", "gpu"]
    return command[5:]


def test_the_script_names_every_file_with_a_test_of_the_gpu():
    marked = [
        path
        for path in (REPO / "tests").rglob("test_*.py")
        if re.search(r"^@pytest\.mark\.gpu|^pytestmark.*gpu", path.read_text(), re.M)
    ]
    assert marked and {str(path.relative_to(REPO)) for path in marked} == set(named_tests())


def names_of(distributions):
    """The distributions and all that they need, by their normalised names."""
    found, left = set(), list(distributions)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name not in found:
            found.add(name)
            left += [re.match(r"[\w.-]+", one)[0] for one in _required(name)]
    return found


def _required(name):
    try:
        return [one for one in requires(name) or () if "extra ==" not in one]
    except ImportError:  # of another platform
        return []


def test_it_needs_nothing_that_the_machine_lacks(tmp_path, cache):
    there = names_of(ON_THE_MACHINE)
    provided = {module: {re.sub(r"[-_.]+", "-", one).lower() for one in by} for module, by in packages_distributions().items()}
    absent = {module for module, by in provided.items() if not by & there and by != {"calltune"}}
    assert {"hypothesis", "helm_python", "kfp", "mlflow", "boto3", "kubernetes"} <= absent
    (tmp_path / "sitecustomize.py").write_text(WALL.format(absent=absent))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    program = "import sys, benchmarks.gpu, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-m", "gpu", "-p", "no:cacheprovider", *named_tests()]
    done = subprocess.run(command, cwd=REPO, env=environment | {"CALLTUNE_CACHE": str(cache)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"[1-9] (passed|skipped)", done.stdout)
