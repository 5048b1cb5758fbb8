"""What the ended trials of a study amount to: counts, the front, rungs and repeats.

Each trial is taken in once; see `search.endings`.
"""

import bisect
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, islice

from optuna.trial import FrozenTrial, TrialState

from search.endings import Endings
from search.evaluate import COMPLETE, FAILED
from search.front import nondominated
from search.repeats import REPEATED, Repeat, Spread, repeat_by, spreads
from search.trials import (
    INTERRUPTED,
    MEASURED,
    PRUNED,
    RUNG,
    epochs_of,
    is_feasible,
    status,
    values,
)

__all__ = ["Ledger"]

Values = Mapping[str, float]


class Ledger:
    """What the ended trials amount to, read once each.

    Args:
        objectives: of the study.
        violations: by how much measured values break each bound.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        violations: Callable[[Mapping[str, float]], Mapping[str, float]],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.front: list[FrozenTrial] = []
        self.epochs = 0
        self.running = 0
        """Trials under way that may come to count against the budget."""
        self.repeats: dict[int, list[FrozenTrial]] = {}
        """Repeats that have ended, by the number of their member."""
        self.repeating: set[Repeat] = set()
        """Repeats under way."""
        self._rungs: defaultdict[int, dict[int, Values]] = defaultdict(dict)
        """What candidates measured on each rung, by their numbers, as they arrived there."""
        self._gone_on: dict[int, int] = {}
        """How many rungs those have left behind that went on from one, by number."""
        self._objectives = objectives
        self._violations = violations
        self._ends: list[tuple[datetime, float]] = []
        """When each trial ended that counts against the budget, and the hypervolume with it."""
        self._endings = Endings()
        self._lock = threading.Lock()  # a driver samples in a thread of its own

    def read(self, look: Callable[[], list[FrozenTrial]]) -> list[FrozenTrial]:
        """Takes in what has ended since the last call; returns all trials.

        Args:
            look: gives them; called here, so that no thread reads an older state than another has.
        """
        with self._lock:
            trials = look()
            self._take_in(trials)
            return trials

    def _take_in(self, trials: Sequence[FrozenTrial]) -> None:
        ended = self._endings.look(trials)
        running, repeating = 0, set()
        for trial in self.unended:
            known = trial.user_attrs
            if "evaluation" in known:  # else it has measured nothing yet
                self._note_rungs(trial)
            repeat = repeat_by(trial)
            if repeat is not None:
                repeating.add(repeat)
            elif trial.state == TrialState.RUNNING and not known.get("scan"):
                running += 1
        repeated, rivals = False, list(self.front)
        for trial in ended:
            self._note_rungs(trial)
            repeat = repeat_by(trial)
            if repeat is None:
                self._count(trial)
                rivals += [trial] if self._counts(trial) else []
            elif status(trial) != INTERRUPTED:
                self.repeats.setdefault(repeat.member, []).append(trial)
                repeated = True
        if repeated:  # whom a member hid may be on the front, now that it is worth less
            rivals = [trial for trial in trials if self._counts(trial)]
        if repeated or len(rivals) > len(self.front):
            self.front = self._undominated(rivals)
        # Last, so that no thread sees a trial neither under way nor counted.
        self.running, self.repeating = running, repeating

    @property
    def volumes(self) -> list[float]:
        """The hypervolume after each trial that counts against the budget, in their order."""
        return list(accumulate((volume for _, volume in self._ends), max))

    @property
    def spent(self) -> int:
        """Trials that count against the budget."""
        return self.counts[COMPLETE] + self.counts[PRUNED] + self.counts[FAILED]

    def members(self) -> list[FrozenTrial]:
        """The front, oldest first."""
        return sorted(self.front, key=lambda trial: trial.number)

    def front_means(self) -> list[dict[str, float]]:
        """What each member of the front stands for, oldest first."""
        return [self.means(trial) for trial in self.members()]

    @property
    def unended(self) -> list[FrozenTrial]:
        """Trials that are queued or under way, oldest first."""
        return self._endings.unended

    def waiting(self) -> list[FrozenTrial]:
        """Queued trials, the next first."""
        return [trial for trial in self.unended if trial.state == TrialState.WAITING]

    def on_rung(self, rung: int, number: int, most: int) -> tuple[Values, list[Values], int]:
        """What a candidate measured on a rung, and its newest mates there.

        Args:
            rung: that it was measured on.
            number: of its trial.
            most: how many mates to look at.

        Returns:
            What it measured; what they did, oldest first; and how many of them went on.
        """
        with self._lock:
            rows = self._rungs[rung]
            newest = [other for other in islice(reversed(rows), most + 1) if other != number]
            mates = newest[:most][::-1]
            gone_on = sum(self._gone_on.get(mate, 0) > rung for mate in mates)
            return rows[number], [rows[mate] for mate in mates], gone_on

    def _note_rungs(self, trial: FrozenTrial) -> None:
        """Takes in what a trial has measured so far; an interrupted one's retry has it."""
        if trial.user_attrs.get("scan") or repeat_by(trial) is not None:
            return
        if status(trial) == INTERRUPTED:
            self._gone_on.pop(trial.number, None)
            for rows in self._rungs.values():
                rows.pop(trial.number, None)
            return
        for key, row in trial.user_attrs.items():
            if key.startswith(RUNG):
                self._rungs[int(key.removeprefix(RUNG))][trial.number] = row["values"]
        if "gone_on" in trial.user_attrs:
            self._gone_on[trial.number] = trial.user_attrs["gone_on"]

    def _count(self, trial: FrozenTrial) -> None:
        outcome = status(trial)
        self.counts[outcome] += 1
        if outcome != INTERRUPTED:
            self.epochs += epochs_of(trial.user_attrs)
        if outcome in (COMPLETE, PRUNED):
            assert trial.datetime_complete is not None
            volume = trial.user_attrs.get("hypervolume", 0.0)
            bisect.insort(self._ends, (trial.datetime_complete, volume))

    def _counts(self, trial: FrozenTrial) -> bool:
        """Whether a trial may be on the front."""
        if status(trial) not in MEASURED:
            return False
        if trial.number not in self.repeats:
            return is_feasible(trial)
        return all(violation <= 0 for violation in self._violations(self.means(trial)).values())

    def _undominated(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        points = [self.means(trial) for trial in trials]
        return [trials[index] for index in nondominated(points, self._objectives)]

    def spreads(self, trial: FrozenTrial) -> dict[str, Spread]:
        """What a measured trial came to over its seeds, by objective."""
        repeats = [t for t in self.repeats.get(trial.number, []) if status(t) == REPEATED]
        return spreads([values(measured) for measured in (trial, *repeats)])

    def means(self, trial: FrozenTrial) -> dict[str, float]:
        """What a measured trial stands for."""
        if trial.number not in self.repeats:
            return values(trial)
        return {name: spread.mean for name, spread in self.spreads(trial).items()}
