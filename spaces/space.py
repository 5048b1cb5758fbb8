"""The define-by-run protocol of search spaces."""

from typing import Any, Protocol

from spaces.candidate import Candidate

__all__ = ["Space", "Suggester"]


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
