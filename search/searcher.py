"""The bridge from Ray Tune to the study: a searcher without any memory of its own."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from hwmodel.errors import CrossfrontError
from search.evaluate import FAILED, Evaluation, Problem
from search.study import Study
from spaces.space import Space

__all__ = ["StudySearcher"]


class StudySearcher(Searcher):
    """Asks the study for candidates and tells it what became of them.

    Ray's own snapshots of a searcher stay empty: a new driver opens the study instead.

    Args:
        study: the study, with its dense baseline.
        space: where candidates come from.
        problem: prices candidates before they train.
        on_change: called after every trial that ends, in the driver.
    """

    def __init__(
        self, study: Study, space: Space, problem: Problem, on_change: Callable[[], None]
    ) -> None:
        super().__init__()
        self.study = study
        self.space = space
        self.problem = problem
        self._planned_dense = problem.planned_dense()
        self.on_change = on_change
        self.numbers: dict[str, int] = {}
        self.error: CrossfrontError | None = None
        self.seconds = 0.0
        """Time spent here: sampling, journal, tracking and display."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next candidate as a trial's configuration, or `FINISHED`."""
        started = time.perf_counter()
        try:
            proposal = self.study.propose(
                self.space, self.problem.planned_costs, self._planned_dense
            )
        except CrossfrontError as error:
            self.error = error
            proposal = None
        finally:
            self.seconds += time.perf_counter() - started
        if proposal is None:
            return str(Searcher.FINISHED)
        self.numbers[trial_id] = proposal.number
        return {"number": proposal.number, "candidate": proposal.candidate.to_json()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Trials report once, at their end."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Ends the trial in the study; one stopped from outside stays open, to be run again."""
        started = time.perf_counter()
        number = self.numbers.pop(trial_id)
        if result is not None and "evaluation" in result:
            self.study.finish(number, Evaluation.from_json(json.loads(result["evaluation"])))
        elif error:
            reason = "the worker process died or could not start"
            self.study.finish(number, Evaluation(status=FAILED, reason=reason))
        self.on_change()
        self.seconds += time.perf_counter() - started

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the study is on disk."""
        Path(checkpoint_path).write_text(json.dumps({"study": self.study.folder.name}))

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        """What Ray pickles into its snapshots: nothing, and no handle on the study."""
        return {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tune limits the number of trials at a time."""
        return False
