"""MLflow as the study's mirror: one parent run, one child run per trial, written by the driver.

The driver never waits for the store. `sync` reads from the study what is new and queues it as
plain data; a thread of the mirror sends it, in order, and repeats what fails until it works. The
study is read by the driver's thread alone (Optuna's storages tell writers apart by thread), and
MLflow is written by the mirror's thread alone.

The queue lives in memory and needs no spool: the study on disk has every result, and the store
itself says which runs it has. So a server that was away, or a driver that was killed, costs
nothing but delay: the next driver compares the two and sends the difference.
"""

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.errors import TrackingError
from search.endings import Endings
from search.environment import describe_environment
from search.evaluate import FAILED
from search.mlflow_store import DataSplit, MlflowStore, TrialRun, is_refusal, reason, register
from search.note import study_note
from search.objectives import ACCURACIES, COSTS
from search.repeats import REPEATED, repeat_by
from search.study import Study
from search.trials import MEASURED, candidate_of, status
from search.urls import shown
from spaces.candidate import Candidate
from trainers.data import Dataset, ImageSource
from trainers.progress import track

__all__ = [
    "MlflowMirror",
    "mirrored_runs",
    "parent_address",
    "register_member",
    "tracking_uri",
]

_LOG = logging.getLogger(__name__)
_STUDY_TAG = "crossfront.study"
_PARENT_NOTE = "mlflow_parent"
_RUN_NOTE = "run."
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_PATIENCE_S = 60.0
_CLOSING_S = 10.0
_NOTE_PAUSE_S = 30.0
_STRENGTHS = {"nonzeros": "nonzeros", "adc_bits": "ADC bits"}
_EXAMPLES = 4


def tracking_uri(study: Study) -> str:
    """Where a study is mirrored: what its configuration says, or the storage's own database."""
    return study.config.mlflow.tracking_uri or study.folder.tracking_uri


def mirrored_runs(study: Study) -> dict[int, str]:
    """MLflow run ids by trial number, as the driver noted them."""
    notes = study.notes().items()
    return {int(k.removeprefix(_RUN_NOTE)): v for k, v in notes if k.startswith(_RUN_NOTE)}


def parent_address(study: Study) -> str:
    """Where MLflow's interface shows the study's parent run, after the server's own address."""
    note = study.notes().get(_PARENT_NOTE, {})
    if "experiment_id" not in note:
        return ""
    return f"/#/experiments/{note['experiment_id']}/runs/{note['run_id']}"


def register_member(study: Study, trial: FrozenTrial, name: str) -> int:
    """Makes a front member's model the newest version of a registered model; returns it.

    Raises:
        TrackingError: a store that cannot be reached, a trial without a model, or a refusal.
    """
    run_id = mirrored_runs(study).get(trial.number)
    if run_id is None:
        raise TrackingError(
            f"trial {trial.number} has no run in {shown(tracking_uri(study))}; "
            f"'crossfront resume {study.folder.name}' sends it"
        )
    return register(tracking_uri(study), run_id, name)


class MlflowMirror:
    """Keeps an MLflow experiment in step with a study.

    Args:
        study: the study to mirror; only its driver may.

    Raises:
        TrackingError: the store cannot be reached.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.uri = tracking_uri(study)
        try:
            self._store = self._open_store()
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(f"tracking store {shown(self.uri)}: {reason(error)}") from None
        self._endings = Endings()
        self._front: set[int] = set()
        self._waiting: set[int] = set()
        self._sent = frozenset(self._store.runs)
        known = mirrored_runs(study)
        self._arrived = deque(run for run in self._store.runs.items() if run not in known.items())
        self._ended = False
        self._noted = 0.0
        self._sender = _Sender(shown(self.uri))
        self._retag({trial.number for trial in study.front()}, self._store.pareto)
        self.sync()
        self._write_note("The search is under way.")

    @property
    def parent(self) -> str:
        """The parent's run id."""
        return self._store.parent

    def sync(self) -> None:
        """Queues what the study has and the store has not; never waits for the store.

        Reads only trials that have ended since the last call.
        """
        self._note_runs()
        new = self._endings.look(self.study.trials())
        before = self._front
        if new:
            self._front = {trial.number for trial in self.study.front()}
        unsent = [trial for trial in new if trial.number not in self._sent]
        for trial in unsent:
            run = _trial_run(self.study, trial, pareto=trial.number in self._front)
            self._sender.post(partial(self._send, run))
        self._waiting |= {trial.number for trial in unsent}
        again = {repeat_by(trial) for trial in new if status(trial) in (REPEATED, FAILED)}
        for member in sorted({repeat.member for repeat in again if repeat is not None}):
            self._sender.post(partial(self._store.log_metrics, *self._seeds_of(member)))
        changed = (before ^ self._front) - {trial.number for trial in unsent}
        for number in sorted(changed):
            self._sender.post(partial(self._store.set_pareto, number, number in self._front))
        if before != self._front and time.monotonic() > self._noted + _NOTE_PAUSE_S:
            self._write_note("The search is under way.")

    def flush(self, patience_s: float = _PATIENCE_S) -> bool:
        """Waits until the store has everything that is queued.

        Args:
            patience_s: how long to wait without anything being sent.

        Returns:
            Whether nothing is queued any more.
        """
        sent = self._sender.wait(patience_s)
        self._note_runs()
        return sent

    def finish(
        self,
        files: Mapping[str, Path],
        figures: Sequence[Path] = (),
        *,
        complete: bool,
        dataset: Dataset[ImageSource] | None = None,
    ) -> bool:
        """Brings everything up to date and closes the parent run.

        Args:
            files: artifacts for the parent run, by name.
            figures: pictures for it, which MLflow's interface shows.
            complete: whether the study has ended, or was interrupted.
            dataset: what the networks were trained on; front members then get models.

        Returns:
            Whether the store has everything.
        """
        self.sync()
        post, store = self._sender.post, self._store
        members = self.study.front()
        front = {trial.number for trial in members}
        self._retag(front, self._front)
        for number in sorted(store.checkpoints - front):
            post(partial(store.drop_checkpoint, number))
        for trial in members:
            post(partial(store.keep_checkpoint, trial.number, self.study.checkpoint(trial)))
        state = "has ended" if complete else "was interrupted; `resume` goes on"
        self._write_note(f"The search {state}.")
        post(partial(store.log_summary, _summary(self.study), int(time.time() * 1000)))
        for path in files.values():
            post(partial(store.log_file, path))
        for picture in figures:
            post(partial(store.log_file, picture, "figures"))
        post(partial(store.log_text, "config.toml", shown(self.study.config.to_toml())))
        environment = json.dumps(describe_environment(), indent=1)
        post(partial(store.log_text, "environment.json", environment))
        if dataset is not None:
            post(partial(store.log_inputs, sorted(front), _splits(self.study, dataset)))
            examples = dataset.test.subset(min(_EXAMPLES, len(dataset.test)))
            images = examples.images.float().div(255)
            for trial in members:
                post(partial(store.keep_model, trial.number, self.study.checkpoint(trial), images))
        post(store.survey)
        self._end("FINISHED" if complete else "KILLED")
        return self._flushed(_PATIENCE_S)

    def close(self) -> None:
        """Stops the mirror's thread; a parent run that `finish` did not end is ended as killed.

        So is one whose end `finish` was not let wait for: what was to come before it stays undone,
        for the next driver to send.
        """
        if self._sender.wait(0) and self._ended:
            self._sender.stop(_CLOSING_S)
            return
        if self._ended:
            self._sender.clear()
        self._end("KILLED")
        self._flushed(_CLOSING_S)
        self._sender.stop(_CLOSING_S)

    def _open_store(self) -> MlflowStore:
        """The store with the study's parent run: the one that it has, or a new one."""
        study, config = self.study, self.study.config
        artifacts = study.folder.artifacts.as_uri()
        store = MlflowStore(self.uri, config.mlflow.experiment, artifacts)
        note = study.notes().get(_PARENT_NOTE)
        configured = config.mlflow.tracking_uri  # None: the storage's own, wherever it lies
        if note is None or note["uri"] != configured or "key" not in note:
            # Noted before the run is made, so that no crash in between can orphan it.
            note = {"uri": configured, "key": uuid.uuid4().hex}
            study.note(_PARENT_NOTE, note)
        run_id = store.open_parent(
            note["key"],
            f"{study.folder.name}: {config.network.name} on {config.data.name}",
            {
                _STUDY_TAG: study.folder.name,
                "crossfront.objectives": ", ".join(config.study.objectives),
                "crossfront.law": config.hardware.law,
            },
        )
        if (note.get("run_id"), note.get("experiment_id")) != (run_id, store.experiment):
            if note.get("run_id", run_id) != run_id:
                _LOG.warning("tracking store %s has lost run %s", shown(self.uri), note["run_id"])
            note = {**note, "run_id": run_id, "experiment_id": store.experiment}
            study.note(_PARENT_NOTE, note)
        return store

    def _seeds_of(self, number: int) -> tuple[int, dict[str, float], int]:
        """What a member came to over its seeds: its number, metrics, and when that was known."""
        member = self.study.trials()[number]
        repeats = self.study.repeats(member)
        ended = [t.datetime_complete for t in repeats if t.datetime_complete is not None]
        metrics = {"seeds": 1.0 + sum(status(repeat) == REPEATED for repeat in repeats)}
        for name, spread in self.study.spreads(member).items():
            if name in ACCURACIES:
                metrics |= {f"{name}_{key}": value for key, value in asdict(spread).items()}
        return number, metrics, int(max(ended).timestamp() * 1000)

    def _retag(self, front: set[int], tagged: set[int]) -> None:
        """Makes this the front, where the store's tags, once the queue is sent, say another."""
        for number in sorted(tagged ^ front):
            self._sender.post(partial(self._store.set_pareto, number, number in front))
        self._front = front

    def _send(self, run: TrialRun) -> None:
        """Writes a trial's run and tells the driver; in the mirror's thread."""
        self._store.send(run)
        self._arrived.append((run.number, self._store.runs[run.number]))

    def _note_runs(self) -> None:
        """Notes run ids that have come to be, so that reports find them."""
        while self._arrived:
            number, run_id = self._arrived.popleft()
            self.study.note(f"{_RUN_NOTE}{number}", run_id)
            self._waiting.discard(number)

    def _write_note(self, state: str) -> None:
        self._sender.post(partial(self._store.set_note, study_note(self.study, state)))
        self._noted = time.monotonic()

    def _end(self, ending: str) -> None:
        self._sender.post(partial(self._store.end_parent, ending))
        self._ended = True

    def _flushed(self, patience_s: float) -> bool:
        """Like `flush`, but says what is missing."""
        sent = self.flush(patience_s)
        if sent and not self._waiting:
            return True
        _LOG.warning(
            "tracking store %s: still to be sent: %d trials%s; 'crossfront resume %s' sends it",
            shown(self.uri),
            len(self._waiting),
            "" if sent else " and the end of the study",
            self.study.folder.name,
        )
        return False


class _Sender:
    """A thread that does jobs in order, each until it works or is refused.

    Args:
        name: of the store, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[], None]) -> None:
        """Adds a job; one that fails is called again."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def wait(self, patience_s: float) -> bool:
        """Whether all jobs are done, once they are or nothing happens for so many seconds."""
        with self._changed:
            queued = len(self._jobs)
        if queued:
            for _ in track(self._endings(queued, patience_s), "sent to MLflow", queued):
                pass
        with self._changed:
            return not self._jobs

    def _endings(self, queued: int, patience_s: float) -> Iterator[None]:
        """Once for each of the jobs as it ends, for as long as something happens."""
        started = time.monotonic()
        while queued:
            with self._changed:
                while len(self._jobs) >= queued and not self._stopped:
                    left = max(started, self._progress) + patience_s - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(left)
                if self._stopped:
                    return
            queued -= 1
            yield

    def clear(self) -> None:
        """Forgets all jobs but the one that is under way."""
        with self._changed:
            while len(self._jobs) > 1:
                self._jobs.pop()

    def stop(self, patience_s: float) -> None:
        """Ends the thread after the call that it is in; what is queued stays undone."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while (job := self._next()) is not None:
            if self._do(job, warn=pause == _FIRST_PAUSE_S):
                pause = _FIRST_PAUSE_S
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _next(self) -> Callable[[], None] | None:
        """The job to do, once there is one; None once the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopped)
            return None if self._stopped else self._jobs[0]

    def _do(self, job: Callable[[], None], *, warn: bool) -> bool:
        """Whether the job is over: done, or refused for good."""
        try:
            job()
        except Exception as error:
            refused = is_refusal(error)
            if refused or warn:
                then = "left out" if refused else "the study keeps every result and sends it later"
                _LOG.warning("tracking store %s: %s; %s", self._name, reason(error), then)
            if not refused:
                return False
        with self._changed:
            self._jobs.popleft()
            self._progress = time.monotonic()
            self._changed.notify_all()
        return True


def _trial_run(study: Study, trial: FrozenTrial, *, pareto: bool) -> TrialRun:
    """What the run of an ended trial says: all that the mirror reads of a trial."""
    outcome = status(trial)
    endings = {FAILED: "FAILED", **dict.fromkeys((*MEASURED, REPEATED), "FINISHED")}
    tags = {_STUDY_TAG: study.folder.name, "status": outcome}
    repeat = repeat_by(trial)
    if repeat is not None:
        tags["repeat_of"] = str(repeat.member)
    if "reason" in trial.user_attrs:
        tags["reason"] = str(trial.user_attrs["reason"])[:5000]
    evaluation = trial.user_attrs.get("evaluation", {})
    metrics = _metrics(evaluation.get("values", {}))
    if evaluation.get("adc_bits"):
        metrics["max_adc_bits"] = float(max(evaluation["adc_bits"].values()))
    if "total" in evaluation.get("seconds", {}):
        metrics["seconds"] = float(evaluation["seconds"]["total"])
    params = _params(candidate_of(trial)) if "candidate" in trial.user_attrs else {}
    assert trial.datetime_complete is not None  # it has ended
    start = trial.datetime_start
    return TrialRun(
        number=trial.number,
        name=_run_name(study, trial),
        ending=endings.get(outcome, "KILLED"),
        start_ms=None if start is None else int(start.timestamp() * 1000),
        end_ms=int(trial.datetime_complete.timestamp() * 1000),
        pareto=pareto,
        tags=tags,
        params={key: str(value) for key, value in params.items()},
        metrics=metrics,
    )


def _run_name(study: Study, trial: FrozenTrial) -> str:
    """Study, number, method, crossbar, and the span of the strengths over the layers."""
    name = f"{study.folder.name}-{trial.number:04d}"
    repeat = repeat_by(trial)
    if repeat is not None:
        return f"{name} repeats {repeat.member:04d}"
    if "candidate" not in trial.user_attrs:
        return name
    candidate = candidate_of(trial)
    sizes = {f"{s.wordlines}x{s.bitlines}" for s in candidate.plan.per_layer.values()}
    spec = candidate.plan.default
    size = f"{spec.wordlines}x{spec.bitlines}" if not sizes else "+".join(sorted(sizes))
    parts = [name, candidate.method, size if len(sizes) < 3 else f"{len(sizes)} crossbar sizes"]
    settings = [asdict(setting) for setting in candidate.layers.values()]
    for field, label in _STRENGTHS.items():
        found = [setting[field] for setting in settings if setting.get(field) is not None]
        if found:
            span = (
                f"{min(found):g}" if min(found) == max(found) else f"{min(found):g}-{max(found):g}"
            )
            parts.append(f"{label} {span}")
    return " ".join(parts)


def _splits(study: Study, dataset: Dataset[ImageSource]) -> list[DataSplit]:
    """The data set's two halves, as the store names them."""
    shape = "x".join(map(str, dataset.input_shape))
    return [
        DataSplit(
            name=f"{dataset.name} {context}",
            digest=split.fingerprint,
            source=study.config.data.path or study.config.data.name,
            context=context,
            profile=json.dumps({"images": len(split), "shape": shape, "classes": dataset.classes}),
        )
        for context, split in (("train", dataset.train), ("test", dataset.test))
    ]


def _summary(study: Study) -> dict[str, float]:
    """The parent's few metrics: the dense baseline and the hypervolume."""
    dense = study.dense
    found = {} if dense is None else _metrics(dense.values)
    metrics = {f"dense_{key}": value for key, value in found.items()}
    return {**metrics, "hypervolume": study.hypervolume()}


def _metrics(found: Mapping[str, float]) -> dict[str, float]:
    """Objectives under names that carry their SI units."""
    return {COSTS.get(name, name): float(value) for name, value in found.items()}


def _params(candidate: Candidate) -> dict[str, Any]:
    """The candidate as flat parameters; settings that do not vary by layer once."""
    spec = candidate.plan.default
    params: dict[str, Any] = {
        "method": candidate.method,
        "seed": candidate.seed,
        "cell_bits": spec.cell_bits,
        "dac_bits": spec.dac_bits,
    }
    if not candidate.plan.per_layer:
        params |= {"wordlines": spec.wordlines, "bitlines": spec.bitlines}
    for name, own in candidate.plan.per_layer.items():
        params |= {f"{name}.wordlines": own.wordlines, f"{name}.bitlines": own.bitlines}
    for name, setting in candidate.layers.items():
        found = asdict(setting).items()
        params |= {f"{name}.{field}": value for field, value in found if value is not None}
    return params
