"""The kills benchmark says of itself when it has not done what it was asked."""

from argparse import Namespace

import pytest

from benchmarks.kills import _verdict


@pytest.mark.parametrize(("kills", "there", "code"), [(20, b"w", 0), (3, b"w", 1), (0, b"w", 1), (20, b"v", 1)])
def test_fewer_kills_than_asked_for_or_other_weights_are_a_failure(tmp_path, kills, there, code):
    for name, weights in (("whole", b"w"), ("killed", there)):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "loss.csv").write_bytes(b"1")
    assert _verdict(tmp_path, kills, Namespace(kills=20, within=2.0, json=None)) == code
