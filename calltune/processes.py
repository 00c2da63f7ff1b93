"""Child processes that end with their parent, however it ends: after SIGKILL only the kernel can tell them."""

import ctypes
import signal

# Loaded at import: between fork and exec nothing else may be done.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """In a child: have the kernel send this process a signal when the thread that started it has ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
