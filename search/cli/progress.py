"""Progress of long work: bars on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
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

__all__ = ["LINE_EVERY_S", "Pace", "draws_live", "progress_bars"]

LINE_EVERY_S = 10.0
"""Between two lines of progress in a log."""


def draws_live(console: Console) -> bool:
    """Whether it is a terminal that can redraw a line; colours forced upon a log make none."""
    return console.file.isatty() and console.is_interactive


def progress_bars(*, quiet: bool = False) -> AbstractContextManager[None]:
    """Within it, what takes long says how far it is, at what rate, and how long it will take.

    On standard error: as bars on a terminal, elsewhere as a line every ten seconds.

    Args:
        quiet: say nothing.
    """
    console = Console(stderr=True)
    if quiet:
        return watched_by(None)
    return _bars(console) if draws_live(console) else _lines(console)


@dataclass(slots=True)
class Pace:
    """How fast work goes on, as text.

    Args:
        what: the work and its unit.
        count: how many there are.
        first: how many were done before.
    """

    what: str
    count: int
    first: int = 0
    done: int = 0
    started: float = field(default_factory=lambda: time.monotonic())

    def __str__(self) -> str:
        """What, how many, at what rate, and what is left."""
        return f"{self.what} {self.done}/{self.count}{self.ahead}"

    @property
    def ahead(self) -> str:
        """The rate and the time left, behind a comma; nothing before anything is done."""
        rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        if rate <= 0:
            return ""
        left = timedelta(seconds=round(max(0, self.count - self.done) / rate))
        return f", {_per_time(rate)}, {left} left"


def _per_time(rate: float) -> str:
    """A rate per second, or per minute where that is slow."""
    return f"{rate:.3g}/s" if rate >= 0.1 else f"{60 * rate:.3g}/min"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _per_time(speed))


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


@contextmanager
def _lines(console: Console) -> Iterator[None]:
    open_paces: list[Pace] = []
    last = 0.0

    def watch(items: Iterable[Any], what: str, count: int) -> Iterator[Any]:
        nonlocal last
        pace = Pace(what, count)
        open_paces.append(pace)
        try:
            for item in items:
                yield item
                pace.done += 1
                now = time.monotonic()
                if now >= max(last, open_paces[0].started) + LINE_EVERY_S:
                    text = "; ".join(map(str, open_paces))
                    console.print(text, markup=False, highlight=False, soft_wrap=True)
                    last = now
        finally:
            open_paces.remove(pace)

    with watched_by(watch):
        yield
