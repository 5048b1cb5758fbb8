"""The define-by-run protocol of search spaces."""

from collections.abc import Mapping
from random import Random
from typing import Any, Protocol

from spaces.candidate import Candidate

__all__ = ["Drawn", "Space", "Suggester"]


class Suggester(Protocol):
    """The part of Optuna's `Trial` that a space uses; its dimensions may depend on each other."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer within `low..high`, both included."""


class Space(Protocol):
    """A set of candidates."""

    def suggest(self, trial: Suggester, seed: int) -> Candidate:
        """The candidate that a trial's parameters mean; `seed` becomes the candidate's own."""

    def starts(self) -> list[dict[str, Any]]:
        """Parameters of a few candidates worth trying first."""

    def describe(self) -> dict[str, list[Any]]:
        """What tells this space from others: the choices of each dimension, as plain data."""

    def parameters(self, candidate: Candidate) -> dict[str, int] | None:
        """Parameters that mean this candidate, whatever its seed; None if none do."""

    def scan(self, steps: int, sizes: int) -> list[dict[str, Any]]:
        """Parameters of candidates that change one thing each, in so many steps.

        On so many crossbar heights and widths beside the usual one.
        """


class Drawn:
    """A suggester that draws at random, or near a parent; it records the parameters.

    Args:
        random: draws.
        parent: parameters to stay near; None to draw evenly.
        change: the chance that a parameter of the parent is changed: half of the time to the next
            choice, otherwise to any.
    """

    def __init__(
        self, random: Random, parent: Mapping[str, int] | None = None, change: float = 0.2
    ) -> None:
        self._random = random
        self._parent = parent or {}
        self._change = change
        self.parameters: dict[str, int] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The parent's choice, one near it, or any."""
        value = self._random.randint(low, high)
        known = self._parent.get(name)
        if known is not None:
            if self._random.random() >= self._change:
                value = known
            elif self._random.random() < 0.5:
                value = known + self._random.choice((-1, 1))
        self.parameters[name] = min(max(value, low), high)
        return self.parameters[name]
