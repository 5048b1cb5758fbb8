"""How far long work is, for whoever watches; nobody does unless the command line asks for it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["Watcher", "track", "watched_by"]

T = TypeVar("T")
Watcher = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Gives back the items one by one, told what they are and how many come."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def track(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    """The items, under the eyes of the watcher if there is one."""
    watcher = _watcher.get()
    return items if watcher is None else watcher(items, what, count)


@contextmanager
def watched_by(watcher: Watcher | None) -> Iterator[None]:
    """Everything tracked within goes through the watcher."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
