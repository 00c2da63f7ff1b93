"""What a training was worth its hours by: its useful arithmetic beside what the device can do, its memory and its energy."""

import time
from dataclasses import dataclass

import torch

from calltune import runtime
from components.train import ranks

CPU_SIZE, GPU_SIZE = 512, 8192
"""Rows and columns of the matrices that the device's rate is measured with. On a busy CPU a small product has its cores to itself
now and then; a large one never has."""
MEASURED_S = 0.3
FORMULA = (
    "FLOPs / seconds / device_tflops: 4 FLOPs for each token and weight of a linear layer, 6 where the weight is trained; "
    "of the output layer for supervised tokens only. Attention's own products and recomputed activations count for nothing, "
    "validation and checkpoints do as time"
)
"""How `mfu`, the model FLOPs utilisation, is worked out. Tokens are those computed: a shared prefix once."""


@dataclass(frozen=True)
class Cost:
    """What a training cost.

    Attributes:
        seconds: of training, validation and checkpoints included; what was lost between a checkpoint and a kill is not.
        tokens: computed, shared ones once.
        supervised_tokens: of these, predicted ones that counted in the loss.
        mfu: model FLOPs utilisation, as `mfu_formula` says.
        device_tflops: TFLOP/s of a matrix product, measured before training; of several GPUs their sum.
        peak_rss_mib: most memory of the process.
        peak_gpu_mib: most memory that tensors took on the GPU, of several the first; None without one.
        gpu_hours: of all GPUs; 0 on a CPU.
        energy_kwh: of all GPUs; None where it is not known.
        energy_source: who counted it, or why nobody did.
        price: at `train.price_per_hour`; None where that is not set.
    """

    seconds: float
    tokens: int
    supervised_tokens: int
    tokens_per_s: float
    supervised_tokens_per_s: float
    mfu: float
    mfu_formula: str
    device_tflops: float
    peak_rss_mib: int
    peak_gpu_mib: int | None
    gpu_hours: float
    energy_kwh: float | None
    energy_source: str
    price: float | None


def cost(
    network: torch.nn.Module,
    tokens: int,
    supervised: int,
    seconds: float,
    rate: float,
    joules: float | str,
    price_per_hour: float,
) -> Cost:
    """What a training cost.

    Args:
        network: as trained.
        tokens: computed, by all ranks.
        supervised: of these, those that counted.
        seconds: that it took.
        rate: FLOP/s of this rank's device.
        joules: of all GPUs, or why that is not known.
        price_per_hour: of the machine; 0 where it is not known.
    """
    on_gpu, known = device().type == "cuda", not isinstance(joules, str)
    rate *= ranks.count() if on_gpu else 1  # several processes on a CPU share its cores
    return Cost(
        seconds=round(seconds, 2),
        tokens=tokens,
        supervised_tokens=supervised,
        tokens_per_s=round(tokens / seconds, 1),
        supervised_tokens_per_s=round(supervised / seconds, 2),
        mfu=flops(network, tokens, supervised) / seconds / rate,
        mfu_formula=FORMULA,
        device_tflops=rate / 1e12,
        peak_rss_mib=runtime.peak_rss_mib(),
        peak_gpu_mib=torch.cuda.max_memory_allocated() >> 20 if on_gpu else None,
        gpu_hours=ranks.count() * seconds / 3600 if on_gpu else 0.0,
        energy_kwh=float(joules) / 3.6e6 if known else None,
        energy_source="NVML, the whole GPU" if known else str(joules),
        price=price_per_hour * seconds / 3600 if price_per_hour else None,
    )


def device() -> torch.device:
    """What this rank trains on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def flops(network: torch.nn.Module, tokens: int, supervised: int) -> float:
    """The useful FLOPs of a training: 2 forward, 2 for the gradient of what comes in, 2 for that of a trained weight.

    Args:
        network: a transformers model, or one with an adapter.
        tokens: computed.
        supervised: of these, predicted ones that counted; the output layer computes no others.
    """
    output = network.get_output_embeddings()  # type: ignore[operator]
    total = 0
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            # Not numel: two 4-bit weights are one number.
            weights = module.in_features * module.out_features
            total += (6 if module.weight.requires_grad else 4) * weights * (supervised if module is output else tokens)
    return float(total)


def matmul_rate(device: torch.device, bf16: bool) -> float:
    """FLOP/s of the device's best product of two square matrices out of those of a third of a second, in training's precision."""
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    # A generator of its own: training's random numbers stay those of its seed.
    dice = torch.Generator(device).manual_seed(0)
    one = torch.rand(size, size, device=device, generator=dice).to(torch.bfloat16 if bf16 else torch.float32)
    best, until = float("inf"), time.perf_counter() + MEASURED_S
    for first in range(1000):
        _wait_for(device)
        begun = time.perf_counter()
        one @ one
        _wait_for(device)
        ended = time.perf_counter()
        if first:  # which also chooses a kernel
            best = min(best, ended - begun)
            if ended > until:
                break
    return float(2 * size**3 / best)


def gpu_joules() -> float | str:
    """What this rank's GPU has used since its driver was loaded, as NVML counts it; or in words why that is not known."""
    if not torch.cuda.is_available():
        return "no GPU"
    # By its UUID: NVML counts also the GPUs that CUDA_VISIBLE_DEVICES hides.
    return nvml_joules(f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}")


def nvml_joules(uuid: str) -> float | str:
    """The same, for the GPU of this UUID."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1000
    except pynvml.NVMLError as error:
        return f"NVML: {error}"


def of_all(joules: float | str) -> float | str:
    """What the GPUs of all ranks have used, if each rank knows that of its own."""
    total = torch.tensor(float("nan") if isinstance(joules, str) else joules, dtype=torch.float64, device=device())
    ranks.add_up([total])
    if isinstance(joules, str):
        return joules
    return "not known of every GPU" if total.isnan() else total.item()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
