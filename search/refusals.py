"""Candidates that a study refused, one after the other, before it found one to evaluate."""

from collections import Counter
from collections.abc import Mapping

from hwmodel.errors import CrossfrontError, OutOfRangeError, StudyError
from search.objectives import parse_bound

__all__ = ["Refusals"]

_TOLD_AFTER = (20, 100, 250)
"""Refusals in a row after which it is said, so that nobody waits for a search that cannot begin."""


class Refusals:
    """Refusals in a row, with the bounds that they broke."""

    def __init__(self) -> None:
        self.count = 0
        self._blamed: Counter[str] = Counter()
        self._nearest: dict[str, float] = {}
        self._unpriced: OutOfRangeError | None = None

    def unpriced(self, error: OutOfRangeError) -> None:
        """Counts a candidate with an ADC that the law does not know."""
        self.count += 1
        self._unpriced = error

    def broke(self, violations: Mapping[str, float]) -> None:
        """Counts a candidate that breaks a bound.

        Args:
            violations: by how much, by the text of every bound.
        """
        self.count += 1
        self._blamed.update(bound for bound, violation in violations.items() if violation > 0)
        for bound, violation in violations.items():
            self._nearest[bound] = min(violation, self._nearest.get(bound, violation))

    @property
    def news(self) -> str | None:
        """What to tell now; None most of the time."""
        return f"{self}; still looking" if self.count in _TOLD_AFTER else None

    def error(self) -> CrossfrontError:
        """What ends a search that finds nothing else."""
        if self._unpriced is not None and not self._blamed:
            return self._unpriced
        return StudyError(f"{self}; loosen that constraint or widen the space")

    def __str__(self) -> str:
        """How many, why most of them, and how near they came."""
        if not self._blamed:
            return f"{self.count} candidates in a row cannot be priced: {self._unpriced}"
        bound, times = self._blamed.most_common(1)[0]
        return (
            f"{times} of {self.count} candidates in a row break {bound!r} before any training, the "
            f"nearest with {parse_bound(bound).at(self._nearest[bound])}"
        )
