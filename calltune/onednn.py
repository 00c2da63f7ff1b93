"""Matrix products on a CPU by oneDNN, the faster of the two libraries that torch has for them."""

import os

import torch

KERNELS_KEPT = 128
"""Kernels that oneDNN keeps with their buffers; by itself, 1,024."""
TRIED = 256
"""Size of the square matrices whose product shows in which precision it is computed."""
ROUNDING = 1e-5
"""Of a product beside its largest number: float32 is off by less than a tenth of this, bf16 by more than a hundred times."""


def prefer() -> None:
    """Have this process keep few of oneDNN's kernels, and compute float32 products by it where that is float32, too.

    It compiles a kernel for each size of a product, and packs and answers have sizes of their own: kept, they come to 17 MB a
    step of training, and are hardly ever used again. One pack's, layer after layer, are less than a hundred.

    For float32 torch takes MKL, which on an AMD CPU reaches a third to a half of oneDNN's speed (docs/tuning.md), and oneDNN
    only where bf16 is allowed inside of a product. That rounds on a CPU with AMX and on none other, so it is tried.

    Call it before the first product: oneDNN reads the variable then.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS_KEPT))
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    if not _exact():
        settings.fp32_precision = before


def _exact() -> bool:
    dice = torch.Generator().manual_seed(0)
    one = torch.randn(TRIED, TRIED, generator=dice)
    expected = one.double() @ one.double()
    return bool((one @ one - expected).abs().max() <= ROUNDING * expected.abs().max())
