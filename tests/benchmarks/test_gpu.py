"""The GPU benchmark in miniature, on whatever is here; `benchmarks/gpu.sh` runs it whole."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, train

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
ROW_TOKENS, SHARED_TOKENS = 128, 96


@pytest.mark.slow
def test_ours_and_trls_learn_the_same_from_the_same_rows(tmp_path):
    with torch.random.fork_rng():
        base = gpu.make_model(tmp_path / "base", gpu.TINY)
    rows = gpu.make_rows(tmp_path / "rows", ROW_TOKENS, SHARED_TOKENS, 2 * train.BATCH_ROWS)
    ours, padded = (train.contend(name, base, "qlora", rows, steps=1) for name in ("ours", "padded"))
    assert ours["losses"] == pytest.approx(padded["losses"], abs=0.05)
    assert 0 < ours["mfu"] < 1 and ours["rate"] > 0 and ours["peak_mib"] > 0


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
