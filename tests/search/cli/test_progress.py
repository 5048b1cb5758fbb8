"""Bars on a terminal, a line now and then elsewhere."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import search.cli.progress
from search.cli.output import front_table
from search.cli.progress import Pace, draws_live, progress_bars
from tests.search.fakes import done, new_study, try_one
from trainers.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(monkeypatch: pytest.MonkeyPatch, file: io.StringIO, **more: bool) -> None:
    made = Console(file=file, width=60, _environ={"TERM": "xterm"}, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(search.cli.progress, "Console", lambda stderr: made)


def work() -> list[int]:
    return [
        inner
        for _ in track(range(2), "training, epochs", 2)
        for inner in track(range(3), "batches", 3)
    ]


def test_bars_are_drawn_on_a_terminal_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    console(monkeypatch, screen)
    with progress_bars():
        assert work() == [0, 1, 2, 0, 1, 2]
    assert "training, epochs" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back


def test_cut_short_work_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    console(monkeypatch, screen)

    def interrupted() -> None:
        with progress_bars():
            for _ in track(range(9), "layers", 9):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in screen.getvalue()


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_drawn_if_quiet_or_no_terminal(
    monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    screen = Terminal() if quiet else io.StringIO()
    console(monkeypatch, screen, force_terminal=True)
    with progress_bars(quiet=quiet):
        assert len(work()) == 6
    assert screen.getvalue() == ""


def test_log_gets_a_line_of_all_open_work_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    console(monkeypatch, log)
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("search.cli.progress.time.monotonic", lambda: next(clock))
    with progress_bars():
        work()
    lines = log.getvalue().splitlines()
    assert re.fullmatch(r"training, epochs 0/2; batches \d/3, 0\.\d+/s, 0:00:\d\d left", lines[0])
    assert "training, epochs 1/2" in lines[-1]
    assert 2 <= len(lines) < 6


def test_work_below_ten_seconds_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    console(monkeypatch, log)
    clock = iter([0.0, 1.0] * 50)
    monkeypatch.setattr("search.cli.progress.time.monotonic", lambda: next(clock))
    with progress_bars():
        work()
    assert log.getvalue() == ""


def test_pace_counts_from_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 160.0])
    monkeypatch.setattr("search.cli.progress.time.monotonic", lambda: next(clock))
    pace = Pace("trials", 24, first=10, started=40.0)
    pace.done = 13
    assert str(pace) == "trials 13/24, 3/min, 0:03:40 left"
    assert Pace("trials", 24, started=0.0).ahead == ""


def test_forced_colours_make_no_terminal_of_a_log() -> None:
    assert not draws_live(Console(file=io.StringIO(), _environ={"FORCE_COLOR": "1"}))
    assert not draws_live(Console(file=Terminal(), _environ={"TERM": "dumb"}))


def test_front_fits_into_sixty_columns(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    try_one(study, done(0.8, 0.5))
    screen = Terminal()
    narrow = Console(file=screen, width=60, _environ={"TERM": "xterm", "NO_COLOR": "1"})
    narrow.print(front_table(study, narrow=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", screen.getvalue())  # no colour
