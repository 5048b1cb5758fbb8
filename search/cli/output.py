"""What the commands about studies print for people."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hwmodel.crossbar import CrossbarSpec
from hwmodel.extras import missing
from search.blame import why_empty
from search.cli.progress import LINE_EVERY_S, Pace, draws_live
from search.endings import Endings
from search.folder import DEFAULT_STORAGE
from search.objectives import COSTS
from search.repeats import REPEATED, repeat_by
from search.report import over_seeds, ratios
from search.rescore import Rescored
from search.run import Outcome
from search.study import Study
from search.trials import (
    MEASURED,
    PROJECTED,
    candidate_of,
    counted_outcomes,
    outcome_word,
    status,
    values,
)
from search.units import display_name, display_number, display_value

__all__ = [
    "StudyDisplay",
    "front_table",
    "print_rescored",
    "print_summary",
]

_WITHIN = 0.01
_RATIOS = "times less than the trained dense network, with the ADCs that it is certified for"
_SHOWN = ("accuracy", "robust_accuracy", "adc_area", "adc_power", "area", "power")
_NARROW, _SHOWN_NARROW = 80, ("accuracy", "adc_area", "area", "power")


class StudyDisplay:
    """A live table on a terminal; elsewhere one plain line per trial, on standard error.

    Args:
        quiet: show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._endings: Endings | None = None
        self._started = self._said = time.monotonic()
        self._pace: Pace | None = None

    def message(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, study: Study) -> None:
        """Shows the trials that ended since the last call, and the front."""
        if self._quiet:
            return
        if self._endings is None:  # what ended before is not shown
            self._endings = Endings()
            self._endings.look(study.trials())
            self._started = time.monotonic()
        new = self._endings.look(study.trials())
        if not draws_live(self._console):
            for trial in new:
                if not trial.user_attrs.get("scan"):
                    self.message(_trial_line(study, trial))
            if any(trial.user_attrs.get("scan") for trial in new):
                self._scan_line(study)
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        self._live.update(self._panel(study))

    def _scan_line(self, study: Study) -> None:
        measured, left = _scanned(study)
        if left == 0:
            self.message(f"the scan is done: {measured} candidates are measured")
        elif time.monotonic() >= self._said + LINE_EVERY_S:
            self._said = time.monotonic()
            self.message(str(self._measure(study)))

    def _measure(self, study: Study) -> Pace:
        """How far the scan is, and once that is done, how far the budget is spent."""
        measured, left = _scanned(study)
        what = "scanned" if left else "trials"
        done, count = (
            (measured, measured + left) if left else (study.spent, study.config.study.trials)
        )
        if self._pace is None or self._pace.what != what:
            self._pace = Pace(what, count, first=done)
        self._pace.done, self._pace.count = done, count
        return self._pace

    def close(self) -> None:
        """Ends the live table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _panel(self, study: Study) -> Table:
        counts = counted_outcomes(study.counts())
        budget = study.config.study.trials
        elapsed = time.monotonic() - self._started
        ahead = self._measure(study).ahead
        table = front_table(study, narrow=self._console.width < _NARROW)
        table.title = f"{study.folder.name}: {study.spent}/{budget} trials ({counts or 'none yet'})"
        measured, left = _scanned(study)
        if left:
            table.title += f", scanned {measured} of {measured + left}"
        table.caption = f"{elapsed:.0f} s, hypervolume {study.hypervolume():.4f}{ahead}"
        return table


def front_table(study: Study, *, narrow: bool = False) -> Table:
    """The front, best accuracy first, with the dense network in the last row.

    Args:
        study: with its baseline or without.
        narrow: leave out what does not fit into 60 columns.
    """
    front = study.front()
    spread = {trial.number: over_seeds(study, trial, "accuracy") for trial in front}
    members = list(zip(front, study.all_means(front), strict=True))
    table = _members_table(members, {} if narrow else spread, narrow=narrow)
    if study.dense is not None:
        _add_dense(table, study, study.dense.values, narrow=narrow)
    return table


def print_rescored(study: Study, rescored: Rescored) -> None:
    """The front under another ADC law with its ratios, and who left or joined it.

    Args:
        study: as it was searched.
        rescored: the same under the other law.
    """
    console = Console(width=None if sys.stdout.isatty() else 132)
    table = _members_table(rescored.front, {})
    table.title = f"under the ADC law {rescored.law}"
    _add_dense(table, study, rescored.dense)
    console.print(table)
    if rescored.front:
        _print_ratios(console, rescored.dense, rescored.front)
    for what, numbers in (("leave", rescored.left), ("join", rescored.joined)):
        named = ", ".join(map(str, numbers)) or "none"
        console.print(f"trials that {what} the front: {named}", highlight=False)
    _print_hypervolume(console, rescored.hypervolume)


def _members_table(
    members: Sequence[tuple[FrozenTrial, Mapping[str, float]]],
    spread: Mapping[int, str],
    *,
    narrow: bool = False,
) -> Table:
    """The members; `spread` says between what limits their accuracies lie, if that is known."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False) if narrow else Table()
    table.add_column("trial", justify="right")
    shown = _shown(members[0][1] if members else {}, narrow=narrow)
    for name in shown:
        table.add_column(display_name(name), justify="right")
    table.add_column("crossbar", justify="right")
    if not narrow:
        table.add_column("ADC bits by layer")
    if any(spread.values()):
        table.add_column("accuracy over seeds", no_wrap=True)
    for trial, found in sorted(members, key=lambda member: -member[1]["accuracy"]):
        table.add_row(
            str(trial.number),
            *[display_number(name, found[name]) for name in shown],
            _size(candidate_of(trial).plan.default),
            *([] if narrow else [_bits(trial.user_attrs["evaluation"]["adc_bits"])]),
            *([spread[trial.number]] if any(spread.values()) else []),
        )
    return table


def _add_dense(
    table: Table, study: Study, found: Mapping[str, float], *, narrow: bool = False
) -> None:
    """The last row: the dense network, on the crossbar of the preset."""
    assert study.dense is not None  # `found` is what it came to
    table.add_section()
    row = [display_number(name, found[name]) for name in _shown(found, narrow=narrow)]
    row.append(_size(study.config.hardware.load_preset().crossbar))
    table.add_row("dense", *row, *([] if narrow else [_bits(study.dense.adc_bits)]))


def _shown(found: Mapping[str, float], *, narrow: bool) -> tuple[str, ...]:
    """The columns of a table of members; robust accuracy where it was measured."""
    chosen = _SHOWN_NARROW if narrow else _SHOWN
    return tuple(name for name in chosen if name in found or name != "robust_accuracy")


def print_summary(study: Study, outcome: Outcome | None, *, quiet: bool = False) -> None:
    """The front, its ratios, where everything is, and what to type next.

    Args:
        study: finished or running.
        outcome: of the run that has just ended, if one has.
        quiet: the front and its ratios alone.
    """
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(front_table(study, narrow=console.width < _NARROW))
    front, dense, config = study.front(), study.dense, study.config.hardware
    if front and dense is not None:
        members = list(zip(front, study.all_means(front), strict=True))
        _print_ratios(console, dense.values, members)
        _print_hypervolume(console, study.hypervolume())
        settings = f"ADC law {config.law}, policy {config.policy}, preset {config.preset}"
        console.print(settings, markup=False, highlight=False, soft_wrap=True)
    else:
        ended = counted_outcomes(study.counts()) or "none has ended"
        empty = f"no trial is on the front ({ended}): {why_empty(study)}"
        console.print(empty, markup=False, highlight=False, soft_wrap=True)
    if quiet:
        return
    name, folder = study.folder.name, study.folder
    lines = []
    if outcome is not None:
        lines += _timing(study, outcome)
        if not outcome.mirrored:
            lines.append(f"MLflow is behind; 'crossfront resume {name}' sends the rest")
    option = (
        ""
        if folder.storage == DEFAULT_STORAGE
        else f" --storage {shlex.quote(str(folder.storage))}"
    )
    report = folder.path / "report.html"
    following = [] if missing("tracking") else [f"  crossfront ui {name}{option}"]
    if front:
        following += [
            f"  crossfront export {name}{option} --select knee --to out/",
            "  crossfront verify out/",
        ]
    lines += [
        f"study     {folder.path}",
        *([f"report    {report}"] if report.exists() else []),
        f"tables    {folder.path / 'front.parquet'}, trials.parquet",
        *(["next:", *following] if following else []),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_ratios(
    console: Console,
    dense: Mapping[str, float],
    members: Sequence[tuple[FrozenTrial, Mapping[str, float]]],
) -> None:
    """Ratios of each front member against dense, and the best within a point of accuracy."""
    table = Table(title=_RATIOS, title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("accuracy lost", justify="right")
    for name in COSTS:
        table.add_column(name, justify="right")
    best: dict[str, tuple[float, int]] = {}
    for trial, mean in sorted(members, key=lambda member: -member[1]["accuracy"]):
        found = ratios(dict(dense), dict(mean))
        lost = dense["accuracy"] - mean["accuracy"]
        table.add_row(str(trial.number), f"{lost:.4f}", *[f"{r:.2f}" for r in found.values()])
        if lost <= _WITHIN + 1e-9:
            for name, ratio in found.items():
                best[name] = max(best.get(name, (0.0, -1)), (ratio, trial.number))
    console.print(table)
    if best:
        parts = [f"{name} {ratio:.2f}x (trial {number})" for name, (ratio, number) in best.items()]
        console.print(
            f"largest ratios at no more than 1 point below dense: {', '.join(parts)}",
            highlight=False,
            soft_wrap=True,
        )


def _print_hypervolume(console: Console, volume: float) -> None:
    console.print(
        f"hypervolume {volume:.4f} (0: no better than the reference point, 1: ideal)",
        highlight=False,
        soft_wrap=True,
    )


def _timing(study: Study, outcome: Outcome) -> list[str]:
    """Where the time of a run went, per trial."""
    if outcome.trials == 0:
        return []
    idle = outcome.search_s * study.config.ray.workers - outcome.worker_s
    parts = {
        "training": outcome.train_s,
        "finalising, measuring and saving": outcome.worker_s - outcome.train_s,
        "of workers' waiting (start-up included)": idle,
        "of the driver": outcome.driver_s,
    }
    each = ", ".join(f"{value / outcome.trials:.2f} s {what}" for what, value in parts.items())
    return [
        f"{outcome.trials} trials in {outcome.search_s:.0f} s, after {outcome.dense_s:.0f} s for "
        f"the dense baseline; per trial: {each}"
    ]


def _scanned(study: Study) -> tuple[int, int]:
    """How many candidates of the scan are measured, and how many are still to be."""
    scan = [trial for trial in study.trials() if trial.user_attrs.get("scan")]
    left = sum(not trial.state.is_finished() for trial in scan)
    return sum(status(trial) == PROJECTED for trial in scan), left


def _trial_line(study: Study, trial: Any) -> str:
    outcome, repeat = status(trial), repeat_by(trial)
    head = (
        f"[{study.spent}/{study.config.study.trials}] trial {trial.number} {outcome_word(outcome)}"
    )
    if repeat is not None:
        head += f" (trial {repeat.member} under another seed)"
    if outcome not in (*MEASURED, REPEATED):
        return f"{head}: {trial.user_attrs.get('reason', '')}"
    found = values(trial)
    shown = [f"{n} {display_value(n, found[n])}" for n in study.config.study.objectives]
    mark = "; on the front" if trial.number in {t.number for t in study.front()} else ""
    return f"{head}: {', '.join(shown)}{mark}"


def _size(spec: CrossbarSpec) -> str:
    return f"{spec.wordlines}x{spec.bitlines}"


def _bits(bits: Mapping[str, int]) -> str:
    """ADC bits in the order of the layers."""
    return " ".join(str(count) for count in bits.values())
