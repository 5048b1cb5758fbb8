import pytest

from search.rungs import goes_on

REFERENCE = {"accuracy": 0.8, "area": 1.0}


def at(accuracy: float, area: float) -> dict[str, float]:
    return {"accuracy": accuracy, "area": area}


def test_nobody_is_judged_before_there_is_someone_to_stop() -> None:
    assert goes_on(at(0.9, 0.5), [], REFERENCE, 3) is None
    assert goes_on(at(0.9, 0.5), [at(0.9, 0.6)], REFERENCE, 3) is None
    assert goes_on(at(0.9, 0.5), [at(0.9, 0.6)] * 2, REFERENCE, 3) is True


def test_dominated_candidates_stop_and_cheap_ones_go_on() -> None:
    mates = [at(0.9, 0.9), at(0.88, 0.5), at(0.86, 0.6), at(0.84, 0.7), at(0.82, 0.8)]
    assert goes_on(at(0.81, 0.95), mates, REFERENCE, 3) is False
    assert goes_on(at(0.82, 0.05), mates, REFERENCE, 3) is True  # the least accurate but cheapest


def test_one_in_so_many_of_a_front_goes_on() -> None:
    """Nothing of a front dominates the rest, so the larger shares of the hypervolume go first."""
    front = [at(0.8 + 0.02 * step, 0.1 * step) for step in range(1, 10)]
    for reduction in (2, 3, 5):
        chosen = [
            goes_on(point, [mate for mate in front if mate is not point], REFERENCE, reduction)
            for point in front
        ]
        assert sum(map(bool, chosen)) == pytest.approx(9 / reduction, abs=1)


def test_candidate_outside_the_reference_stops() -> None:
    mates = [at(0.9, 0.5), at(0.85, 0.3), at(0.88, 0.4)]
    assert goes_on(at(0.5, 0.01), mates, REFERENCE, 3) is False
