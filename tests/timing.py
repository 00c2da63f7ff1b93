"""How long something takes, where a test says that it must not grow with the square of a text's length."""

import time
from collections.abc import Callable


def least_cpu_s(work: Callable[[str], object], text: str) -> float:
    """The least of three tries, in seconds of CPU time, so that what else runs on the machine does not count."""
    taken = []
    for _ in range(3):
        begun = time.process_time()
        work(text)
        taken.append(time.process_time() - begun)
    return min(taken)
