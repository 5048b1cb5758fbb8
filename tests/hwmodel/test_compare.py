from dataclasses import asdict, dataclass

import pytest

from hwmodel.accelerator import CostModel
from hwmodel.adc import ADC_LAWS, AdcCost, SarSplitLaw, adc_law
from hwmodel.compare import breakdown, dominant, under_laws, under_policies
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.geometry import LayerShape, plan_layer
from hwmodel.policies import POLICIES

MODEL = CostModel(load_preset("isaac-8bit-weights"), adc_law("sar_split"))
LAYERS = [
    plan_layer(LayerShape(name="a", rows=300, outputs=40, positions=9), CrossbarSpec(), nonzeros=n)
    for n in (None, 5)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickyLaw(SarSplitLaw):
    """Refuses what survey laws refuse: few bits."""

    name: str = "picky"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        if bits < 6:
            raise OutOfRangeError(f"ADC bits is {bits}; allowed by picky: 6 up")
        return SarSplitLaw().cost(bits, rate_hz, node_m)


def test_the_band_holds_every_law_and_says_who_refused() -> None:
    band = under_laws(MODEL, LAYERS, {**ADC_LAWS, "picky": PickyLaw()})
    assert band["refused"] == {"picky": "a: ADC bits is 4; allowed by picky: 6 up"}
    answered = {name for name in ADC_LAWS if name in band["laws"]}
    assert {"linear", "pow2", "sar_split"} <= answered
    for name in answered:
        report = MODEL.under(law=ADC_LAWS[name]).evaluate(LAYERS)
        assert band["laws"][name]["totals"] == asdict(report.totals)
        assert band["laws"][name]["extrapolated"] == report.extrapolated
    areas = [band["laws"][name]["totals"]["area_m2"] for name in answered]
    assert band["range"]["area_m2"] == {"low": min(areas), "high": max(areas)}


def test_a_band_that_every_law_refuses_is_empty() -> None:
    band = under_laws(MODEL, LAYERS, {"picky": PickyLaw()})
    assert (band["laws"], band["range"]) == ({}, {})


def test_the_dominant_component_has_the_largest_part() -> None:
    report = MODEL.evaluate(LAYERS)
    parts, found = report.by_component(), dominant(report)
    assert list(found) == ["area_m2", "energy_j", "power_w"]
    assert found["energy_j"]["component"] == next(iter(parts))
    assert found["power_w"] == found["energy_j"]
    leader = parts[found["area_m2"]["component"]]["area_m2"]
    assert leader == max(part["area_m2"] for part in parts.values())
    assert found["area_m2"]["share"] == pytest.approx(leader / report.totals.area_m2)
    assert dominant(MODEL.evaluate([])) == {}


def test_policies_stand_side_by_side() -> None:
    found = under_policies(MODEL, LAYERS)
    assert tuple(found["totals"]) == POLICIES
    for name, totals in found["totals"].items():
        assert totals == asdict(MODEL.under(policy=name).evaluate(LAYERS).totals)
    picky = under_policies(MODEL.under(law=PickyLaw()), LAYERS)
    assert set(picky["totals"]) == {"chip_max", "early_stop"}
    assert set(picky["refused"]) == {"layer", "slice", "tile_types:2"}
    with pytest.raises(ConfigError, match="ADC policy is 'best'"):
        under_policies(MODEL, LAYERS, ["best"])


def test_breakdown_adds_up_and_begins_with_the_adcs() -> None:
    report = MODEL.evaluate(LAYERS)
    parts = breakdown(report)
    assert next(iter(parts)) == "adc"
    assert sum(part["area_m2"] for part in parts.values()) == pytest.approx(report.totals.area_m2)
    assert sum(part["power_w"] for part in parts.values()) == pytest.approx(report.totals.power_w)
