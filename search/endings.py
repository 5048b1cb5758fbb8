"""What is new in a study since somebody looked last.

A trial that has ended never changes, so whoever keeps count of trials, mirrors or models them needs
to look at each only once, however long the study is.
"""

from collections.abc import Sequence

from optuna.trial import FrozenTrial

__all__ = ["Endings"]


class Endings:
    """Tells each trial of a study that has ended, once."""

    def __init__(self) -> None:
        self.unended: list[FrozenTrial] = []
        """Trials that were queued or under way at the last look, oldest first."""
        self._seen = 0

    def look(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that have ended since the last look.

        Args:
            trials: all of the study, oldest first.
        """
        before = [trials[trial.number] for trial in self.unended]
        looked = [*before, *trials[self._seen :]]
        self._seen = len(trials)
        self.unended = [trial for trial in looked if not trial.state.is_finished()]
        return [trial for trial in looked if trial.state.is_finished()]
