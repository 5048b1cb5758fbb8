import pytest

from search.rungs import goes_on

OBJECTIVES = ("accuracy", "area")
GONE_ON = 99
"""More than the rule lets, so that only the best of the whole rung go on."""


def at(accuracy: float, area: float) -> dict[str, float]:
    return {"accuracy": accuracy, "area": area}


def test_nobody_is_judged_before_there_is_someone_to_stop() -> None:
    assert goes_on(at(0.9, 0.5), [], OBJECTIVES, 3, gone_on=GONE_ON) is None
    assert goes_on(at(0.9, 0.5), [at(0.9, 0.6)], OBJECTIVES, 3, gone_on=GONE_ON) is None
    assert goes_on(at(0.9, 0.5), [at(0.9, 0.6)] * 2, OBJECTIVES, 3, gone_on=GONE_ON) is True


def test_dominated_candidates_stop_and_cheap_ones_go_on() -> None:
    mates = [at(0.9, 0.9), at(0.88, 0.5), at(0.86, 0.6), at(0.84, 0.7), at(0.82, 0.8)]
    assert goes_on(at(0.81, 0.95), mates, OBJECTIVES, 3, gone_on=GONE_ON) is False
    assert (
        goes_on(at(0.82, 0.05), mates, OBJECTIVES, 3, gone_on=GONE_ON) is True
    )  # the least accurate but cheapest


def test_one_in_so_many_of_a_front_goes_on() -> None:
    """Nothing of a front dominates the rest, so the larger shares of the hypervolume go first."""
    front = [at(0.8 + 0.02 * step, 0.1 * step) for step in range(1, 10)]
    for reduction in (2, 3, 5):
        chosen = [
            goes_on(
                point,
                [mate for mate in front if mate is not point],
                OBJECTIVES,
                reduction,
                gone_on=GONE_ON,
            )
            for point in front
        ]
        assert sum(map(bool, chosen)) == pytest.approx(9 / reduction, abs=1)


def test_of_equals_the_newest_stops() -> None:
    point = at(0.9, 0.5)
    assert goes_on(point, [point] * 3, OBJECTIVES, 4, gone_on=GONE_ON) is False


def test_newest_goes_on_before_the_last_few_while_too_few_have() -> None:
    early = [at(0.8 + 0.01 * step, 0.1 * step) for step in range(1, 9)]
    late = [at(0.84, 0.5), at(0.83, 0.5)]
    newest = at(0.845, 0.48)  # nothing new beside the early ones, but more than the late ones
    for gone_on, expected in ((0, True), (99, False)):
        found = goes_on(newest, [*early, *late], OBJECTIVES, 3, gone_on=gone_on)
        assert found is expected
