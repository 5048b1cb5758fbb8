"""Ctrl-C: the first stops a search cleanly, a second ends it at once, neither in mid-shutdown."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["handler_restored", "interrupts_held"]


@contextmanager
def handler_restored() -> Iterator[None]:
    """Puts back what answered Ctrl-C before: Ray Tune leaves its own answer behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back for what must not end halfway; after that it counts.

    Raises:
        KeyboardInterrupt: it came meanwhile.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    with handler_restored():
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, hold)
        yield
    if held:
        raise KeyboardInterrupt
