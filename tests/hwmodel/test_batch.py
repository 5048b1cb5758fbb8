import tracemalloc
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.accelerator import PROVISIONINGS, CostModel
from hwmodel.adc import ADC_LAWS, adc_law
from hwmodel.batch import WORK_BYTES, BatchCostModel, CandidateBatch, crossbar_choices
from hwmodel.components import Component, load_preset, preset_names
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError, MappingError, OutOfRangeError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer

SAR = adc_law("sar_split")
POLICIES = ("layer", "chip_max", "early_stop")


@st.composite
def specs(draw: st.DrawFn) -> CrossbarSpec:
    return CrossbarSpec(
        wordlines=draw(st.integers(1, 200)),
        bitlines=draw(st.integers(16, 600)),
        cell_bits=draw(st.sampled_from((1, 2, 4))),
        dac_bits=draw(st.sampled_from((1, 2))),
        weight_bits=draw(st.sampled_from((2, 5, 8))),
        input_bits=draw(st.sampled_from((2, 8))),
        sign_encoding=draw(st.sampled_from(SignEncoding)),
    )


@st.composite
def shapes(draw: st.DrawFn) -> tuple[LayerShape, ...]:
    sizes = st.tuples(
        st.integers(1, 700), st.integers(1, 90), st.sampled_from((1, 1, 3)), st.integers(1, 50)
    )
    found = draw(st.lists(sizes, min_size=1, max_size=4))
    return tuple(
        LayerShape(name=f"l{i}", rows=r, outputs=o, groups=g, positions=p)
        for i, (r, o, g, p) in enumerate(found)
    )


@st.composite
def settings_of(draw: st.DrawFn, shape: LayerShape) -> dict[str, int]:
    return {
        "rows": draw(st.integers(0, shape.rows)),
        "outputs": draw(st.integers(0, shape.outputs)),
        "nonzeros": draw(st.integers(1, 250)),
        "replication": draw(st.integers(1, min(3, shape.positions))),
    }


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[LayerShape, ...], list[CrossbarSpec], Any, Any]:
    layers, kinds = draw(shapes()), draw(st.lists(specs(), min_size=1, max_size=3))
    count = draw(st.integers(1, 3))
    which = [[draw(st.integers(0, len(kinds) - 1)) for _ in layers] for _ in range(count)]
    chosen = [[draw(settings_of(shape)) for shape in layers] for _ in range(count)]
    return layers, kinds, which, chosen


def one_by_one(plan: Any) -> list[list[MappedLayer]]:
    layers, kinds, which, chosen = plan
    return [
        [
            plan_layer(shape, kinds[kind], **setting)
            for shape, kind, setting in zip(layers, row, settings_, strict=True)
        ]
        for row, settings_ in zip(which, chosen, strict=True)
    ]


def planned(plan: Any) -> CandidateBatch:
    layers, kinds, which, chosen = plan
    arrays = {name: [[setting[name] for setting in row] for row in chosen] for name in chosen[0][0]}
    return CandidateBatch.planned(layers, kinds, which, **arrays)


def assert_equal(model: CostModel, batch: CandidateBatch, mapped: list[list[MappedLayer]]) -> None:
    totals = BatchCostModel(model).evaluate(batch)
    for index, layers in enumerate(mapped):
        expected = asdict(model.evaluate(layers).totals)
        assert asdict(totals[index]) == pytest.approx(expected, rel=1e-9, abs=0)


@settings(max_examples=150, deadline=None)
@given(
    plan=plans(),
    preset=st.sampled_from(preset_names()),
    law=st.sampled_from(sorted(ADC_LAWS)),
    policy=st.sampled_from(POLICIES),
    provisioning=st.sampled_from(PROVISIONINGS),
    include_io=st.booleans(),
)
def test_a_batch_costs_what_its_candidates_cost_one_by_one(
    plan: Any, preset: str, law: str, policy: str, provisioning: str, include_io: bool
) -> None:
    model = CostModel(load_preset(preset), adc_law(law), policy, provisioning, include_io)
    mapped = one_by_one(plan)
    try:
        for layers in mapped:
            model.evaluate(layers)
        BatchCostModel(model).evaluate(planned(plan))
    except OutOfRangeError:
        return
    assert_equal(model, planned(plan), mapped)


@settings(max_examples=100, deadline=None)
@given(plan=plans())
def test_a_planned_batch_is_the_worst_case_of_its_layers(plan: Any) -> None:
    mapped, batch = one_by_one(plan), planned(plan)
    for row, layers in enumerate(mapped):
        for column, layer in enumerate(layers):
            found = {
                name: int(getattr(batch, name)[row, column])
                for name in ("adc_bits", "unit_line_bits", "segments", "nonzeros", "replication")
            }
            assert found == {
                "adc_bits": layer.adc_bits,
                "unit_line_bits": layer.unit_line_bits,
                "segments": sum(layer.segments_per_slice),
                "nonzeros": layer.nonzeros,
                "replication": layer.replication,
            }


def layer(name: str = "a", **kept: int) -> MappedLayer:
    shape = LayerShape(name=name, rows=300, outputs=40, positions=9)
    return plan_layer(shape, CrossbarSpec(), **kept)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("provisioning", PROVISIONINGS)
def test_layers_read_from_weights_cost_the_same_in_a_batch(policy: str, provisioning: str) -> None:
    zeros = replace(
        layer("b"), adc_bits_per_slice=(0,) * 4, segments_per_slice=(0,) * 4, nonzeros=0
    )
    fewer = replace(layer("b"), adc_bits_per_slice=(5, 3, 0, 2), segments_per_slice=(9, 7, 0, 1))
    mapped = [[layer(), zeros], [zeros, fewer], [layer(nonzeros=1), fewer], [zeros, zeros]]
    mapped = [
        [replace(x, shape=replace(x.shape, name=n)) for x, n in zip(row, "ab", strict=True)]
        for row in mapped
    ]
    model = CostModel(load_preset("isaac"), SAR, policy, provisioning)
    assert_equal(model, CandidateBatch.of(mapped), mapped)


def test_parts_of_the_chip_are_charged_by_event_and_by_time() -> None:
    clock = Component(
        name="clock",
        level="chip",
        count=2.0,
        power_w=1.0,
        area_m2=1e-6,
        kind="assumed",
        source="a test",
        event="router_byte",
        energy_j=1e-9,
        static_power_w=0.5,
    )
    leaky = Component(
        name="leak",
        level="tile",
        count=1.0,
        power_w=1.0,
        area_m2=1e-6,
        kind="assumed",
        source="a test",
        static_power_w=0.5,
    )
    isaac = load_preset("isaac")
    model = CostModel(replace(isaac, components=(*isaac.components, clock, leaky)), SAR)
    mapped = [[layer()], [layer(nonzeros=3)]]
    assert_equal(model, CandidateBatch.of(mapped), mapped)


def test_sizes_become_the_distinct_crossbars() -> None:
    kinds, which = crossbar_choices(CrossbarSpec(), [[64, 128], [128, 64]], 256)
    assert [(spec.wordlines, spec.bitlines) for spec in kinds] == [(64, 256), (128, 256)]
    assert which.tolist() == [[0, 1], [1, 0]]


def test_no_candidates_have_no_totals() -> None:
    which = np.zeros((0, 1), dtype=np.int64)
    empty = CandidateBatch.planned(SHAPES, [CrossbarSpec()], which)
    assert len(BatchCostModel(CostModel(load_preset("isaac"), SAR)).evaluate(empty).area_m2) == 0


def test_work_memory_does_not_grow_with_the_batch() -> None:
    layers = tuple(
        LayerShape(name=f"l{i}", rows=600, outputs=90, positions=50, groups=1 + i % 2)
        for i in range(20)
    )
    model = BatchCostModel(CostModel(load_preset("isaac"), SAR, "early_stop", "whole"))
    peaks = []
    for count in (2000, 8000):
        which = np.zeros((count, 20), dtype=np.int64)
        batch = CandidateBatch.planned(layers, [CrossbarSpec()], which, nonzeros=5)
        tracemalloc.start()
        model.evaluate(batch)
        peaks.append(tracemalloc.get_traced_memory()[1] - 104 * count)
        tracemalloc.stop()
    assert max(peaks) < WORK_BYTES
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]


@pytest.mark.parametrize("policy", ["slice", "tile_types:2"])
def test_policies_that_need_more_are_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match="allowed: layer, chip_max, early_stop"):
        BatchCostModel(CostModel(load_preset("isaac"), SAR, policy))


SHAPES = (LayerShape(name="a", rows=9, outputs=4, positions=2),)


@pytest.mark.parametrize(
    ("which", "chosen", "message"),
    [
        ([[1]], {}, "spec has values outside 0 to 0"),
        ([[0, 0]], {}, r"spec has shape \(1, 2\); allowed: \[candidates, 1\]"),
        ([[0]], {"rows": 10}, "rows is 10 in candidate 0, layer a; allowed: 0 to 9"),
        ([[0]], {"outputs": -1}, "outputs is -1 in candidate 0, layer a; allowed: 0 to 4"),
        ([[0], [0]], {"replication": [[1], [3]]}, "replication is 3 in candidate 1"),
        ([[0]], {"nonzeros": 0}, "below one non-zero"),
        ([[0]], {"nonzeros": 1.5}, "nonzeros has type float64; allowed: integers"),
        ([[0]], {"rows": [[1], [2]]}, r"rows has shape \(2, 1\); allowed: \(1, 1\)"),
        ([[0]], {"columns": 3}, "unknown array 'columns'"),
    ],
)
def test_impossible_batches_are_named(which: Any, chosen: Any, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        CandidateBatch.planned(SHAPES, [CrossbarSpec()], which, **chosen)


def test_batches_of_nothing_of_two_networks_or_of_masks_are_refused() -> None:
    with pytest.raises(MappingError, match="0 candidates"):
        CandidateBatch.of([])
    with pytest.raises(MappingError, match="different networks"):
        CandidateBatch.of([[layer("a")], [layer("b")]])
    with pytest.raises(MappingError, match="batch: a has a shift mask of 3 bits; allowed: layers"):
        CandidateBatch.of([[replace(layer("a"), mask_bits=3)]])
    batch = CandidateBatch.of([[layer()]])
    with pytest.raises(MappingError, match="rows has shape"):
        replace(batch, rows=batch.rows[0])
