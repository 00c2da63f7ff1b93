"""Memory that training on a CPU would otherwise hand back and forth, or keep for nothing."""

import ctypes
import os

KERNELS_KEPT = 32
"""Kernels that oneDNN, which computes bf16 products on a CPU, keeps with their buffers; by itself, 1,024."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt`, as glibc's malloc.h numbers them."""


def keep_freed_memory() -> None:
    """Have glibc reuse the blocks that every step of training frees, instead of handing them back to the kernel.

    It gives them again page by page, zeroed, which can take a sixth of a step's time (docs/tuning.md). Blocks above 32 MiB
    still go back: kept too, they leave holes, and memory grew to 7.6 GiB in 50 steps instead of 4. Another C library has no
    such setting, and on a GPU it changes nothing.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        for parameter, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            adjust(parameter, value)


def keep_few_kernels() -> None:
    """Have oneDNN keep few kernels: it makes one for each size of a product, and every pack has sizes of its own.

    Kept, they come to 17 MB a step until there are 1,024, and are hardly ever used again (docs/tuning.md). It reads the
    variable at its first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS_KEPT))
