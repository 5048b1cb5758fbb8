"""Strategies replayed on a recorded table: what `run.py` does, many times over, without training.

    python -m tests.benchmarks.thrift.replay --seeds 20 [--only stock surrogate ...]

`record.py` trained some hundred candidates of the space at every fidelity. Here a candidate that
was recorded has its recorded accuracy; any other has what regression trees over the recorded ones
say, with the scatter between two seeds on top. Trees, since the surrogate sampler predicts with
Gaussian processes: nobody is to search in a world made of his own model. Their error on candidates
left out is printed first and stands in `results/replay.md`. Costs are the exact plan of each
candidate times what measuring usually makes of it. `moasha` is Syne Tune's, where it is installed.
"""

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from search.evaluate import Evaluation, Problem, load_problem
from search.folder import StudyFolder
from search.front import hypervolume, nondominated
from search.run import make_space
from search.study import Study
from spaces.candidate import Candidate
from spaces.space import Drawn
from tests.benchmarks.thrift import record
from tests.benchmarks.thrift.run import (
    RESULTS,
    RUNGS,
    STRATEGIES,
    Task,
    dense_baseline,
    report,
    search,
    write,
)

EPOCHS = (0, 1, 4)
"""Of the recorded rungs."""


class Table:
    """Accuracy, costs and seconds of any candidate of the space, by rung.

    Args:
        problem: prices candidates.
        rows: of `record.py`.
    """

    def __init__(self, problem: Problem, rows: Sequence[Mapping[str, Any]]) -> None:
        self.problem = problem
        space = make_space(problem)
        candidates = [space.suggest(_Fixed(row["parameters"]), seed=0) for row in rows]
        self.features = np.array([self.describe(candidate) for candidate in candidates])
        self.targets = np.array(
            [[_log_error(rung["values"]["accuracy"]) for rung in row["rungs"]] for row in rows]
        )
        self.model = ExtraTreesRegressor(500, min_samples_leaf=1, random_state=0)
        self.groups = np.array([row["candidate"] for row in rows])
        self.model.fit(self.features, self.targets)
        self.scatter = self._scatter()
        self.recorded = {
            _key(candidate): target
            for candidate, target, row in zip(candidates, self.targets, rows, strict=True)
            if row["seed"] == 0
        }
        self.ratios = {
            name: statistics.median(
                row["rungs"][-1]["values"][name] / row["planned"][name] for row in rows
            )
            for name in ("area", "power")
        }
        self.seconds = [
            statistics.median(row["rungs"][rung]["cpu_s"] for row in rows)
            for rung in range(len(EPOCHS))
        ]

    def describe(self, candidate: Candidate) -> list[float]:
        """What the trees see of a candidate: strengths that bind, and the crossbars' height."""
        wordlines = candidate.plan.default.wordlines
        found = [math.log2(wordlines), float(candidate.method == "level-sum")]
        for name, shape in self.problem.shapes.items():
            setting = candidate.layers[name]
            height = min(wordlines, shape.rows)
            count = setting.nonzeros or height
            bits = setting.adc_bits or math.log2(3 * count + 1)
            found += [
                math.log2(count),
                math.log2(count / height),
                bits,
                setting.kept_filters,
                setting.kept_shapes,
            ]
        return found

    def left_out(self) -> dict[str, tuple[float, float]]:
        """R2 and Spearman's rank correlation of each rung on candidates left out, ten folds."""
        once = np.unique(self.groups, return_index=True)[1]
        folds = KFold(10, shuffle=True, random_state=0)
        guessed = cross_val_predict(self.model, self.features[once], self.targets[once], cv=folds)
        found = {}
        for rung, epochs in enumerate(EPOCHS):
            true, own = self.targets[once, rung], guessed[:, rung]
            share = 1 - float(np.square(true - own).sum() / np.square(true - true.mean()).sum())
            found[str(epochs)] = (share, spearman(true, own))
        return found

    def measure(
        self, problem: Problem, candidate: Candidate, *_: Any, rung: int, state: Path
    ) -> Evaluation:
        """In place of `search.evaluate.evaluate`."""
        epochs = problem.config.rungs[rung]
        at = EPOCHS.index(epochs)
        target = self.recorded.get(_key(candidate))
        if target is None:
            target = self.model.predict([self.describe(candidate)])[0]
            luck = Random(f"{_key(candidate)} {candidate.seed} {epochs}")
            target = target + luck.gauss(0, 1) * self.scatter
        planned = problem.planned_costs(candidate)
        costs = {name: planned[name] * self.ratios[name] for name in self.ratios}
        before = problem.config.rungs[rung - 1] if rung > 0 else None
        spent = self.seconds[at]
        if before is None and at:  # an only rung: the whole schedule from the start
            spent = sum(self.seconds[1 : at + 1])
        return Evaluation(
            status="complete",
            values={"accuracy": 1 - math.exp(target[at]), **costs},
            epochs=epochs,
            seconds={"replayed": spent},
        )

    def _scatter(self) -> np.ndarray:
        """Standard deviation of each rung's log error between two seeds of one candidate."""
        twice = [index for index in np.unique(self.groups) if (self.groups == index).sum() == 2]
        apart = [np.subtract(*self.targets[self.groups == index]) for index in twice]
        return np.asarray(np.std(apart, axis=0) / math.sqrt(2))


class _Fixed:
    """A suggester of given parameters."""

    def __init__(self, parameters: Mapping[str, int]) -> None:
        self.parameters = parameters

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.parameters[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=[*STRATEGIES, "moasha"])
    parser.add_argument("--work", type=Path, default=Path("thrift-work"))
    options = parser.parse_args()
    problem = load_problem(Task().config({"fidelity": RUNGS}))
    table = Table(problem, record.rows())
    errors = table.left_out()
    print("left out (R2, Spearman) by epochs:", errors, "scatter:", table.scatter.tolist())
    trained, work = options.work / Task().name, options.work / "replay"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in ("dense.json", "dense.safetensors"):
        dense_baseline(problem, trained)
        shutil.copy(trained / name, work / name)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        goal, epochs = 0.0, 0
        for name in dict.fromkeys(["stock", *options.only]):
            if name == "moasha":
                found = moasha(table, seed, goal, epochs, work)
            else:
                found = search(
                    Task(), name, seed, options.trials, goal, epochs, work, table.measure
                )
            rows += found
            if name == "stock":
                goal, epochs = found[-1]["hypervolume"], sum(row["epochs"] for row in found)
            if found:
                report(rows, goal, name, seed)
    write(rows, "replay")
    lines = [
        f"| {epochs} epochs | {share:.3f} | {ranks:.3f} |"
        for epochs, (share, ranks) in errors.items()
    ]
    head = ["", "| the trees on candidates left out | R2 | Spearman |", "|---|---|---|"]
    with (RESULTS / "replay.md").open("a", encoding="utf-8") as file:
        file.write("\n".join([*head, *lines]) + "\n")


def moasha(table: Table, seed: int, goal: float, epochs: int, work: Path) -> list[dict[str, Any]]:
    """Syne Tune's multi-objective ASHA on the same space, one candidate at a time."""
    try:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
    except ImportError:
        return []
    import datetime

    problem = table.problem
    config = Task().config({"study": {"name": f"moasha-{seed}"}})
    study = Study.create(StudyFolder(work, config.study.name), config)
    study.set_dense(dense_baseline(problem, work)[1])
    space, random = make_space(problem), Random(seed)
    names = config.study.objectives
    scheduler = MOASHA(
        {}, metrics=list(names), time_attr="epoch", max_t=EPOCHS[-1], random_seed=seed
    )
    np.random.seed(seed)  # it picks brackets with the global generator
    rows: list[dict[str, Any]] = []
    measured: list[dict[str, float]] = []
    spent, number = 0, 0
    while spent < epochs and (not rows or rows[-1]["hypervolume"] < goal):
        drawn = Drawn(random)
        candidate = space.suggest(drawn, seed=number)
        trial = Trial(number, dict(drawn.parameters), datetime.datetime.now())
        scheduler.on_trial_add(trial)
        best: dict[str, float] = {}
        for rung in range(1, len(EPOCHS)):
            found = table.measure(problem, candidate, rung=rung, state=Path())
            best = {name: found.values[name] for name in names}
            losses = {**best, "accuracy": -best["accuracy"]}
            more = EPOCHS[rung] - EPOCHS[rung - 1]
            spent += more
            front = [measured[i] for i in nondominated(measured, names)]
            rows.append(
                {
                    "strategy": "moasha",
                    "seed": seed,
                    "number": number,
                    "rung": rung,
                    "epochs": more,
                    "seconds": table.seconds[rung],
                    "status": "complete",
                    **best,
                    "hypervolume": hypervolume([*front, best], study.reference),
                }
            )
            if scheduler.on_trial_result(trial, {"epoch": EPOCHS[rung], **losses}) == "STOP":
                break
        measured.append(best)
        number += 1
    return rows


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def _key(candidate: Candidate) -> str:
    """A candidate but for its seed and its bitlines, which change no accuracy."""
    layers = {name: setting.to_json() for name, setting in candidate.layers.items()}
    return json.dumps([candidate.method, candidate.plan.default.wordlines, layers], sort_keys=True)


def _log_error(accuracy: float) -> float:
    return math.log(max(1 - accuracy, 1e-3))


if __name__ == "__main__":
    main()
