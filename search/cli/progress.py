"""Progress bars, on a terminal alone."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from trainers.progress import watched_by

__all__ = ["draws_live", "progress_bars"]


def draws_live(console: Console) -> bool:
    """Whether it is a terminal that can redraw a line; colours forced upon a log make none."""
    return console.file.isatty() and console.is_interactive


def progress_bars(*, quiet: bool = False) -> AbstractContextManager[None]:
    """Within it, what takes long draws bars with rate and time left on standard error.

    Args:
        quiet: draw nothing.
    """
    console = Console(stderr=True)
    return watched_by(None) if quiet or not draws_live(console) else _bars(console)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


@contextmanager
def _bars(console: Console) -> Iterator[None]:
    open_bars: list[Progress] = []

    def watch(items: Iterable[Any], what: str, count: int) -> Iterator[Any]:
        outermost = not open_bars
        if outermost:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None))
            more = (MofNCompleteColumn(), _Rate(), TimeRemainingColumn(compact=True))
            open_bars.append(Progress(*columns, *more, console=console, transient=True))
            open_bars[0].start()
        bars = open_bars[0]
        task = bars.add_task(what, total=count)
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                open_bars.clear()

    with watched_by(watch):
        try:
            yield
        finally:
            for bars in open_bars:
                bars.stop()
