import pytest

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.batch import BatchCostModel, CandidateBatch
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.digital import DigitalUnit
from hwmodel.errors import ConfigError, MappingError
from hwmodel.geometry import LayerShape, plan_layer
from hwmodel.layers import DigitalLayer, layer_from_json, split_layers

MODEL = CostModel(load_preset("isaac-8bit-weights"), adc_law("sar_split"))
MAPPED = plan_layer(LayerShape(name="a", rows=300, outputs=40, positions=9), CrossbarSpec())
DIGITAL = (
    DigitalLayer(name="lstm", macs=5_000_000, weights=4000),
    DigitalLayer(name="attention", macs=300_000, weights=0),
)


def test_digital_layers_add_their_macs_weights_and_time() -> None:
    without, found = MODEL.evaluate([MAPPED]), MODEL.evaluate([MAPPED, *DIGITAL])
    unit, macs = MODEL.preset.digital, 5_300_000
    energy_j = macs * (unit.mac_energy_j + unit.weight_energy_j)
    area_m2 = unit.macs_per_cycle * unit.mac_area_m2 + 4000 * unit.weight_area_m2
    time_s = macs / (unit.macs_per_cycle * unit.rate_hz)
    more = found.totals
    assert more.area_m2 - without.totals.area_m2 == pytest.approx(area_m2)
    assert more.energy_j - without.totals.energy_j == pytest.approx(energy_j)
    assert more.latency_s - without.totals.latency_s == pytest.approx(time_s)
    assert more.adc_area_m2 == without.totals.adc_area_m2
    ops = 2 * (MAPPED.shape.macs + macs)
    assert more.ops_per_s == pytest.approx(ops / max(time_s, found.layers[0].time_s))


def test_totals_stay_sums_of_leaves() -> None:
    found = MODEL.evaluate([MAPPED, *DIGITAL])
    assert found.tree.area_m2 == pytest.approx(found.totals.area_m2, rel=1e-12)
    assert found.tree.energy_j == pytest.approx(found.totals.energy_j, rel=1e-12)
    assert {"digital_mac", "digital_weights"} <= set(found.by_component())
    assert found.to_json()["digital"][0] == {"name": "lstm", "macs": 5_000_000, "weights": 4000}


def test_array_is_not_built_where_nobody_needs_it() -> None:
    assert not {"digital_mac", "digital_weights"} & set(MODEL.evaluate([MAPPED]).by_component())


def test_batch_adds_the_same() -> None:
    batch = CandidateBatch.of([[MAPPED]])
    for digital in ((), DIGITAL):
        one = MODEL.evaluate([MAPPED, *digital]).totals
        many = BatchCostModel(MODEL).evaluate(batch, digital)[0]
        for name in one.__dataclass_fields__:
            assert getattr(many, name) == pytest.approx(getattr(one, name), rel=1e-9)


def test_layers_come_back_from_their_json() -> None:
    for layer in (MAPPED, *DIGITAL):
        assert layer_from_json(layer.to_json()) == layer
    assert split_layers([DIGITAL[0], MAPPED, DIGITAL[1]]) == ([MAPPED], list(DIGITAL))


def test_impossible_numbers_are_named() -> None:
    with pytest.raises(MappingError, match="x: -1 multiply-accumulates"):
        DigitalLayer(name="x", macs=-1, weights=0)
    with pytest.raises(ConfigError, match=r"digital.rate_hz is 0; allowed: a positive"):
        DigitalUnit(rate_hz=0)
    with pytest.raises(ConfigError, match=r"digital.mac_area_m2 is nan"):
        DigitalUnit(mac_area_m2=float("nan"))
