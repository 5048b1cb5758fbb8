import pytest

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.geometry import LayerShape, plan_layer
from search import stacks as stacking
from search.palette import COLOURS
from search.stacks import stacks

MODEL = CostModel(load_preset("isaac-8bit-weights"), adc_law("sar_split"))
SHAPE = LayerShape(name="conv", rows=300, outputs=40, positions=9)
REPORTS = {
    name: MODEL.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=count)])
    for name, count in (("dense", None), ("five", 5))
}


def test_stacks_add_up_to_each_network_and_none_is_empty() -> None:
    found = stacks(REPORTS)
    for index, report in enumerate(REPORTS.values()):
        for column in ("area_m2", "power_w"):
            whole = sum(stack.heights[column][index] for stack in found)
            assert whole == pytest.approx(getattr(report.totals, column))
    assert all(any(map(any, stack.heights.values())) for stack in found)


def test_every_stack_has_a_colour_of_its_own_that_is_its_name_s_everywhere() -> None:
    found = {stack.name: stack.colour for stack in stacks(REPORTS)}
    assert len(set(found.values())) == len(found)
    assert next(iter(found)) == "adc"
    assert found["adc"] == COLOURS["blue"]
    assert found["all others"] == COLOURS["grey"]
    other = MODEL.under(law=adc_law("pow2"))
    layers = [plan_layer(SHAPE, CrossbarSpec(wordlines=32), nonzeros=1)]
    again = {stack.name: stack.colour for stack in stacks({"x": other.evaluate(layers)})}
    assert len(again.keys() & found.keys()) > 5
    for name in again.keys() & found.keys():
        assert again[name] == found[name]


def test_component_that_has_no_colour_takes_one_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"adc": "blue", "eDRAM of another": "green", "optics": "orange"}
    monkeypatch.setattr(stacking, "_OWN", own)
    found = {stack.name: stack.colour for stack in stacks(REPORTS)}
    assert found["adc"] == COLOURS["blue"]
    assert {*found.values()} == {COLOURS[name] for name in ("blue", "green", "orange", "grey")}
