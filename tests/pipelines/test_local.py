"""What the steps of a run find in their environment."""

import os
import subprocess
import sys

from pipelines.config import RunConfig
from pipelines.local import variables

NOISY = """
import warnings
from tqdm.auto import tqdm
list(tqdm(range(3)))
warnings.warn("in version 6 this will have another name", FutureWarning)
warnings.warn("this is wrong")
"""


def stderr(tmp_path):
    sections = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": "rows.jsonl"}}
    environment = dict(os.environ) | variables(RunConfig.model_validate(sections), tmp_path)
    return subprocess.run([sys.executable, "-c", NOISY], env=environment, capture_output=True, text=True, check=True).stderr


def test_a_steps_log_has_no_bars_and_no_deprecations_but_other_warnings(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    (line,) = stderr(tmp_path).splitlines()
    assert "UserWarning: this is wrong" in line


def test_who_asks_for_warnings_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    assert "FutureWarning" in stderr(tmp_path)
