import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from search.front import hypervolume
from search.study import Study
from search.surrogate import SurrogateSampler, _Process, _Row, _Scan, expected_improvement
from spaces import Candidate, JointSpace, LayerSetting, SpaceConfig
from spaces.strength import log_strengths
from tests.search.fakes import DENSE_VALUES, SHAPES, done, new_study


@pytest.mark.parametrize("costs", [1, 2, 3])
def test_expected_improvement_is_the_mean_over_draws(costs: int) -> None:
    random = np.random.default_rng(costs)
    front = random.uniform(0.1, 1.2, (6, 1 + costs))
    points = random.uniform(0.05, 0.9, (4, costs))
    mean, spread = random.uniform(-1.5, -0.2, 4), random.uniform(0.05, 0.6, 4)
    found = expected_improvement(front, mean, spread, points)
    names = ["accuracy", "area", "power", "energy"][: 1 + costs]
    reference = {name: 1.0 if name != "accuracy" else 0.0 for name in names}

    def named(point: Any) -> dict[str, float]:
        return {n: 1 - x if n == "accuracy" else x for n, x in zip(names, point, strict=True)}

    before = hypervolume([named(point) for point in front], reference)
    for index in range(4):
        draws = np.exp(random.normal(mean[index], spread[index], 3000))
        gains = []
        for loss in draws:
            more = [named(point) for point in (*front, [loss, *points[index]])]
            gains.append(hypervolume(more, reference) - before)
        error = 4 * np.std(gains) / math.sqrt(len(gains)) + 1e-4
        assert found[index] == pytest.approx(np.mean(gains), abs=error)


def test_nothing_is_expected_of_what_the_front_dominates_for_sure() -> None:
    front = np.array([[0.3, 0.3]])
    sure = expected_improvement(
        front, np.log([0.5, 0.2, 0.5]), np.full(3, 1e-6), np.array([[0.5], [0.5], [0.2]])
    )
    assert sure[0] == 0.0
    assert sure[1] == pytest.approx(0.1 * 0.5, abs=1e-3)
    assert sure[2] == pytest.approx(0.1 * 0.5, abs=1e-3)


SPACE = SpaceConfig(wordlines=(64, 128), bitlines=(128,))


def joint() -> JointSpace:
    return JointSpace(SPACE, SHAPES, CrossbarSpec(), network="mlp", methods=("tinyadc",))


def kept(candidate: Candidate) -> float:
    return sum(log_strengths(candidate, SHAPES).values())


def cost(candidate: Candidate) -> dict[str, float]:
    """Falls with all that is pruned, most with the first layer, which does accuracy little harm."""
    strengths = log_strengths(candidate, SHAPES)
    first = sum(value for (name, _), value in strengths.items() if name == "fc1")
    share = 2 ** (0.15 * first + 0.02 * kept(candidate))
    return dict.fromkeys(DENSE_VALUES, share)


def accuracy(candidate: Candidate, epochs: int) -> float:
    strengths = log_strengths(candidate, SHAPES)
    harm = sum((0.5 if name == "fc1" else 6.0) * value**2 for (name, _), value in strengths.items())
    return 0.9 - 0.8 * (1 - math.exp(-harm / (3000 if epochs else 600)))


def searched(storage: Path, sampler: str, trials: int, scan: int, sizes: int = 0) -> Study:
    tables = {
        "fidelity": {"projection": True, "scan": scan, "scan_sizes": sizes},
        "train": {"epochs": 4},
    }
    study = new_study(
        storage / f"{sampler}{scan}{sizes}",
        tables,
        trials=trials,
        sampler=sampler,
        objectives=["accuracy", "area"],
    )
    space = joint()
    study.enqueue(space.scan(scan, sizes) if scan else [], scan=True)
    problem: Any = SimpleNamespace(
        shapes=SHAPES, planned_costs=cost, planned_dense=lambda: DENSE_VALUES
    )
    suggest = SurrogateSampler(study, space, problem, pool=100) if sampler == "surrogate" else None
    if suggest is not None:
        study.judge = suggest.goes_on
    while not study.over:
        proposal = study.propose(space, cost, DENSE_VALUES, suggest)
        if proposal is None:
            continue
        epochs = study.config.rungs[proposal.rung]
        found = done(accuracy(proposal.candidate, epochs), cost(proposal.candidate)["area"])
        study.finish(proposal.number, replace(found, epochs=epochs))
    return study


def test_finds_more_than_random_with_as_many_trials(tmp_path: Path) -> None:
    random = searched(tmp_path, "random", 10, 0)
    for sizes in (0, 1):
        modelled = searched(tmp_path, "surrogate", 10, 3, sizes)
        assert modelled.spent == random.spent == 10
        assert modelled.hypervolume() > 1.02 * random.hypervolume()


def scan_row(log_error: float, wordlines: int, **layers: int) -> _Row:
    """A measurement of the scan: `layers` keep so many of the crossbar's rows, others all."""
    settings = {name: LayerSetting(nonzeros=layers.get(name)) for name in SHAPES}
    spec = CrossbarSpec(wordlines=wordlines)
    candidate = Candidate(
        network="mlp", method="tinyadc", plan=CrossbarPlan(default=spec), layers=settings
    )
    return _Row(candidate=candidate, epochs=0, log_error=log_error, projected=None)


def test_scan_is_looked_up_on_the_nearest_crossbar() -> None:
    rows = [
        scan_row(-2.0, 128),
        scan_row(-1.0, 128, fc1=32),
        scan_row(-1.8, 128, fc2=32),
        scan_row(-1.5, 512),
        scan_row(-1.4, 512, fc1=128),  # as strong a bound, on taller segments
    ]
    scan = _Scan(rows, SHAPES)

    def predict(row: _Row) -> float:
        return scan.predict(row.candidate, log_strengths(row.candidate, SHAPES))

    assert predict(rows[1]) == pytest.approx(1.0)
    assert predict(scan_row(0.0, 128, fc1=32, fc2=32)) == pytest.approx(1.2)
    assert predict(scan_row(0.0, 128, fc1=64)) == pytest.approx(0.5)
    assert predict(scan_row(0.0, 64, fc1=16)) == pytest.approx(1.0)
    assert predict(rows[4]) == pytest.approx(0.6)
    assert predict(scan_row(0.0, 1024, fc1=196)) == pytest.approx(0.6)  # of 784 rows
    assert predict(scan_row(0.0, 512, fc2=32)) == pytest.approx(0.7)  # scanned at 128 alone
    assert _Scan([], SHAPES).predict(rows[0].candidate, {}) == 0.0


def test_candidate_that_disappoints_goes_no_further(tmp_path: Path) -> None:
    study = searched(tmp_path, "random", 6, 0)
    study.reconfigure({"study": {"trials": 50}})
    problem: Any = SimpleNamespace(
        shapes=SHAPES, planned_costs=cost, planned_dense=lambda: DENSE_VALUES
    )
    sampler = SurrogateSampler(study, joint(), problem, pool=100)
    outcomes = {}
    study.judge = lambda number: outcomes.setdefault(number, sampler.goes_on(number))
    for found in (0.1, 0.89):
        proposal = study.propose(joint(), cost, DENSE_VALUES)
        assert proposal is not None
        measured = done(found, 0.9 * cost(proposal.candidate)["area"])
        study.finish(proposal.number, replace(measured, epochs=0))
    assert list(outcomes.values()) == [False, True]


def test_same_study_proposes_the_same(tmp_path: Path) -> None:
    study = searched(tmp_path, "random", 6, 0)
    problem: Any = SimpleNamespace(
        shapes=SHAPES, planned_costs=cost, planned_dense=lambda: DENSE_VALUES
    )
    first = SurrogateSampler(study, joint(), problem, pool=50)()
    assert SurrogateSampler(Study.open(study.folder), joint(), problem, pool=50)() == first
    assert first not in [trial.params for trial in study.trials()]


def test_without_measurements_it_draws_from_the_space(tmp_path: Path) -> None:
    problem: Any = SimpleNamespace(
        shapes=SHAPES, planned_costs=cost, planned_dense=lambda: DENSE_VALUES
    )
    parameters: Mapping[str, Any] = SurrogateSampler(new_study(tmp_path), joint(), problem)()
    space, candidate = joint(), None

    class Fixed:
        def suggest_int(self, name: str, low: int, high: int) -> int:
            assert low <= parameters[name] <= high
            return int(parameters[name])

    candidate = space.suggest(Fixed(), seed=0)
    assert candidate.layers.keys() == SHAPES.keys()


def test_process_that_sees_no_difference_answers_with_what_it_knows() -> None:
    process = _Process(np.ones((5, 3)), np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    mean, spread = process.predict(np.ones((2, 3)))
    assert mean.tolist() == [2.0, 2.0]
    assert spread == pytest.approx([2**0.5] * 2, abs=1e-3)


def test_search_goes_on_that_was_stopped_before_anybody_was_judged(tmp_path: Path) -> None:
    tables = {"fidelity": {"projection": True}, "train": {"epochs": 4}}
    objectives = ["accuracy", "area"]
    study = new_study(tmp_path, tables, trials=40, sampler="surrogate", objectives=objectives)
    problem: Any = SimpleNamespace(
        shapes=SHAPES, planned_costs=cost, planned_dense=lambda: DENSE_VALUES
    )
    for waiting in (3, 2):
        study.join()
        study.requeue_interrupted()
        sampler = SurrogateSampler(study, joint(), problem, pool=20)
        study.judge = sampler.goes_on
        for _ in range(waiting):
            proposal = study.propose(joint(), cost, DENSE_VALUES, sampler)
            assert proposal is not None
            area = cost(proposal.candidate)["area"]
            study.finish(proposal.number, done(accuracy(proposal.candidate, 0), area))
        study.leave()
        study = Study.open(study.folder)
    assert sum("rung.0" in trial.user_attrs for trial in study.unended()) >= 3
