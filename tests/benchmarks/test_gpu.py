"""The GPU benchmark in miniature, on whatever is here; `benchmarks/gpu.sh` runs it whole."""

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
