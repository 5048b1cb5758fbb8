"""What runs in a worker: one actor evaluates one candidate after the other."""

import json
import os
import shutil
import socket
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from hwmodel.errors import StorageError, StudyError
from search.config import read_config
from search.evaluate import FAILED, Evaluation, Problem, evaluate, load_problem
from search.exchange import Exchange
from search.folder import StudyFolder
from search.inputs import find_inputs
from spaces.candidate import Candidate
from trainers.fit import EpochReport

__all__ = ["CandidateTrainable"]

_STORE_PATIENCE_S = 120.0
"""How long a worker waits for an object store that does not answer."""


class CandidateTrainable(tune.Trainable):
    """Evaluates candidates; the actor and the data it loaded are reused between trials."""

    def setup(self, config: dict[str, Any], study: dict[str, Any] | None = None) -> None:
        """Loads the study's problem once per actor.

        Args:
            config: `candidate`, `rung` and `root` of the first proposal.
            study: `config`, `storage` and `name` of the study, and the `inputs` that were sent.
        """
        import torch

        assert study is not None
        place = study["config"]["study"].get("storage_path")
        self.scratch = None if place is None else Path(tempfile.mkdtemp(prefix="crossfront-"))
        self.folder = StudyFolder(self.scratch or Path(study["storage"]), study["name"])
        self.problem: Problem | None = None
        try:
            self.exchange = Exchange(place, self.folder, _STORE_PATIENCE_S)
            settings = read_config(find_inputs(self.exchange, study["config"], study["inputs"]))
            torch.set_num_threads(settings.train.threads)
            self.problem = load_problem(settings)
        except Exception as error:  # for the driver, which ends the search
            self.broken = _reason(error)

    def step(self) -> dict[str, Any]:
        """One whole evaluation; an unforeseen error fails this trial alone, with its reason."""
        import torch

        root = int(self.config["root"])
        candidate = Candidate.from_json(json.loads(self.config["candidate"]))
        if self.problem is None:  # it would have every candidate at once, and fail them all
            return {"broken": f"a worker on {socket.gethostname()}: {self.broken}", "done": True}
        watch = _Watch(self.problem.config.ray.epoch_limit_s)
        checkpoint, state = self.folder.checkpoint(root), self.folder.training(root)

        def after_epoch(_: EpochReport) -> None:
            self.exchange.offer(state)
            watch.renew()

        try:
            self.exchange.fetch(state)
            evaluation = evaluate(
                self.problem,
                candidate,
                self.exchange.bring(self.folder.dense_weights),
                checkpoint,
                rung=int(self.config["rung"]),
                state=state,
                report=after_epoch,
            )
            if evaluation.status != FAILED:
                self.exchange.put(checkpoint)
        except StorageError as error:  # of no candidate's making: the driver ends the search
            return {"storage": str(error), "done": True}
        except StudyError as error:  # of the exchange alone: `evaluate` reports a candidate's own
            return {"lost": str(error), "done": True}
        except Exception as error:
            evaluation = Evaluation(status=FAILED, reason=_reason(error))
        finally:
            watch.stop()
            if self.scratch is not None:
                shutil.rmtree(checkpoint.parent, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"evaluation": json.dumps(evaluation.to_json()), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next candidate; nothing of the last one is kept but data."""
        self.config = new_config
        return True

    def cleanup(self) -> None:
        """Leaves nothing of its own on this node."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


class _Watch:
    """Ends this process if it is not renewed in time: nothing else stops a call that hangs.

    Args:
        limit_s: seconds between two renewals; None for no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._timer: threading.Timer | None = None
        self.renew()

    def renew(self) -> None:
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
