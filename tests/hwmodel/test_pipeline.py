import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.batch import BatchCostModel
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, MappingError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer
from hwmodel.pipeline import balance_pipeline

PRESET = load_preset("isaac-8bit-weights")
MODEL = CostModel(PRESET, adc_law("sar_split"))


def layer(name: str, outputs: int, positions: int, size: int = 128) -> MappedLayer:
    shape = LayerShape(name=name, rows=100, outputs=outputs, positions=positions)
    return plan_layer(shape, CrossbarSpec(bitlines=size))


def slowest_s(layers: list[MappedLayer]) -> float:
    return max(record.time_s for record in MODEL.evaluate(layers).layers)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 7), st.sampled_from((128, 256))),
        min_size=1,
        max_size=3,
    ),
    spare=st.integers(0, 20),
)
def test_no_replication_within_the_budget_is_faster(
    sizes: list[tuple[int, int, int]], spare: int
) -> None:
    layers = [layer(f"l{i}", *size) for i, size in enumerate(sizes)]
    budget = sum(x.crossbars for x in layers) + spare
    found = balance_pipeline(layers, PRESET, budget)
    assert sum(x.crossbars for x in found) <= budget
    tried = [
        [replace(x, replication=n) for x, n in zip(layers, counts, strict=True)]
        for counts in product(*(range(1, x.shape.positions + 1) for x in layers))
    ]
    best = min(slowest_s(x) for x in tried if sum(layer.crossbars for layer in x) <= budget)
    assert slowest_s(found) == pytest.approx(best)


def test_copies_raise_throughput_and_area_but_no_energy_of_conversions() -> None:
    layers = [layer("a", 16, 64), layer("b", 16, 4)]
    more = balance_pipeline(layers, PRESET, 17)
    assert [x.replication for x in more] == [16, 1]
    one, balanced = MODEL.evaluate(layers), MODEL.evaluate(more)
    assert balanced.totals.ops_per_s == pytest.approx(16 * one.totals.ops_per_s)
    assert balanced.totals.latency_s < one.totals.latency_s
    assert balanced.totals.crossbars == 17
    assert balanced.layers[0].conversions == one.layers[0].conversions
    assert balanced.layers[0].adc_energy_j == one.layers[0].adc_energy_j
    assert balanced.layers[0].to_json()["replication"] == 16
    assert balanced.layers[0].utilisation == pytest.approx(one.layers[0].utilisation)


def test_a_layer_that_is_never_read_keeps_one_copy() -> None:
    nothing = replace(
        layer("z", 16, 9), adc_bits_per_slice=(0,) * 4, segments_per_slice=(0,) * 4, nonzeros=0
    )
    found = balance_pipeline([nothing, layer("a", 16, 9)], PRESET, 100)
    assert [x.replication for x in found] == [1, 9]
    assert balance_pipeline([nothing], PRESET, 1) == [nothing]
    assert balance_pipeline([], PRESET, 0) == []


def test_a_budget_below_one_copy_each_is_refused() -> None:
    with pytest.raises(MappingError, match="crossbar budget is 1; allowed: 2 up"):
        balance_pipeline([layer("a", 16, 9), layer("b", 16, 9)], PRESET, 1)


def test_cost_model_copies_slow_layers_within_its_budget() -> None:
    layers = [layer("a", 40, 64), layer("b", 40, 4)]
    law = adc_law("sar_split")
    plain = CostModel(PRESET, law).evaluate(layers)
    copied = CostModel(PRESET, law, replication=3).evaluate(layers)
    own = sum(x.crossbars for x in layers)
    assert plain.totals.crossbars == own < copied.totals.crossbars <= 3 * own
    assert copied.totals.latency_s < plain.totals.latency_s
    assert copied.totals.area_m2 > plain.totals.area_m2
    assert copied.totals.ops_per_s > plain.totals.ops_per_s
    assert [x.conversions for x in copied.layers] == [x.conversions for x in plain.layers]


@pytest.mark.parametrize("times", [0.5, math.nan, math.inf])
def test_impossible_budgets_of_the_cost_model_are_refused(times: float) -> None:
    with pytest.raises(
        ConfigError, match=f"replication is {times}; allowed: a finite number, 1 up"
    ):
        CostModel(PRESET, adc_law("sar_split"), replication=times)


def test_batch_refuses_copies_that_a_model_would_choose() -> None:
    with pytest.raises(ConfigError, match=r"replication of a batch is 2\.0"):
        BatchCostModel(CostModel(PRESET, adc_law("sar_split"), replication=2.0))
