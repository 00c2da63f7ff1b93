"""What training cost, in words: from train's `metrics.json`."""

from collections.abc import Mapping
from typing import Any

from components.report import words

SHOWN = (
    *("seconds", "tokens_per_s", "supervised_tokens_per_s", "mfu", "mfu_formula", "device_tflops"),
    *("peak_rss_mib", "peak_gpu_mib", "gpu_hours", "energy_kwh", "energy_source", "price"),
)
"""The keys of `metrics.json` that are told here, and not among training's other figures."""


def costs(train: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each figure, in the order in which they are to stand."""
    speed = f"{words.number(train['tokens_per_s'])} a second, {words.number(train['supervised_tokens_per_s'])} supervised"
    used = f"{100 * train['mfu']:.1f} % of {words.number(train['device_tflops'])} TFLOP/s, this device's measured matrix product"
    on_gpu = train["peak_gpu_mib"] is not None
    memory = words.memory(train["peak_rss_mib"]) + (f", GPU {words.memory(train['peak_gpu_mib'])}" if on_gpu else "")
    known = train["energy_kwh"] is not None
    energy = f"{train['energy_kwh']:.3g} kWh ({train['energy_source']})" if known else f"not known: {train['energy_source']}"
    rows = [
        ("Time", words.duration(train["seconds"])),
        ("Tokens", speed),
        ("MFU", used),
        ("Peak memory", memory),
        ("GPU-hours", words.number(train["gpu_hours"]) + ("" if on_gpu else ", trained on the CPU")),
        ("Energy of the GPU", energy),
    ]
    return [*rows, ("Price", f"{train['price']:,.2f}")] if train["price"] is not None else rows
