"""oneDNN computes float32 products where that is float32."""

import os

import pytest
import torch

from calltune import onednn


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that what is set here does not stay
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "none"
    yield settings
    settings.fp32_precision = before


def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch):
    onednn.prefer()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "500")
    onednn.prefer()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "500"


def test_products_stay_float32_whichever_library_computes_them():
    onednn.prefer()
    torch.manual_seed(0)
    for one, two in ((torch.randn(700, 64), torch.randn(64, 900)), (torch.randn(3, 129, 333), torch.randn(3, 333, 64))):
        expected = one.double() @ two.double()
        assert (one @ two - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("rounded", "left"), [(False, "bf16"), (True, "none")])
def test_where_it_rounds_to_bf16_torch_keeps_its_own(monkeypatch, as_before, rounded, left):
    """A product of rounded factors stands for a CPU with AMX."""
    product = torch.Tensor.__matmul__

    def with_amx(one, two):
        rounds = rounded and one.dtype == torch.float32 and as_before.fp32_precision == "bf16"
        return product(*(factor.bfloat16().float() for factor in (one, two))) if rounds else product(one, two)

    monkeypatch.setattr(torch.Tensor, "__matmul__", with_amx)
    onednn.prefer()
    assert as_before.fp32_precision == left
