"""What a training was worth its hours by: its useful arithmetic beside what the device can do, its memory and its energy."""

import time
from importlib.util import find_spec

import torch

CPU_SIZE, GPU_SIZE = 1024, 8192
"""Rows and columns of the matrices that the device's rate is measured with."""
MEASURED_S = 0.3
FORMULA = (
    "FLOPs / seconds / device_tflops: 4 FLOPs for each token and weight of a linear layer, 6 where the weight is trained; "
    "of the output layer for supervised tokens only. Attention's own products and recomputed activations count for nothing, "
    "validation and checkpoints do as time"
)
"""How `mfu`, the model FLOPs utilisation, is worked out. Tokens are those computed: a shared prefix once."""


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


def peak_gpu_mib(device: torch.device) -> int | None:
    """The most memory of the GPU that tensors have taken in this process, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) >> 20 if device.type == "cuda" else None


def gpu_joules(device: torch.device) -> float | str:
    """What the GPU has used since its driver was loaded, as NVML counts it; or in words why that is not known."""
    if device.type != "cuda":
        return "no GPU"
    if find_spec("pynvml") is None:
        return "pynvml is not installed (pip install nvidia-ml-py)"
    # By its UUID: NVML counts also the GPUs that CUDA_VISIBLE_DEVICES hides.
    return nvml_joules(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def nvml_joules(uuid: str) -> float | str:
    """The same, for the GPU of this UUID."""
    import pynvml  # type: ignore[import-not-found]

    try:
        pynvml.nvmlInit()
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1000
    except pynvml.NVMLError as error:
        return f"NVML: {error}"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
