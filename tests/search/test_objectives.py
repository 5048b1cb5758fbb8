from dataclasses import asdict

import pytest

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.components import load_preset
from hwmodel.errors import ConfigError
from hwmodel.geometry import plan_layer
from search.objectives import (
    ACCURACIES,
    COSTS,
    OBJECTIVES,
    Bound,
    check_objectives,
    cost_values,
    direction,
    parse_bound,
)
from tests.search.fakes import SHAPES

DENSE = {"accuracy": 0.9, "area": 4.0, "power": 0.0}


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("area <= 2e-6", Bound(objective="area", at_most=True, limit=2e-6, relative=False)),
        ("power<=0.5x", Bound(objective="power", at_most=True, limit=0.5, relative=True)),
        (" power <= .5 x ", Bound(objective="power", at_most=True, limit=0.5, relative=True)),
        (
            "accuracy >= 0.85",
            Bound(objective="accuracy", at_most=False, limit=0.85, relative=False),
        ),
        ("adc_area<=1E-3", Bound(objective="adc_area", at_most=True, limit=1e-3, relative=False)),
        ("area <= 5 mm2", Bound(objective="area", at_most=True, limit=5e-6, relative=False)),
        ("power<=300mW", Bound(objective="power", at_most=True, limit=0.3, relative=False)),
        ("energy <= 2 uJ", Bound(objective="energy", at_most=True, limit=2e-6, relative=False)),
        ("latency <= 7 ns", Bound(objective="latency", at_most=True, limit=7e-9, relative=False)),
        ("latency <= 7.1e2 s", Bound(objective="latency", at_most=True, limit=710, relative=False)),
    ],
)
def test_bound_is_read_as_written(text: str, bound: Bound) -> None:
    assert parse_bound(text) == bound
    assert parse_bound(bound.text) == bound


@pytest.mark.parametrize(
    "text",
    [
        "",
        "area",
        "area < 1",
        "area = 1",
        "area <= ",
        "area <= one",
        "area <= 1y",
        "area <= nan",
        "area <= inf",
        "<= 1",
        "area <= 1 <= 2",
        "1 >= area",
        "area <= 1-2",
        "area <= 1e",
        "area <= ..",
    ],
)
def test_text_that_is_no_bound_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ConfigError, match="constraint '") as caught:
        parse_bound(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("area <= 5 mW", "unknown unit 'mW'; allowed: mm2, um2, m2, x or none"),
        ("power <= 5 Mw", "unknown unit 'Mw'; allowed: mW, uW, W, x or none"),
        ("accuracy >= 85 percent", "unknown unit 'percent'; allowed: x or none"),
        ("accuracy >= 1.5", "1.5 for accuracy; allowed: 0 to 1"),
        ("robust_accuracy >= 85", "85 for robust_accuracy; allowed: 0 to 1"),
        ("accuracy >= -0.1", "-0.1 for accuracy; allowed: 0 to 1"),
        ("area <= -1", "-1 for area; allowed: a finite number, 0 up"),
        ("area <= 1e999", "1e999 for area; allowed: a finite number, 0 up"),
    ],
)
def test_value_that_no_objective_has_is_refused_with_what_is_allowed(
    text: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bound(text)
    assert str(caught.value) == f"constraint {text!r}: {allowed}"


def test_bound_on_an_unknown_objective_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=f"'size'; allowed: {', '.join(OBJECTIVES)}"):
        parse_bound("size <= 1")


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [
        ("area <= 2", 2.0, 0.0),
        ("area <= 2", 3.0, 0.5),
        ("area <= 2", 1.0, -0.5),
        ("area <= 0.5x", 3.0, 0.5),
        ("accuracy >= 0.8", 0.6, 0.25),
        ("accuracy >= 0.8", 0.8, 0.0),
        ("accuracy >= 1x", 0.9, 0.0),
        ("accuracy >= 1.1x", 0.9, 1 / 11),
        ("area <= 0", 2.0, 2.0),
        ("power <= 0.5x", 3.0, 3.0),  # dense draws nothing: the excess itself
        ("area >= 2", 1.0, 0.5),
    ],
)
def test_violation_is_relative_to_the_bound(text: str, value: float, violation: float) -> None:
    bound = parse_bound(text)
    found = bound.violation({bound.objective: value}, DENSE)
    assert found == pytest.approx(violation)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("accuracy >= 0.87654321", "accuracy >= 0.87654321"),
        ("area <= 2.3e-6", "area <= 2.3 mm2"),
        ("adc_area <= 20000 um2", "adc_area <= 0.02 mm2"),
        ("power <= 0.07", "power <= 70 mW"),
        ("power <= 1.50x", "power <= 1.5x"),
        ("latency <= 1 s", "latency <= 1000000 us"),
    ],
)
def test_text_of_a_bound_is_in_the_unit_that_people_are_shown(written: str, text: str) -> None:
    bound = parse_bound(written)
    assert bound.text == text
    assert parse_bound(text) == bound


@pytest.mark.parametrize(
    ("text", "violation", "value"),
    [
        ("area <= 2 mm2", 0.5, "3 mm2"),
        ("accuracy >= 0.8", 0.25, "0.6"),
        ("power <= 0.5x", 0.1234567, "0.5617x"),
    ],
)
def test_violation_is_told_as_a_value(text: str, violation: float, value: str) -> None:
    assert parse_bound(text).at(violation) == value


def test_accuracies_alone_are_maximised() -> None:
    assert tuple(name for name in OBJECTIVES if direction(name) == "maximize") == ACCURACIES
    assert {direction(name) for name in COSTS} == {"minimize"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("accuracy", "size"), "names 'size'; allowed: accuracy, robust_accuracy, adc_area"),
        ((), "one or more, no repeats"),
        (("area", "area"), "one or more, no repeats"),
    ],
)
def test_impossible_objectives_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_objectives(names)


def test_costs_are_the_totals_of_the_report() -> None:
    preset = load_preset("isaac-8bit-weights")
    report = CostModel(preset, adc_law("sar_split")).evaluate(
        [plan_layer(shape, preset.crossbar) for shape in SHAPES.values()]
    )
    totals = asdict(report.totals)
    assert cost_values(report) == {name: totals[field] for name, field in COSTS.items()}
    assert list(cost_values(report)) == [name for name in OBJECTIVES if name not in ACCURACIES]
