"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable

__all__ = ["until"]


def until(condition: Callable[[], object], seconds: float = 120.0, every: float = 0.2) -> None:
    """Asks again and again until something holds.

    Raises:
        AssertionError: it did not come to hold within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(every)
