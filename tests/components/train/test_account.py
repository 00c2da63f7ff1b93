"""What a training cost: FLOPs against a count by hand, the device's rate, and energy where NVML gives it."""

import sys
from types import ModuleType

import pytest
import torch

from components.train import account
from components.train.config import TrainConfig
from components.train.method import adapter_config, build, decide

HIDDEN, INNER, VOCABULARY, KEYS = 64, 128, 49152, 32
LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * INNER
"""Weights of the linear layers of one of the tiny model's two."""
ADAPTER = 16 * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + INNER))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("full", 6 * (1000 * 2 * LAYER + 10 * HIDDEN * VOCABULARY)),
        ("qlora", 4 * (1000 * 2 * LAYER + 10 * HIDDEN * VOCABULARY) + 6 * 1000 * 2 * ADAPTER),
    ],
)
def test_flops_are_those_of_the_linear_layers(tiny_model, method, expected):
    from peft import get_peft_model

    config = TrainConfig(method=method, precision="fp32")
    chosen = decide(config, 1)
    network = build(tiny_model, chosen)
    adapter = adapter_config(chosen, config)
    assert account.flops(get_peft_model(network, adapter) if adapter else network, 1000, 10) == expected


def test_the_rate_is_measured_quickly_and_leaves_the_random_numbers_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    rate = account.matmul_rate(torch.device("cpu"), bf16=False)
    assert 1e8 < rate < 1e14
    assert torch.rand(1) == expected


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_a_training_says_what_it_cost(trained, method):
    result = trained(method).result
    assert result.supervised_tokens_per_s == pytest.approx(result.supervised_tokens / result.seconds, rel=0.02)
    assert result.mfu > 0 and result.device_tflops > 0 and "4 FLOPs for each token" in result.mfu_formula
    assert result.peak_rss_mib > 300
    assert (result.gpu_hours, result.peak_gpu_mib, result.energy_kwh, result.price) == (0.0, None, None, None)
    assert result.energy_source == "no GPU"


def test_a_price_is_that_of_the_seconds(train_tiny):
    result = train_tiny(method="lora", epochs=1, max_steps=1, price_per_hour=7.2).result
    assert result.price == pytest.approx(7.2 * result.seconds / 3600, rel=0.05)


def test_another_price_does_not_train_again():
    assert TrainConfig(price_per_hour=3).result_settings() == TrainConfig().result_settings()


@pytest.fixture
def nvml(monkeypatch):
    """Stands in for the GPU's own library, which counts in millijoules: no GPU is at hand here."""
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    library.nvmlDeviceGetTotalEnergyConsumption = {"GPU-1": 7_200_000}.__getitem__
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_energy_is_what_nvml_counts(nvml):
    assert account.nvml_joules("GPU-1") == 7200


def test_a_gpu_that_counts_no_energy_is_said_and_ends_nothing(nvml):
    def refuse(_):
        raise nvml.NVMLError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert account.nvml_joules("GPU-1") == "NVML: Not Supported"


def test_without_a_gpu_there_is_no_energy():
    assert account.gpu_joules() == account.of_all(account.gpu_joules()) == "no GPU"
    assert account.of_all(5.0) == 5
