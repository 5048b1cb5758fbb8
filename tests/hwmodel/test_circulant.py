from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.accelerator import PROVISIONINGS, CostModel
from hwmodel.adc import adc_law
from hwmodel.batch import BatchCostModel, CandidateBatch
from hwmodel.circulant import (
    Techniques,
    count_circulant,
    fitting_block,
    lay_circulant,
    plan_circulant,
    technique_table,
)
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.events import event_counts
from hwmodel.geometry import LayerShape, MappedLayer, crossbar_count, plan_layer
from hwmodel.pipeline import balance_pipeline

SPEC = CrossbarSpec()
VGG = LayerShape(name="conv", rows=4608, outputs=512, positions=16, kernel=9)
RESNET = LayerShape(name="conv", rows=576, outputs=64, positions=64, kernel=9)
NARROW = LayerShape(name="linear", rows=500, outputs=10)


@st.composite
def shapes(draw: st.DrawFn) -> LayerShape:
    kernel = draw(st.sampled_from((1, 4, 9)))
    return LayerShape(
        name="layer",
        rows=kernel * draw(st.integers(1, 80)),
        outputs=draw(st.integers(1, 80)),
        groups=draw(st.sampled_from((1, 1, 3))),
        positions=draw(st.integers(1, 9)),
        kernel=kernel,
    )


@st.composite
def specs(draw: st.DrawFn) -> CrossbarSpec:
    return CrossbarSpec(
        wordlines=draw(st.integers(1, 200)),
        bitlines=draw(st.integers(8, 300)),
        sign_encoding=draw(st.sampled_from(SignEncoding)),
    )


block_sizes = st.sampled_from((1, 3, 4, 8, 16, 32))


@pytest.mark.parametrize(
    ("inputs", "outputs", "side"), [(64, 64, 8), (3, 64, 3), (64, 6, 6), (1, 1, 1), (1, 64, 1)]
)
def test_narrow_layers_take_the_largest_block_that_fits(
    inputs: int, outputs: int, side: int
) -> None:
    assert fitting_block(8, inputs, outputs) == side


def test_one_stored_output_per_block_takes_a_read_per_rotation() -> None:
    laid = lay_circulant(VGG, SPEC, 8, duplication=1)
    assert (laid.rows, laid.outputs, laid.rotations) == (4608, 64, 8)
    assert lay_circulant(VGG, SPEC, 8, duplication=3).rotations == 3
    assert asdict(lay_circulant(VGG, SPEC, 8, duplication=8)) == {
        "block_size": 8,
        "duplication": 8,
        "rotations": 1,
        "rows": 4608,
        "outputs": 512,
    }


def test_edge_blocks_are_stored_whole() -> None:
    shape = LayerShape(name="conv", rows=9 * 6, outputs=7, kernel=9)
    laid = lay_circulant(shape, SPEC, 4, duplication=1)
    assert (laid.rows, laid.outputs) == (9 * 8, 2)


@pytest.mark.parametrize("duplication", [0, 9])
def test_impossible_duplication_is_named(duplication: int) -> None:
    with pytest.raises(MappingError, match=f"duplication is {duplication}; allowed: 1 to 8"):
        lay_circulant(VGG, SPEC, 8, duplication=duplication)


@settings(deadline=None, max_examples=40)
@given(shape=shapes(), spec=specs(), block_size=block_sizes)
def test_duplication_is_the_largest_that_costs_no_crossbar(
    shape: LayerShape, spec: CrossbarSpec, block_size: int
) -> None:
    laid = lay_circulant(shape, spec, block_size)
    least, fewest = None, None
    for duplication in range(1, laid.block_size + 1):
        other = lay_circulant(shape, spec, block_size, duplication=duplication)
        crossbars = crossbar_count(shape.groups, other.rows, other.outputs, spec)
        if least is None or crossbars < least:
            least, fewest = crossbars, other.rotations
        elif crossbars == least:
            fewest = min(other.rotations, fewest or other.rotations)
    assert crossbar_count(shape.groups, laid.rows, laid.outputs, spec) == least
    assert laid.rotations == fewest


@settings(deadline=None, max_examples=40)
@given(shape=shapes(), spec=specs(), block_size=block_sizes)
def test_counts_with_every_technique_are_those_of_the_cost_model(
    shape: LayerShape, spec: CrossbarSpec, block_size: int
) -> None:
    counts = count_circulant(shape, spec, block_size)
    planned = plan_circulant(shape, spec, block_size)
    assert counts.crossbars == planned.crossbars
    assert counts.conversions == planned.conversions
    assert counts.cycles == planned.passes * planned.rotations * spec.cycle_count
    assert counts.utilisation == pytest.approx(planned.utilisation)
    written = planned.computed_outputs * shape.groups * shape.positions
    assert counts.buffer_reads == event_counts(planned, 16)["buffer_byte"] - written


def test_counts_of_a_wide_layer_by_hand() -> None:
    none = count_circulant(VGG, SPEC, 8, Techniques(**dict.fromkeys(asdict(Techniques()), False)))
    # 36 tiles; 64 stored outputs x 2 polarities fill a crossbar's 128 bitlines, 4 slices.
    assert none.crossbars == 36 * 4
    assert none.cells == 4608 * 64 * 8
    assert none.utilisation == 1.0
    assert none.cycles == 16 * 8 * 8
    assert none.buffer_reads == 4608 * 16 * 8 * 4
    assert none.conversions == 36 * 64 * 8 * 16 * 8 * 8
    everything = count_circulant(VGG, SPEC, 8)
    assert everything.buffer_reads == 4608 * 16
    assert everything.conversions == none.conversions


@settings(deadline=None, max_examples=40)
@given(shape=shapes(), spec=specs(), block_size=block_sizes)
def test_every_technique_saves_what_it_is_for(
    shape: LayerShape, spec: CrossbarSpec, block_size: int
) -> None:
    whole_outputs = spec.bitlines // spec.bitlines_per_output * spec.bitlines_per_output
    table = technique_table(shape, replace(spec, bitlines=whole_outputs), block_size)
    everything = table["all"]
    assert everything.crossbars <= table["without weight_slicing"].crossbars
    assert everything.crossbars <= table["dense"].crossbars
    assert everything.crossbars <= table["without duplication"].crossbars
    assert everything.cycles <= table["without duplication"].cycles
    assert everything.utilisation >= table["without duplication"].utilisation
    for name in ("slice_reuse", "tile_sharing"):
        assert everything.buffer_reads <= table[f"without {name}"].buffer_reads
        assert table["none"].buffer_reads >= table[f"only {name}"].buffer_reads
    if everything.cycles > table["dense"].cycles:
        assert everything.buffer_reads < table["without slice_reuse"].buffer_reads


def test_no_block_means_the_dense_mapping() -> None:
    depthwise = LayerShape(name="depthwise", rows=9, outputs=1, groups=8, positions=4, kernel=9)
    assert plan_circulant(depthwise, SPEC, 8) == plan_layer(depthwise, SPEC)
    assert plan_circulant(RESNET, SPEC, 1) == plan_layer(RESNET, SPEC)


def test_bounds_of_a_circulant_layer_hold_for_what_is_stored() -> None:
    planned = plan_circulant(VGG, SPEC, 8, nonzeros=5)
    assert planned.adc_bits == plan_layer(VGG, SPEC, nonzeros=5).adc_bits
    assert planned.nonzeros == 36 * 10 * 512
    assert plan_circulant(VGG, SPEC, 8, adc_bits=4).adc_bits == 4


@pytest.mark.parametrize("block_size", [4, 8])
def test_area_falls_and_latency_grows_with_the_block(block_size: int) -> None:
    dense, circulant = plan_layer(VGG, SPEC), plan_circulant(VGG, SPEC, block_size)
    model = CostModel(load_preset("isaac-8bit-weights"), adc_law("sar_split"))
    before, after = model.evaluate([dense]), model.evaluate([circulant])
    assert before.layers[0].area_m2 == pytest.approx(block_size * after.layers[0].area_m2)
    assert after.layers[0].time_s == pytest.approx(block_size * before.layers[0].time_s)
    assert after.layers[0].adc_energy_j == pytest.approx(before.layers[0].adc_energy_j)


@settings(deadline=None, max_examples=40)
@given(
    shape=shapes(),
    spec=specs(),
    block_size=block_sizes,
    provisioning=st.sampled_from(PROVISIONINGS),
)
def test_a_batch_prices_circulant_layers_as_the_model_does(
    shape: LayerShape, spec: CrossbarSpec, block_size: int, provisioning: str
) -> None:
    layers = [plan_circulant(shape, spec, block_size), plan_layer(NARROW, spec)]
    layers[1] = replace(layers[1], shape=replace(NARROW, name="next"))
    model = CostModel(
        load_preset("isaac"), adc_law("sar_split"), provisioning=provisioning, include_io=True
    )
    totals = BatchCostModel(model).evaluate(CandidateBatch.of([layers]))[0]
    assert asdict(totals) == pytest.approx(asdict(model.evaluate(layers).totals), rel=1e-9)


def test_events_of_a_rotated_layer_by_hand() -> None:
    spec = CrossbarSpec(wordlines=4, bitlines=16)
    shape = LayerShape(name="l", rows=6, outputs=7, positions=5)
    layer = plan_circulant(shape, spec, 4)
    # Two blocks down and across, of each of which one output is stored: 8 rows in two tiles.
    assert (layer.rows, layer.outputs, layer.rotations, layer.crossbars) == (8, 2, 4, 2)
    assert event_counts(layer, 16) == {
        "conversion": 2 * 2 * 8 * 4 * 5 * 8,
        "row_cycle": 6 * 4 * 5 * 8,
        "cell_cycle": 6 * 2 * 8 * 4 * 5 * 8,
        "register_input_byte": 6 * 5,
        "partial_output_byte": 7 * 2 * 5 * 2,
        "buffer_byte": (6 + 7) * 5,
        "bus_byte": (6 + 7 * 2 * 2) * 5,
        "router_byte": 7 * 5,
        "output_value": 7 * 5,
        "masked_conversion": 0,
    }


def test_a_mapped_circulant_layer_survives_json() -> None:
    planned = plan_circulant(VGG, SPEC, 8)
    assert planned.rotations == 8
    assert MappedLayer.from_json(planned.to_json()) == planned


def test_copies_even_out_rotations_too() -> None:
    preset = load_preset("isaac")
    layers = [plan_circulant(VGG, SPEC, 8), plan_layer(replace(VGG, name="next"), SPEC)]
    budget = 5 * layers[0].crossbars + layers[1].crossbars
    balanced = balance_pipeline(layers, preset, budget)
    assert [layer.replication for layer in balanced] == [4, 1]


def test_impossible_rotations_and_kernels_are_named() -> None:
    with pytest.raises(MappingError, match="conv: rotations is 0; allowed: 1 up"):
        replace(plan_layer(VGG, SPEC), rotations=0)
    with pytest.raises(MappingError, match="conv: kernel is 7; allowed: a divisor of its rows"):
        replace(VGG, kernel=7)
