"""How fast trials reach MLflow: our mirror against Ray's own callback.

    taskset -c 1 python -m tests.benchmarks.tracking_speed

In a local database (one for each), and in one `mlflow server` on loopback over a database of its
own. One trial of each in turn, in one process, so that what else the machine does falls on all
alike: 5 layers, the same 26 parameters and 10 metrics. Ray's `MLflowLoggerCallback` makes one call
per key; `ray_callback` gives it those keys alone, `ray_callback_in_tune` also the numbers that Tune
adds to every result. `mirror` is the time until the store has the trial, `mirror_driver` the time
that the driver itself spends on it, noting the run included, and `mirror_driver_many` the same in a
study that has 5,000 trials already. A front has 20 members.

Writes `tests/benchmarks/results/tracking_speed.json`: n, least, median and largest, in seconds,
and the ratios of the medians; prints the same.
"""

import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import optuna
import ray
from ray.air.integrations.mlflow import MLflowLoggerCallback

from hwmodel.crossbar import CrossbarPlan
from search.config import read_config
from search.evaluate import COMPLETE, Evaluation
from search.folder import StudyFolder
from search.mlflow_store import MlflowStore
from search.objectives import COSTS
from search.study import Study
from search.tracking import MlflowMirror
from spaces import Candidate, LayerSetting
from tests.search.servers import MlflowServer

RESULT = Path(__file__).parent / "results" / "tracking_speed.json"
REPEATS = 25
EARLIER = 5_000
AUTOMATIC = (
    "done",
    "iterations_since_restore",
    "pid",
    "time_since_restore",
    "time_this_iter_s",
    "time_total_s",
    "timestamp",
)
"""Numbers that Tune adds to every result, beside `training_iteration`."""


class TuneTrial:
    """What the callback reads of a trial of Ray Tune."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.config = config

    def __str__(self) -> str:
        return self.name


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = {"database": _compare(folder, None, f"sqlite:///{folder}/ray.db")}
        server = MlflowServer(folder, f"sqlite:///{folder}/server.db")
        server.start()
        try:
            found["server"] = _compare(folder, server.uri, server.uri)
        finally:
            server.stop()
        found["database"]["mirror_driver_many"] = _driver_among_many(folder)
    result = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, "
        f"MLflow {mlflow.__version__}, Ray {ray.__version__}, one core",
        "earlier_trials": EARLIER,
        **{store: _summary(arms) for store, arms in found.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def _summary(arms: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds per trial of each arm, and how many times longer Ray's callback takes."""
    medians = {name: statistics.median(seconds) for name, seconds in arms.items()}
    return {
        "seconds_per_trial": {name: _spread(seconds) for name, seconds in arms.items()},
        "ratio_ray_callback": medians["ray_callback"] / medians["mirror"],
        "ratio_ray_callback_in_tune": medians["ray_callback_in_tune"] / medians["mirror"],
        "ratio_of_drivers_time": medians["ray_callback_in_tune"] / medians["mirror_driver"],
    }


def _compare(folder: Path, ours: str | None, rays: str) -> dict[str, list[float]]:
    """Seconds per trial by arm: the mirror writes to `ours`, the callback to `rays`."""
    study = _study(folder / ("local" if ours is None else "remote"), ours)
    mirror = MlflowMirror(study)
    callback = MLflowLoggerCallback(tracking_uri=rays, experiment_name="tune")
    callback.setup()
    found: dict[str, list[float]] = {
        name: [] for name in ("mirror", "mirror_driver", "ray_callback", "ray_callback_in_tune")
    }
    for number in range(REPEATS + 1):
        _add(study, 1)
        sent, waited = _mirror(mirror)
        run = mlflow.MlflowClient(mirror.uri).get_run(mirror._store.runs[number])
        params, metrics = run.data.params, run.data.metrics
        plain = _seconds(lambda p=params, m=metrics: _log(callback, p, m))
        tune = metrics | dict.fromkeys(AUTOMATIC, 1.0)
        full = _seconds(lambda p=params, m=tune: _log(callback, p, m))
        if number:  # the first opens connections
            for name, seconds in zip(found, (sent, waited, plain, full), strict=True):
                found[name].append(seconds)
    mirror.close()
    return found


def _driver_among_many(folder: Path) -> list[float]:
    """The driver's own seconds per trial where the store already has all earlier ones."""
    study = _study(folder / "many")
    _add(study, EARLIER)

    def know_them(store: MlflowStore) -> None:
        store.runs = dict.fromkeys(range(EARLIER), "there")

    found = []
    with mock.patch.object(MlflowStore, "survey", know_them):
        study.notes = lambda: {f"run.{n}": "there" for n in range(EARLIER)}  # type: ignore[method-assign]
        mirror = MlflowMirror(study)
        for _ in range(REPEATS + 1):
            _add(study, 1)
            found.append(_mirror(mirror)[1])
        mirror.close()
    return found[1:]


def _mirror(mirror: MlflowMirror) -> tuple[float, float]:
    """Seconds until the store has what is new, and seconds of the driver."""
    read = _seconds(mirror.sync)
    sent = read + _seconds(lambda: mirror._sender.wait(60.0))
    return sent, read + _seconds(mirror.sync)


def _log(callback: MLflowLoggerCallback, params: dict[str, Any], metrics: dict[str, float]) -> None:
    trial = TuneTrial("trial", params)
    callback.log_trial_start(trial)
    callback.log_trial_result(1, trial, {**metrics, "training_iteration": 1})
    callback.log_trial_end(trial)


def _study(storage: Path, uri: str | None = None) -> Study:
    tracking = {} if uri is None else {"tracking_uri": uri}
    config = read_config(
        {"study": {"name": "speed", "objectives": ["accuracy", "area"]}, "mlflow": tracking}
    )
    study = Study.create(StudyFolder(storage, "speed"), config)
    study.set_dense(Evaluation(status=COMPLETE, values=_values(0)))
    return study


def _add(study: Study, count: int) -> None:
    """Adds complete trials."""
    before = len(study.trials())
    study._handle.add_trials([_trial(number) for number in range(before, before + count)])


def _trial(number: int) -> optuna.trial.FrozenTrial:
    values = _values(number)
    candidate = Candidate(
        network="lenet5",
        method="tinyadc",
        plan=CrossbarPlan(),
        layers={f"layer{index}": LayerSetting(nonzeros=4) for index in range(5)},
        seed=number,
    )
    evaluation = Evaluation(
        status=COMPLETE, values=values, adc_bits={"layer0": 5}, seconds={"total": 25.0}
    )
    return optuna.trial.create_trial(
        values=[values["accuracy"], values["area"]],
        user_attrs={
            "candidate": candidate.to_json(),
            "evaluation": evaluation.to_json(),
            "status": COMPLETE,
        },
    )


def _values(number: int) -> dict[str, float]:
    rung = number % 20
    accuracies = dict.fromkeys(("accuracy", "robust_accuracy"), 0.8 + rung / 200)
    return {**accuracies, **dict.fromkeys(COSTS, 1e-6 * (1 + rung / 20))}


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


if __name__ == "__main__":
    main()
