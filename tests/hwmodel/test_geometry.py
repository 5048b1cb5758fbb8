from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.geometry import (
    LayerShape,
    crossbar_count,
    plan_layer,
    tile_count,
    unit_line_bits,
    whole_crossbars,
)


def packed(groups: int, rows: int, outputs: int, spec: CrossbarSpec) -> int:
    """Crossbars opened by placing every group in turn, block-diagonally where it fits."""
    slots = spec.bitlines // spec.bitlines_per_output
    opened, free_rows, free_slots = 0, 0, 0
    for _ in range(groups):
        blocks = {(r // spec.wordlines, o // slots) for r in range(rows) for o in range(outputs)}
        if len(blocks) != 1:
            opened += len(blocks)
            continue
        if rows > free_rows or outputs > free_slots:
            opened, free_rows, free_slots = opened + 1, spec.wordlines, slots
        free_rows, free_slots = free_rows - rows, free_slots - outputs
    return opened


@given(
    groups=st.integers(1, 9),
    rows=st.integers(0, 20),
    outputs=st.integers(0, 9),
    wordlines=st.integers(1, 12),
    slots=st.integers(1, 5),
)
def test_crossbar_count_equals_packing_by_hand(
    groups: int, rows: int, outputs: int, wordlines: int, slots: int
) -> None:
    spec = CrossbarSpec(wordlines=wordlines, bitlines=8 * slots + 3)
    assert crossbar_count(groups, rows, outputs, spec) == packed(groups, rows, outputs, spec)


def test_a_depthwise_layer_shares_crossbars() -> None:
    assert crossbar_count(32, 9, 1, CrossbarSpec()) == 3
    assert crossbar_count(1, 576, 64, CrossbarSpec()) == 5 * 4


@given(rows=st.integers(0, 1000), wordlines=st.integers(1, 300))
def test_tiles_hold_all_rows_and_no_tile_is_empty(rows: int, wordlines: int) -> None:
    tiles = tile_count(rows, CrossbarSpec(wordlines=wordlines))
    assert (tiles - 1) * wordlines < rows <= tiles * wordlines or rows == tiles == 0


def test_counts_of_a_planned_layer() -> None:
    shape = LayerShape(name="conv", rows=300, outputs=20, groups=2, positions=10)
    mapped = plan_layer(shape, CrossbarSpec())
    assert (shape.weights, shape.macs) == (12000, 120000)
    assert mapped.tiles == 3
    assert mapped.crossbars == 2 * 3 * 2
    assert mapped.segments_per_slice == (2 * 3 * 20 * 2,) * 4
    assert mapped.conversions == 4 * 240 * 10 * 8
    assert mapped.nonzeros == 12000
    assert mapped.adc_bits == 9
    assert mapped.utilisation == pytest.approx(2 * 300 * 20 * 8 / (12 * 128 * 128))


@pytest.mark.parametrize(("nonzeros", "bits"), [(None, 9), (85, 8), (16, 6), (8, 5), (5, 4)])
def test_fewer_nonzeros_need_fewer_bits(nonzeros: int | None, bits: int) -> None:
    shape = LayerShape(name="conv", rows=300, outputs=20)
    assert plan_layer(shape, CrossbarSpec(), nonzeros=nonzeros).adc_bits == bits


def test_nonzeros_of_a_bounded_layer_are_counted_per_tile() -> None:
    shape = LayerShape(name="conv", rows=130, outputs=3)
    mapped = plan_layer(shape, CrossbarSpec(), nonzeros=5)
    assert mapped.nonzeros == min(2 * (5 + 2), 130) * 3


@given(
    rows=st.integers(1, 300),
    kept=st.integers(0, 300),
    more=st.integers(0, 300),
    outputs=st.integers(1, 40),
)
def test_keeping_more_rows_never_costs_less(rows: int, kept: int, more: int, outputs: int) -> None:
    shape = LayerShape(name="conv", rows=rows, outputs=outputs)
    low, high = sorted((min(kept, rows), min(more, rows)))
    small, large = (plan_layer(shape, CrossbarSpec(), rows=k) for k in (low, high))
    assert small.crossbars <= large.crossbars
    assert small.conversions <= large.conversions
    assert small.adc_bits <= large.adc_bits


def test_a_layer_pruned_away_takes_nothing() -> None:
    shape = LayerShape(name="conv", rows=300, outputs=20)
    for kept in ({"rows": 0}, {"outputs": 0}):
        mapped = plan_layer(shape, CrossbarSpec(sign_encoding=SignEncoding.FLIPPED), **kept)
        assert (mapped.crossbars, mapped.conversions, mapped.unit_lines) == (0, 0, 0)
        assert mapped.utilisation == 0


def test_flipped_crossbars_read_one_unit_bitline_each() -> None:
    spec = CrossbarSpec(sign_encoding=SignEncoding.FLIPPED)
    mapped = plan_layer(LayerShape(name="conv", rows=300, outputs=40), spec)
    assert mapped.unit_lines == mapped.crossbars == 6
    assert mapped.unit_line_bits == unit_line_bits(spec, 128) == 8
    assert mapped.conversions == (4 * 3 * 40 + 6) * 8
    assert unit_line_bits(CrossbarSpec(), 128) == 0


@pytest.mark.parametrize("kept", [{"rows": 10}, {"rows": -1}, {"outputs": 10}, {"outputs": -1}])
def test_keeping_more_than_there_is_is_refused(kept: dict[str, int]) -> None:
    with pytest.raises(MappingError, match=r"conv: -?\d+ (rows|outputs) kept; allowed: 0 to 9"):
        plan_layer(LayerShape(name="conv", rows=9, outputs=9), CrossbarSpec(), **kept)


@given(share=st.floats(0, 1), dense=st.integers(1, 600), unit=st.integers(1, 130))
def test_kept_rows_fill_whole_crossbars_or_the_layer(share: float, dense: int, unit: int) -> None:
    kept = whole_crossbars(share, dense, unit)
    assert 1 <= kept <= dense
    assert kept == dense or kept % unit == 0
    assert kept >= round(share * dense)


def test_copies_multiply_crossbars_and_divide_positions() -> None:
    shape = LayerShape(name="conv", rows=300, outputs=20, positions=10)
    one, three = (plan_layer(shape, CrossbarSpec(), replication=n) for n in (1, 3))
    assert three.crossbars == 3 * one.crossbars
    assert (one.passes, three.passes) == (10, 4)
    assert three.conversions == one.conversions
    assert three.utilisation == pytest.approx(one.utilisation)


@pytest.mark.parametrize("copies", [0, -1, 11])
def test_more_copies_than_positions_are_refused(copies: int) -> None:
    shape = LayerShape(name="conv", rows=300, outputs=20, positions=10)
    with pytest.raises(MappingError, match=f"conv: replication is {copies}; allowed: 1 to"):
        plan_layer(shape, CrossbarSpec(), replication=copies)


@pytest.mark.parametrize(
    "fields", [{"nonzeros": -1}, {"rows": -3}, {"segments_per_slice": (1, -1, 1, 1)}]
)
def test_negative_sizes_are_refused(fields: dict[str, Any]) -> None:
    mapped = plan_layer(LayerShape(name="conv", rows=9, outputs=9), CrossbarSpec())
    with pytest.raises(MappingError, match="conv: a size of the mapped layer is negative"):
        replace(mapped, **fields)


def test_slices_on_their_own_crossbars_are_counted_apart() -> None:
    spec = CrossbarSpec()
    assert crossbar_count(1, 300, 65, spec) == 3 * 5
    assert crossbar_count(1, 300, 65, spec, spec.polarity_count) == 3 * 2


SHAPE = LayerShape(name="conv", rows=300, outputs=20, groups=2)


# Under `bits` a slice of a segment holds 2^bits - 1 levels, and each of 4 slices other weights'.
@pytest.mark.parametrize(("bits", "nonzeros"), [(1, 4), (3, 28), (5, 124), (8, 128), (9, 128)])
def test_level_sums_bound_readings_and_nonzeros(bits: int, nonzeros: int) -> None:
    mapped = plan_layer(SHAPE, CrossbarSpec(), adc_bits=bits)
    dense = plan_layer(SHAPE, CrossbarSpec()).adc_bits_per_slice
    assert dense == (9, 9, 9, 8)
    assert mapped.adc_bits_per_slice == tuple(min(bits, most) for most in dense)
    kept = 2 * (2 * nonzeros + min(nonzeros, 300 - 2 * 128))
    assert mapped.nonzeros == min(kept, 300) * 20 * 2


@given(bits=st.integers(1, 12), more=st.integers(0, 4), dac_bits=st.integers(1, 4))
def test_more_adc_bits_never_plan_less(bits: int, more: int, dac_bits: int) -> None:
    spec = CrossbarSpec(dac_bits=dac_bits)
    small, large = (plan_layer(SHAPE, spec, adc_bits=b) for b in (bits, bits + more))
    dense = plan_layer(SHAPE, spec)
    for less, most in ((small, large), (large, dense)):
        assert less.nonzeros <= most.nonzeros
        pairs = zip(less.adc_bits_per_slice, most.adc_bits_per_slice, strict=True)
        assert all(few <= many for few, many in pairs)
        assert (less.crossbars, less.conversions) == (most.crossbars, most.conversions)
    assert small.adc_bits <= bits
    assert plan_layer(SHAPE, spec, adc_bits=dense.adc_bits) == dense


@given(bits=st.integers(1, 9), nonzeros=st.integers(1, 128))
def test_both_bounds_together_are_no_weaker_than_either(bits: int, nonzeros: int) -> None:
    spec = CrossbarSpec()
    both = plan_layer(SHAPE, spec, adc_bits=bits, nonzeros=nonzeros)
    by_sum = plan_layer(SHAPE, spec, adc_bits=bits)
    by_count = plan_layer(SHAPE, spec, nonzeros=nonzeros)
    assert both.nonzeros == min(by_sum.nonzeros, by_count.nonzeros)
    for found, first, second in zip(
        both.adc_bits_per_slice,
        by_sum.adc_bits_per_slice,
        by_count.adc_bits_per_slice,
        strict=True,
    ):
        assert found <= min(first, second)


@pytest.mark.parametrize("bits", [0, -1])
def test_level_sums_under_no_adc_are_refused(bits: int) -> None:
    with pytest.raises(MappingError, match=f"conv: {bits} ADC bits; allowed: 1 up"):
        plan_layer(SHAPE, CrossbarSpec(), adc_bits=bits)
