"""Runs a study: the dense baseline, then Ray Tune until the budget is spent."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwmodel.errors import CrossfrontError, StorageError, StudyError
from hwmodel.extras import hint, missing, need
from search.baseline import check_price
from search.checkpoints import Checkpoints
from search.config import RayConfig
from search.evaluate import FAILED, Problem, load_problem, train_dense
from search.exchange import Exchange
from search.head import PATIENCE_S, HeadWatch
from search.inputs import own_modules, send_inputs
from search.interrupts import handler_restored, interrupts_held
from search.leftovers import note_session, remove_leftovers
from search.mlflow_store import check_tracking
from search.page import write_report
from search.ray_session import check_cluster, prepare_ray, start_ray
from search.report import write_pictures, write_tables
from search.storage import disk_errors
from search.study import Study
from search.tracking import MlflowMirror
from search.trials import seconds_of
from search.warm_start import warm_starts
from spaces.joint import JointSpace

if TYPE_CHECKING:
    from search.searcher import StudySearcher

__all__ = ["Display", "Outcome", "Silent", "run_study"]

_LOG = logging.getLogger(__name__)


class Display(Protocol):
    """Where a run shows how it goes."""

    def message(self, text: str) -> None:
        """One line about what happens now."""

    def update(self, study: Study) -> None:
        """The study has changed."""

    def close(self) -> None:
        """Nothing more will change."""


class Silent:
    """A display that shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""

    def update(self, study: Study) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    complete: bool
    """Whether the whole budget has been spent."""
    timed_out: bool
    """Whether the time budget was spent before."""
    dense_s: float
    """Wall time of the dense baseline; 0 where it was there already."""
    search_s: float
    """Wall time from the start of Ray to the last trial."""
    driver_s: float
    """Of that, the time in which the driver sampled, recorded and displayed."""
    train_s: float
    """Time that workers spent training, summed over the trials of this run."""
    worker_s: float
    """Time that workers spent on whole evaluations, training included."""
    trials: int
    """Trials that this run added."""
    mirrored: bool
    """Whether MLflow has everything."""


def run_study(
    study: Study,
    display: Display | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Outcome:
    """Drives a study until its budget is spent, it is interrupted, or its time is up.

    Whatever happens, every finished trial stays in the study; calling this again goes on.

    Args:
        study: created or opened; other processes may drive it at the same time, and share its
            budget. The first of them trains the dense baseline and sends to MLflow.
        display: where to show progress.
        overrides: settings to change for good first, such as the budget.

    Raises:
        CrossfrontError: what the user can mend, before anything is lost.
    """
    try:
        with disk_errors(study.folder), study.folder.take_the_lead() or nullcontext() as lead:
            return _drive(study, display or Silent(), overrides or {}, leads=lead is not None)
    except StorageError as error:
        raise StorageError(
            f"{error}; finished trials are kept, go on with: crossfront resume {study.folder.name}"
        ) from None


def _drive(
    study: Study,
    display: Display,
    overrides: Mapping[str, Mapping[str, Any]],
    *,
    leads: bool,
) -> Outcome:
    """`run_study` as the study's first driver, or as one that joins it."""
    if overrides:
        shared = [key for name in ("study", "fidelity") for key in overrides.get(name, {})]
        if not leads and shared:
            raise StudyError(
                f"study {study.folder.name!r} is being run by another process; its "
                f"{', '.join(shared)} can be changed once that has ended"
            )
        _check_services(overrides)
        study.reconfigure(overrides, keep=leads)
    if study.config.mlflow.tracking_uri is not None:
        need("tracking", "mlflow.tracking_uri")
    if not study.over:
        check_cluster(study.config.ray, joining=study.dense is None)
    problem = load_problem(study.config)
    exchange = Exchange(study.config.study.storage_path, study.folder)
    exchange.check()
    study.join()
    remove_leftovers(study.folder)
    with ExitStack() as ending:
        ending.callback(study.leave)
        again = study.requeue_interrupted()
        if again:
            display.message(f"{again} interrupted trials are queued again")
        if not leads:
            display.message("another process drives this study; joining it")
            _await_dense(study)
        mirrors = leads and _has("tracking", "runs are not mirrored to MLflow", display)
        mirror = ending.enter_context(closing(MlflowMirror(study))) if mirrors else None
        dense_s = _ensure_dense(study, problem, exchange, display) if leads else 0.0
        before = {trial.number for trial in study.ended()}
        spent = study.spent
        started = time.perf_counter()
        searcher_s, error, timed_out = 0.0, None, False
        if not study.over:
            searcher_s, error, timed_out = _search(study, problem, exchange, mirror, display)
        else:
            display.message(
                f"study {study.folder.name!r} has nothing left to do: {study.exhausted}"
            )
        if isinstance(error, StorageError):
            raise error
        search_s = time.perf_counter() - started
        study.leave()
        display.close()
        complete = study.over
        Checkpoints(study, exchange).tidy()
        for trial in study.front():
            exchange.bring(study.checkpoint(trial))
        files, pictures = write_tables(study), []
        if _has("report", "no report.html is written", display):
            files["report"] = write_report(study)
            pictures = [] if mirror is None else write_pictures(study)
        mirrored = mirror is None or mirror.finish(
            files, pictures, complete=complete, dataset=problem.dataset
        )
    if error is not None:
        raise error
    new = [seconds_of(trial) for trial in study.ended() if trial.number not in before]
    return Outcome(
        complete=complete,
        timed_out=timed_out,
        dense_s=dense_s,
        search_s=search_s,
        driver_s=searcher_s,
        train_s=sum(seconds.get("train", 0.0) for seconds in new),
        worker_s=sum(seconds.get("total", 0.0) for seconds in new),
        trials=study.spent - spent,
        mirrored=mirrored,
    )


def _has(extra: str, otherwise: str, display: Display) -> bool:
    """Whether an extra is installed; if not, the display is told what that means."""
    absent = missing(extra)
    if absent:
        display.message(f"{otherwise} without {' and '.join(absent)}: {hint(extra)}")
    return not absent


def _check_services(overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a cluster or a tracking server that does not answer before the study is told of it.

    Raises:
        ClusterError: a cluster.
        TrackingError: a tracking server.
    """
    check_cluster(RayConfig(**{"address": None, **overrides.get("ray", {})}))
    check_tracking(overrides.get("mlflow", {}).get("tracking_uri"))


def _await_dense(study: Study) -> None:
    """Waits until the first driver has trained the dense baseline.

    Raises:
        StudyError: that driver went away before.
    """
    while study.dense is None:
        lead = study.folder.take_the_lead()
        if lead is not None:
            lead.close()
            raise StudyError(
                "the process that was training the dense baseline is gone; go on with: "
                f"crossfront resume {study.folder.name}"
            )
        time.sleep(1.0)


def make_space(problem: Problem) -> JointSpace:
    """The search space of a study.

    Raises:
        ConfigError: exceptions for layers that the network does not have.
        SpecError: crossbars that cannot exist.
    """
    config = problem.config
    return JointSpace(
        config.space,
        problem.shapes,
        problem.cost_model.preset.crossbar,
        network=config.network.name,
        methods=config.space_methods,
    )


def _ensure_dense(study: Study, problem: Problem, exchange: Exchange, display: Display) -> float:
    """Trains the dense baseline unless the study has it; returns the seconds it took."""
    import torch

    weights = study.folder.dense_weights
    if study.dense is not None and exchange.bring(weights).exists():
        exchange.share(weights)
        return 0.0
    started = time.perf_counter()
    make_space(problem)  # a space that cannot be is better known before the training
    note = check_price(problem)
    if note is not None:
        display.message(note)
    display.message(f"{'measuring' if weights.exists() else 'training'} the dense baseline")
    threads = torch.get_num_threads()
    wanted = problem.config.train.threads * problem.config.ray.workers
    torch.set_num_threads(
        min(wanted, os.cpu_count() or 1)
    )  # the workers of a cluster are elsewhere
    try:
        dense = train_dense(problem, weights, study.folder.dense_checkpoint)
    finally:
        torch.set_num_threads(threads)
    if dense.status == FAILED:
        raise StudyError(f"the dense baseline failed: {dense.reason}")
    exchange.put(weights)
    space = make_space(problem)
    for start in warm_starts(study.folder, study.config, space):
        display.message(start.text)
        study.enqueue(start.parameters, source=start.study)
    fidelity = study.config.fidelity
    if fidelity.scan:
        scan = space.scan(fidelity.scan, fidelity.scan_sizes)
        display.message(f"the scan is {len(scan)} candidates, projected and not trained")
        study.enqueue(scan, scan=True)
    if study.config.study.uniform_starts:
        study.enqueue(space.starts(), uniform=True)
    study.set_dense(dense)
    seconds = time.perf_counter() - started
    display.message(f"dense accuracy {dense.values['accuracy']:.4f} after {seconds:.0f} s")
    return seconds


def _search(
    study: Study,
    problem: Problem,
    exchange: Exchange,
    mirror: MlflowMirror | None,
    display: Display,
) -> tuple[float, CrossfrontError | None, bool]:
    """Runs Ray Tune.

    Returns:
        The driver's own seconds; why proposals ended early, if so; whether the time was up.
    """
    prepare_ray(study.config.ray)
    from search.searcher import StudySearcher

    checkpoints = Checkpoints(study, exchange)

    def on_change() -> None:
        checkpoints.tidy()
        if mirror is not None:
            mirror.sync()
        display.update(study)

    config = study.config
    space, sampler = make_space(problem), None
    study.check_space(space.describe())
    if config.study.sampler == "surrogate":
        from search.surrogate import SurrogateSampler

        sampler = SurrogateSampler(study, space, problem)
        study.judge = sampler.goes_on
    searcher = StudySearcher(study, space, problem, on_change, sampler, display.message)

    def give_up() -> None:
        """Ends this process as soon as nothing is half recorded: its main thread waits for Ray."""
        searcher.stop()
        study.leave()
        if mirror is not None:
            mirror.close()
        display.close()
        print(
            f"crossfront: Ray cluster {config.ray.address!r}: its head has not answered for "
            f"{PATIENCE_S:.0f} s; finished trials are kept, go on with: crossfront resume "
            f"{study.folder.name} --address ADDRESS (a cluster's, or 'local')",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    display.message(f"starting Ray with {config.ray.workers} workers")
    display.update(study)
    budget_s = config.study.time_budget_s
    ends = None if budget_s is None else time.monotonic() + budget_s
    tables = config.to_json()
    context = {
        "config": tables,
        "inputs": send_inputs(exchange, tables),
        "storage": str(study.folder.storage.resolve()),
        "name": study.folder.name,
    }
    try:
        while not _tune(study, searcher, context, ends, give_up):
            searcher.give_back_all(
                "out of memory: Ray ended a worker of a machine that had none left"
            )
            display.message("Ray ended a worker for its memory; starting Ray again")
    finally:  # before the study is left, so that nothing is proposed behind its back
        searcher.stop()
    timed_out = ends is not None and time.monotonic() >= ends
    return searcher.seconds, searcher.error, timed_out


def _tune(
    study: Study,
    searcher: "StudySearcher",
    context: Mapping[str, Any],
    ends: float | None,
    on_lost: Callable[[], None],
) -> bool:
    """Runs Ray Tune until the searcher has no more for it.

    Args:
        study: the study.
        searcher: proposes and records.
        context: what workers are told of it.
        ends: on the monotonic clock, when to stop.
        on_lost: called once the head of the cluster is gone.

    Returns:
        False if it broke off because Ray ended a worker for its memory, which Tune cannot stand.
    """
    import ray
    from ray import tune

    from search.searcher import ForgetEnded
    from search.trainable import CandidateTrainable

    config, driver = study.config.ray, study.driver
    assert driver is not None
    shared = study.folder.ray_results.resolve()
    results = shared / driver  # each driver removes its own
    session = start_ray(config, own_modules(study.config, Path.cwd()))
    if session is not None:
        note_session(study.folder, driver, session)
    head = ray.get_runtime_context().gcs_address
    watch = None if config.local else HeadWatch(head, on_lost)
    try:
        trainable: Any = tune.with_parameters(CandidateTrainable, study=context)
        tuner = tune.Tuner(
            tune.with_resources(
                trainable, {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=config.workers,
                reuse_actors=True,
                time_budget_s=None if ends is None else max(1.0, ends - time.monotonic()),
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(results),
                verbose=0,
                # The study is the record: neither Tune's checkpoints nor its reports are wanted.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[ForgetEnded()],
            ),
        )
        with handler_restored():
            tuner.fit()
    except RuntimeError as error:
        if not isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
            raise
        return False
    finally:
        with interrupts_held():
            ray.shutdown()
            if watch is not None:
                watch.close()
            shutil.rmtree(results, ignore_errors=True)
            with suppress(OSError):  # another driver is still in there
                shared.rmdir()
    return True


def _trial_name(trial: Any) -> str:
    """What Ray calls one rung of a trial."""
    return f"trial-{trial.config['number']:05d}-{trial.config['rung']}"
