from pathlib import Path

from search.blame import why_empty
from tests.search.fakes import DENSE_VALUES, Ladder, done, failed, new_study, price, try_one


def test_bounds_are_blamed_the_strictest_first_with_the_nearest_value(tmp_path: Path) -> None:
    bounds = ["accuracy >= 0.95", "area <= 0.5x", "power <= 0.99"]
    study = new_study(tmp_path, constraints=bounds)
    study.enqueue([{"x": 90}, {"x": 10}, {"x": 20}, {"x": 30}, {"x": 40}])
    for accuracy in (0.9, 0.8, 0.7):
        try_one(study, done(accuracy, 0.4, power=0.995 if accuracy == 0.7 else 0.4))
    try_one(study, failed("loss is nan"))
    assert study.front() == []
    accuracy, area, power, failures = why_empty(study).split("; ")
    assert accuracy == "'accuracy >= 0.95' excludes 3 of 4 trials (nearest: 0.9)"
    assert {area, power} == {
        "'area <= 0.5x' excludes 1 of 4 trials (others keep it)",
        "'power <= 990 mW' excludes 1 of 4 trials (others keep it)",
    }
    assert failures == "1 trials failed, 1 of them: loss is nan"


def test_planned_costs_come_near_too(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["area <= 0.2x"])
    study.enqueue([{"x": 100}, {"x": 25}, {"x": 10}])
    assert study.propose(Ladder(), price, DENSE_VALUES) is not None
    assert why_empty(study) == "'area <= 0.2x' excludes 2 of 2 trials (nearest: 0.25x)"


def test_nothing_is_to_blame_before_the_first_trial(tmp_path: Path) -> None:
    assert why_empty(new_study(tmp_path)) == "no trial has been measured"
