import itertools
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.errors import ConfigError, StudyError
from search.front import hypervolume, nondominated, select
from search.objectives import ACCURACIES, OBJECTIVES

Point = dict[str, float]
_LEVELS = st.integers(0, 10).map(lambda eighths: eighths / 8)


@st.composite
def fronts(draw: st.DrawFn, most: int = 7) -> tuple[list[Point], list[str]]:
    """Points on a coarse grid, so that ties and repeats happen."""
    names = draw(st.lists(st.sampled_from(OBJECTIVES), min_size=1, max_size=4, unique=True))
    values = st.fixed_dictionaries(
        {
            name: _LEVELS.map(lambda v: min(v, 1.0)) if name in ACCURACIES else _LEVELS
            for name in names
        }
    )
    return draw(st.lists(values, min_size=0, max_size=most)), names


def losses(point: Point, names: list[str]) -> list[float]:
    return [-point[name] if name in ACCURACIES else point[name] for name in names]


def dominates(one: list[float], other: list[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(fronts())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nondominated_is_what_brute_force_finds(case: tuple[list[Point], list[str]]) -> None:
    points, names = case
    all_losses = [losses(point, names) for point in points]
    expected = [
        index
        for index, own in enumerate(all_losses)
        if not any(dominates(other, own) for other in all_losses) and own not in all_losses[:index]
    ]
    assert nondominated(points, names) == expected


def boxes(points: list[Point], reference: Point) -> list[list[float]]:
    """Lower corners in the unit cube: shares of cost, and of the error left."""
    return [
        [
            (1 - point[name]) / (1 - reference[name])
            if name in ACCURACIES
            else point[name] / reference[name]
            for name in reference
        ]
        for point in points
    ]


def union_volume(corners: list[list[float]]) -> float:
    """Volume of the union of the boxes [corner, 1], by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(corners) + 1):
        for chosen in itertools.combinations(corners, size):
            worst = [max(column) for column in zip(*chosen, strict=True)]
            volume = math.prod(max(0.0, 1 - value) for value in worst)
            total += volume if size % 2 else -volume
    return total


@given(fronts(most=5), st.sampled_from((0.0, 0.25, 0.5)))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hypervolume_is_what_brute_force_finds(
    case: tuple[list[Point], list[str]], least: float
) -> None:
    points, names = case
    reference = {name: least if name in ACCURACIES else 0.75 for name in names}
    found = hypervolume(points, reference)
    assert found == pytest.approx(union_volume(boxes(points, reference)), abs=1e-9)


def test_hypervolume_spans_nothing_to_the_whole_cube() -> None:
    reference = {"accuracy": 0.5, "area": 2.0}
    assert hypervolume([], reference) == 0.0
    assert hypervolume([dict(reference)], reference) == 0.0
    assert hypervolume([{"accuracy": 1.0, "area": 0.0}], reference) == 1.0
    assert hypervolume([{"accuracy": 0.75, "area": 1.0}], reference) == pytest.approx(0.25)


@pytest.mark.parametrize("beyond", [{"accuracy": 0.4, "area": 0.1}, {"accuracy": 1.0, "area": 2.5}])
def test_points_beyond_the_reference_add_nothing(beyond: Point) -> None:
    reference = {"accuracy": 0.5, "area": 2.0}
    inside = {"accuracy": 0.75, "area": 1.0}
    assert hypervolume([inside, beyond], reference) == hypervolume([inside], reference)


def test_cost_that_dense_does_not_have_gains_nothing() -> None:
    assert hypervolume([{"area": 0.0}], {"area": 0.0}) == 0.0


FRONT = [
    {"accuracy": 0.95, "area": 9.0, "power": 5.0},
    {"accuracy": 0.90, "area": 4.0, "power": 6.0},
    {"accuracy": 0.88, "area": 2.0, "power": 2.0},
    {"accuracy": 0.50, "area": 1.0, "power": 1.0},
]
NAMES = ["accuracy", "area", "power"]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("accuracy", 0),
        ("area", 3),
        ("power", 3),
        ("knee", 2),
        ("accuracy>=0.88,min:area", 2),
        ("accuracy>=0.9,min:power", 0),
        ("accuracy >= 0.9 , min:area", 1),
        ("area<=4,power<=3,max:accuracy", 2),
        ("min:area", 3),
    ],
)
def test_rule_picks_its_member(rule: str, chosen: int) -> None:
    assert select(FRONT, NAMES, rule) == chosen


def test_knee_is_nearest_to_the_ideal_of_the_study_objectives() -> None:
    assert select(FRONT, ["accuracy"], "knee") == 0
    assert select(FRONT, ["area"], "knee") == 3
    assert select(FRONT[:1], NAMES, "knee") == 0
    assert select([FRONT[0], FRONT[0]], NAMES, "knee") == 0


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "size",
        "Knee",
        "accuracy>=0.88",
        "accuracy>=0.88,area",
        "accuracy>=0.88,min:size",
        "accuracy>=0.88,min:",
        "area<=0.5x,min:power",
        "best:area",
        "accuracy>=lots,min:area",
        "min:area,accuracy>=0.88",
        ",min:area",
    ],
)
def test_rule_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="allowed: "):
        select(FRONT, NAMES, rule)


@pytest.mark.parametrize("rule", ["max:area", "min:accuracy", "accuracy>=0.5,max:power"])
def test_goal_against_the_objective_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError):
        select(FRONT, NAMES, rule)


def test_bounds_that_nobody_keeps_are_named() -> None:
    with pytest.raises(StudyError, match=r"no front member keeps accuracy >= 0\.99"):
        select(FRONT, NAMES, "accuracy>=0.99,min:area")


def test_empty_front_is_an_error_of_the_study() -> None:
    with pytest.raises(StudyError, match="front is empty"):
        select([], NAMES, "knee")
