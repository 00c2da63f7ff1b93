"""The stand-in for vLLM, which cannot run here."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def stand_in(monkeypatch):
    """`import vllm` finds the stand-in; yields it."""
    before = {name for name in sys.modules if name.split(".")[0] == "vllm"}
    assert not before, "the real vLLM is imported already"
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "standin"))
    import vllm

    yield vllm
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def gpu(monkeypatch):
    """torch says that there is a GPU. Nothing runs on it."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
