"""The bridge from Ray Tune to the study: a searcher without any memory of its own."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from hwmodel.errors import ClusterError, CrossfrontError, StorageError
from search.evaluate import Evaluation, Problem
from search.storage import disk_errors
from search.study import Proposal, Study
from spaces.candidate import Candidate
from spaces.space import Space

__all__ = ["ForgetEnded", "StudySearcher"]

_PATIENCE_S = 0.2
"""How long Tune's loop waits for a proposal before it looks after its workers again."""
_LOST = "its worker process died, could not start, or took too long for an epoch"
_ORPHANS_S = 20.0
"""How often a driver without work looks for trials that others have left behind."""


class _NotYetError(Exception):
    """The thread that samples is still at it."""


class _StoppedError(Exception):
    """The search is over while the thread samples."""


class StudySearcher(Searcher):
    """Asks the study for candidates and tells it what became of them.

    Ray's own snapshots of a searcher stay empty: a new driver opens the study instead.

    Args:
        study: the study, with its dense baseline.
        space: where candidates come from.
        problem: prices candidates before they train.
        on_change: called after every trial that ends, in the driver.
        sampler: gives parameters of a new candidate (default: the study's own sampler does).
        say: told while no candidate keeps the constraints.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        problem: Problem,
        on_change: Callable[[], None],
        sampler: Callable[[], dict[str, Any]] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__()
        self.study = study
        self.space = space
        self.problem = problem
        self._planned_dense = problem.planned_dense()
        self.on_change = on_change
        self.sampler = sampler
        self.say = say
        self.numbers: dict[str, int] = {}
        self.error: CrossfrontError | None = None
        self.seconds = 0.0
        """Time spent here: sampling, journal, tracking and display."""
        self._recording = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "sampler")
        self._asked: Future[Proposal | None] | None = None
        self._looked = time.monotonic()
        self._stopped = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next proposal as a trial's configuration, `FINISHED`, or None: not yet.

        Sampling runs in a thread of its own, so that a slow sampler holds up no worker's result.
        """
        if self.error is not None:
            return str(Searcher.FINISHED)
        try:
            with self._recording, disk_errors(self.study.folder):
                proposal = self._proposed()
        except _NotYetError:
            return None
        except CrossfrontError as error:
            self.error = error
            return str(Searcher.FINISHED)
        if proposal is None:
            return str(Searcher.FINISHED) if self.study.over else None
        self.numbers[trial_id] = proposal.number
        return {
            "number": proposal.number,
            "candidate": json.dumps(proposal.candidate.to_json()),
            "rung": proposal.rung,
            "root": proposal.root,
        }

    def _proposed(self) -> Proposal | None:
        """What the thread that samples has found; without work, orphans are looked for.

        Raises:
            _NotYetError: it has not found anything yet.
        """
        if self._asked is None:
            self._asked = self._thread.submit(self._propose)
        done, _ = wait([self._asked], timeout=_PATIENCE_S)
        if not done:
            raise _NotYetError
        asked, self._asked = self._asked, None
        proposal = asked.result()
        idle = proposal is None and not self.study.over
        if idle and time.monotonic() - self._looked > _ORPHANS_S:  # another driver may have died
            self.study.requeue_interrupted()
            self._looked = time.monotonic()
        return proposal

    def _propose(self) -> Proposal | None:
        started = time.perf_counter()
        try:
            return self.study.propose(
                self.space, self._plan, self._planned_dense, self.sampler, self.say
            )
        finally:
            self.seconds += time.perf_counter() - started

    def _plan(self, candidate: Candidate) -> dict[str, float]:
        """Planned costs.

        Raises:
            _StoppedError: nobody waits for a proposal any more; its trial is given back later.
        """
        if self._stopped:
            raise _StoppedError
        return self.problem.planned_costs(candidate)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Trials report once, at their end."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Ends the trial in the study; one stopped from outside stays open, to be run again."""
        started = time.perf_counter()
        number = self.numbers.pop(trial_id)
        try:
            with self._recording, disk_errors(self.study.folder):
                if result is not None and "evaluation" in result:
                    measured = Evaluation.from_json(json.loads(result["evaluation"]))
                    self.study.finish(number, measured)
                elif result is not None and "storage" in result:
                    raise StorageError(result["storage"])
                elif result is not None and "broken" in result:
                    self.study.give_back(number, result["broken"])
                    self.error = self.error or ClusterError(result["broken"])
                elif result is not None and "lost" in result:
                    self.study.give_back(number, result["lost"])
                elif error:
                    self.study.give_back(number, _LOST)
                self.on_change()
        except CrossfrontError as found:  # what is not told stays open, to be run again
            self.error = self.error or found
        self.seconds += time.perf_counter() - started

    def give_back_all(self, reason: str) -> None:
        """Gives back what was under way when Ray Tune broke off."""
        for trial_id in list(self.numbers):
            self.study.give_back(self.numbers.pop(trial_id), reason)
        self.on_change()

    def stop(self) -> None:
        """Proposes and records no more, once nothing is half recorded; from any thread."""
        self._stopped = True
        self._recording.acquire()
        self._thread.shutdown(cancel_futures=True)

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


class ForgetEnded(Callback):
    """Empties what Tune keeps of trials that have ended: the study has it.

    Tune holds every trial of a search until it is over, each with its result and with statistics of
    every metric, which in a search of thousands is most of the driver's memory.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called once the searcher has recorded the result."""
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        trial.run_metadata.last_result = {"done": True}
