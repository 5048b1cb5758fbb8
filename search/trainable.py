"""What runs in a worker: one actor evaluates one candidate after the other."""

import json
import os
import threading
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from hwmodel.errors import StorageError
from search.config import read_config
from search.evaluate import FAILED, Evaluation, Problem, evaluate, load_problem
from search.folder import StudyFolder
from spaces.candidate import Candidate
from trainers.fit import EpochReport

__all__ = ["CandidateTrainable"]


class CandidateTrainable(tune.Trainable):
    """Evaluates candidates; the actor and the data it loaded are reused between trials."""

    def setup(self, config: dict[str, Any], study: dict[str, Any] | None = None) -> None:
        """Loads the study's problem once per actor.

        Args:
            config: `candidate`, `rung` and `root` of the first proposal.
            study: `config`, `storage` and `name` of the study.
        """
        import torch

        assert study is not None
        self.folder = StudyFolder(Path(study["storage"]), study["name"])
        self.problem: Problem | None = None
        try:
            settings = read_config(study["config"])
            torch.set_num_threads(settings.train.threads)
            self.problem = load_problem(settings)
        except Exception as error:  # every trial will say why it could not begin
            self.broken = _reason(error)

    def step(self) -> dict[str, Any]:
        """One whole evaluation; an unforeseen error fails this trial alone, with its reason."""
        import torch

        root = int(self.config["root"])
        candidate = Candidate.from_json(self.config["candidate"])
        if self.problem is None:
            evaluation = Evaluation(status=FAILED, reason=f"the worker: {self.broken}")
            return {"evaluation": json.dumps(evaluation.to_json()), "done": True}
        watch = _Watch(self.problem.config.ray.epoch_limit_s)
        try:
            evaluation = evaluate(
                self.problem,
                candidate,
                self.folder.dense_weights,
                self.folder.checkpoint(root),
                rung=int(self.config["rung"]),
                state=self.folder.training(root),
                report=watch.renew,
            )
        except StorageError as error:  # of no candidate's making: the driver ends the search
            return {"storage": str(error), "done": True}
        except Exception as error:
            evaluation = Evaluation(status=FAILED, reason=_reason(error))
        finally:
            watch.stop()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"evaluation": json.dumps(evaluation.to_json()), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next candidate; nothing of the last one is kept but data."""
        self.config = new_config
        return True


class _Watch:
    """Ends this process if it is not renewed in time: nothing else stops a call that hangs.

    Args:
        limit_s: seconds between two renewals; None for no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._timer: threading.Timer | None = None
        self.renew()

    def renew(self, _: EpochReport | None = None) -> None:
        """Begins the time anew."""
        self.stop()
        if self.limit_s is not None:
            self._timer = threading.Timer(self.limit_s, os._exit, [1])
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Watches no more."""
        if self._timer is not None:
            self._timer.cancel()


def _reason(error: Exception) -> str:
    """An error in one line, with the place that raised it."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    reason = f"{type(error).__name__} at {place}: {' '.join(str(error).split())}"
    return f"out of memory: {reason}" if _is_out_of_memory(error) else reason


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU or torch's allocator on the CPU had no memory left."""
    import torch

    return isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)
