"""Front members trained anew under further seeds, so that luck leaves the front.

A repeat is a trial of the same study: a member's candidate under another seed, trained as far as
the member was. It counts against no budget and is on no front itself. The member stands on the
front, or not, by its means: over its own measurement and those of its repeats.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

__all__ = ["REPEATED", "Repeat", "Spread", "repeat_by", "spreads"]

REPEATED = "repeated"
"""The status of a repeat that has measured."""


@dataclass(frozen=True, slots=True, order=True)
class Repeat:
    """Names a repeat: of which trial, and which of its repeats, counted from 1."""

    index: int
    member: int

    def attributes(self) -> dict[str, int]:
        """As a trial's user attributes."""
        return {"repeat_of": self.member, "repeat": self.index}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What one objective came to over several seeds."""

    mean: float
    min: float
    max: float


def repeat_by(trial: FrozenTrial) -> Repeat | None:
    """The repeat that a trial is; None of a trial that proposes something new."""
    known = trial.user_attrs
    return Repeat(known["repeat"], known["repeat_of"]) if "repeat_of" in known else None


def spreads(measured: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Mean and limits of each value that was measured one or more times."""
    found = {name: [values[name] for values in measured] for name in measured[0]}
    return {
        name: Spread(mean=statistics.fmean(row), min=min(row), max=max(row))
        for name, row in found.items()
    }
