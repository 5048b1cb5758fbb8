from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.geometry import tile_count
from hwmodel.mapping import MatrixLayout, to_bitlines
from hwmodel.nonideality import Nonideality
from hwmodel.segment_mask import MAX_SHIFT, SegmentMask, spread_segments
from hwmodel.simulator import CrossbarSimulator, simulate
from tests.strategies import Layer, inputs_of, layers


@st.composite
def masks(draw: st.DrawFn, layer: Layer) -> SegmentMask:
    groups, outputs, rows = layer.matrix_q.shape
    size = (groups, tile_count(rows, layer.spec), outputs)
    count = torch.Size(size).numel()
    factor = st.sampled_from((0, 1, 2, 4, 8, -1, -2, -8))
    drawn = draw(st.lists(factor, min_size=count, max_size=count))
    return SegmentMask(factors=torch.tensor(drawn, dtype=torch.int16).reshape(size), bits=3)


def _masked_by_hand(layer: Layer, mask: SegmentMask) -> Tensor:
    """Each weight times its segment's factor, one by one."""
    matrix = layer.matrix_q.clone()
    groups, outputs, rows = matrix.shape
    for group in range(groups):
        for output in range(outputs):
            for row in range(rows):
                tile = row // layer.spec.wordlines
                matrix[group, output, row] *= int(mask.factors[group, tile, output])
    return matrix


@settings(deadline=None, max_examples=50)
@given(layer=layers(), data=st.data())
def test_every_reading_shifted_gives_the_masked_integer_product(
    layer: Layer, data: st.DataObject
) -> None:
    mask = data.draw(masks(layer), label="mask")
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    bits = certify(layer.weight_q, layer.spec, layer.layout).adc_bits_per_slice
    expected = inputs_q @ _masked_by_hand(layer, mask).transpose(1, 2)
    for every_reading in (False, True):
        crossbars = CrossbarSimulator(
            layer.weight_q, layer.spec, bits, layout=layer.layout, mask=mask
        )
        assert crossbars.lossless
        assert torch.equal(crossbars(inputs_q, every_reading=every_reading), expected)


@settings(deadline=None, max_examples=50)
@given(layer=layers(), data=st.data())
def test_clipped_readings_are_shifted_alike_on_both_simulated_paths(
    layer: Layer, data: st.DataObject
) -> None:
    mask = data.draw(masks(layer), label="mask")
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    bits = [
        max(0, b - 1) for b in certify(layer.weight_q, layer.spec, layer.layout).adc_bits_per_slice
    ]
    device = Nonideality(stuck_on_rate=0.2, seed=data.draw(st.integers(0, 9)))
    for nonideality in (None, device):
        quick, slow = (
            simulate(
                inputs_q,
                layer.weight_q,
                layer.spec,
                bits,
                layout=layer.layout,
                nonideality=nonideality,
                mask=mask,
                every_reading=every_reading,
            )
            for every_reading in (False, True)
        )
        assert torch.equal(quick, slow)


@settings(deadline=None, max_examples=50)
@given(layer=layers(), data=st.data())
def test_segments_that_are_off_are_not_converted(layer: Layer, data: st.DataObject) -> None:
    mask = data.draw(masks(layer), label="mask")
    stored = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    all_on = replace(mask, factors=torch.ones_like(mask.factors))
    certified = certify(layer.weight_q, layer.spec, layer.layout).segments_per_slice
    assert all_on.segments_read(stored, layer.spec) == certified
    counts = [0] * layer.spec.slice_count
    for group, tile, bitline in (stored.sums() > 0).nonzero().tolist():
        output = bitline // layer.spec.bitlines_per_output
        if int(mask.factors[group, tile, output]):
            counts[bitline % layer.spec.slice_count] += 1
    assert mask.segments_read(stored, layer.spec) == tuple(counts)


@settings(deadline=None, max_examples=50)
@given(layer=layers(), data=st.data())
def test_spread_puts_each_segments_value_at_its_weights(layer: Layer, data: st.DataObject) -> None:
    mask = data.draw(masks(layer), label="mask")
    wordlines, shape = layer.spec.wordlines, layer.weight_q.shape
    factors = spread_segments(mask.factors.double(), layer.layout, wordlines, shape)
    kept = layer.layout.unpack(layer.matrix_q, shape)
    masked = layer.layout.unpack(mask.apply(layer.matrix_q, wordlines), shape)
    assert torch.equal(kept * factors, masked.double())


def test_memory_counts_every_code() -> None:
    mask = SegmentMask(factors=torch.zeros(2, 3, 5, dtype=torch.int16), bits=3)
    assert mask.memory_bits == 90


@pytest.mark.parametrize(
    ("factors", "bits", "message"),
    [
        (torch.zeros(1, 1, 1), 1, "float32 of shape .1, 1, 1.; allowed: int16"),
        (torch.zeros(1, 1, dtype=torch.int16), 1, "allowed: int16 .groups, tiles, outputs."),
        (torch.full((1, 1, 1), 3, dtype=torch.int16), 3, "holds 3; allowed: 0 and powers of two"),
        (
            torch.full((1, 1, 1), -(2**15), dtype=torch.int16),
            3,
            f"powers of two up to 2.{MAX_SHIFT}",
        ),
        (torch.tensor([[[-1, 0, 1]]], dtype=torch.int16), 1, "1 bits for 3 different factors"),
        (torch.zeros(1, 1, 1, dtype=torch.int16), 0, "0 bits for 1 different factors"),
    ],
)
def test_an_impossible_mask_is_refused(factors: Tensor, bits: int, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        SegmentMask(factors=factors, bits=bits)


def test_a_mask_of_another_layer_is_refused() -> None:
    mask = SegmentMask(factors=torch.zeros(1, 1, 2, dtype=torch.int16), bits=1)
    spec = CrossbarSpec(wordlines=4, sign_encoding=SignEncoding.OFFSET)
    with pytest.raises(MappingError, match=r"shape \(1, 1, 2\); allowed: \(1, 2, 2\)"):
        simulate(torch.zeros(1, 1, 6), torch.zeros(2, 6, dtype=torch.int32), spec, 8, mask=mask)
    layout = MatrixLayout(groups=1, outputs=2, rows=4)
    mask.check_shape("l", layout, spec)
