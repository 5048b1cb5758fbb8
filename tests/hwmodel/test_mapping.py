import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.mapping import (
    MatrixLayout,
    from_bitlines,
    from_segments,
    segment_lengths,
    to_bitlines,
    to_segments,
)
from tests.strategies import Layer, layers

SHAPES = {
    "linear": ((5, 13), 1),
    "convolution": ((4, 3, 3, 3), 1),
    "grouped": ((6, 2, 3, 3), 3),
    "depthwise": ((5, 1, 3, 3), 5),
}


def _random_weight(shape: tuple[int, ...], limit: int) -> Tensor:
    return torch.randint(-limit, limit + 1, shape, generator=torch.Generator().manual_seed(1))


def _packed_layout(weight_q: Tensor, groups: int) -> MatrixLayout:
    """Every second row and, where there are several, all outputs but the first of each group."""
    dense = MatrixLayout.of(weight_q, groups)
    first = 1 if dense.outputs > 1 else 0
    return MatrixLayout(
        groups=groups,
        outputs=dense.outputs,
        rows=dense.rows,
        kept_outputs=torch.arange(first, dense.outputs).repeat(groups, 1),
        kept_rows=torch.arange(0, dense.rows, 2).repeat(groups, 1),
    )


def _kept_only(weight_q: Tensor, layout: MatrixLayout) -> Tensor:
    return weight_q * layout.mask(weight_q.shape, "cpu")


@settings(deadline=None)
@given(layer=layers())
def test_from_bitlines_undoes_to_bitlines(layer: Layer) -> None:
    stored = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    restored = from_bitlines(stored, layer.spec, layer.weight_q.shape, layer.layout)
    assert restored.dtype is torch.int32
    assert torch.equal(restored, _kept_only(layer.weight_q, layer.layout).int())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("cell_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("encoding", SignEncoding)
def test_every_kind_of_layer_round_trips_on_odd_wordlines(
    encoding: SignEncoding, cell_bits: int, kind: str, packed: bool
) -> None:
    shape, groups = SHAPES[kind]
    spec = CrossbarSpec(wordlines=7, cell_bits=cell_bits, sign_encoding=encoding)
    weight_q = _random_weight(shape, spec.weight_limit)
    layout = _packed_layout(weight_q, groups) if packed else MatrixLayout.of(weight_q, groups)
    stored = to_bitlines(weight_q, spec, layout)
    tiles = -(-layout.packed_rows // 7)
    lines = layout.packed_outputs * spec.bitlines_per_output
    assert stored.levels.shape == (groups, tiles, lines, 7)
    assert stored.levels.dtype is torch.uint8
    restored = from_bitlines(stored, spec, weight_q.shape, layout)
    assert torch.equal(restored, _kept_only(weight_q, layout).int())


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("shape", [(5, 13), (4, 3, 3, 3)])
def test_layout_defaults_to_one_group_of_everything(
    encoding: SignEncoding, shape: tuple[int, ...]
) -> None:
    spec = CrossbarSpec(wordlines=5, sign_encoding=encoding)
    weight_q = _random_weight(shape, spec.weight_limit)
    stored = to_bitlines(weight_q, spec)
    assert torch.equal(stored.levels, to_bitlines(weight_q, spec, MatrixLayout.of(weight_q)).levels)
    assert torch.equal(from_bitlines(stored, spec, shape), weight_q.int())


@pytest.mark.parametrize("encoding", SignEncoding)
def test_layer_without_rows_round_trips_to_zeros(encoding: SignEncoding) -> None:
    spec = CrossbarSpec(sign_encoding=encoding)
    weight_q = _random_weight((2, 3), spec.weight_limit)
    layout = MatrixLayout(groups=1, outputs=2, rows=3, kept_rows=_no_indices())
    stored = to_bitlines(weight_q, spec, layout)
    assert stored.levels.shape == (1, 0, 2 * spec.bitlines_per_output, 128)
    assert torch.equal(from_bitlines(stored, spec, (2, 3), layout), torch.zeros(2, 3).int())


@pytest.mark.parametrize("encoding", SignEncoding)
def test_layer_without_outputs_round_trips_to_zeros(encoding: SignEncoding) -> None:
    spec = CrossbarSpec(sign_encoding=encoding)
    weight_q = _random_weight((2, 3), spec.weight_limit)
    layout = MatrixLayout(groups=1, outputs=2, rows=3, kept_outputs=_no_indices())
    stored = to_bitlines(weight_q, spec, layout)
    assert torch.equal(from_bitlines(stored, spec, (2, 3), layout), torch.zeros(2, 3).int())


def test_bitlines_run_over_output_polarity_slice_and_wordlines_over_rows() -> None:
    spec = CrossbarSpec(wordlines=2, cell_bits=2, weight_bits=5)  # magnitudes of two 2-bit digits
    stored = to_bitlines(torch.tensor([[6, -9, 4], [0, 15, -1]]), spec)
    assert stored.lengths.tolist() == [2, 1]
    assert stored.flipped is None
    first_tile = [
        [2, 0],  # output 0, positive, low digit: 6 = 2 + 1 * 4
        [1, 0],
        [0, 1],  # output 0, negative, low digit: 9 = 1 + 2 * 4
        [0, 2],
        [0, 3],  # output 1, positive: 15 = 3 + 3 * 4
        [0, 3],
        [0, 0],
        [0, 0],
    ]
    last_tile = [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [0, 0]]
    assert stored.levels.tolist() == [[first_tile, last_tile]]
    assert stored.sums().tolist() == [[[2, 1, 1, 2, 3, 3, 0, 0], [0, 1, 0, 0, 0, 0, 1, 0]]]


def test_segments_above_half_scale_are_flipped_on_driven_wordlines_only() -> None:
    spec = CrossbarSpec(wordlines=2, cell_bits=2, weight_bits=4, sign_encoding=SignEncoding.FLIPPED)
    # Stored with 8 added: 15 = 3 + 3 * 4, 9 = 1 + 2 * 4, 8 = 0 + 2 * 4.
    stored = to_bitlines(torch.tensor([[7, 1, 0]]), spec)
    assert stored.flipped is not None
    # Sums 3 + 1 and 3 + 2 of at most 6, then 0 and 2 of at most 3.
    assert stored.flipped.tolist() == [[[True, True], [False, True]]]
    assert stored.levels.tolist() == [[[[0, 2], [0, 1]], [[0, 0], [1, 0]]]]


def test_segment_at_exactly_half_scale_is_not_flipped() -> None:
    spec = CrossbarSpec(wordlines=2, cell_bits=4, weight_bits=4, sign_encoding=SignEncoding.FLIPPED)
    stored = to_bitlines(torch.tensor([[7, -7], [-7, 6]]), spec)  # 15 + 1 and 1 + 14 of 30
    assert stored.flipped is not None
    assert stored.flipped.tolist() == [[[True, False]]]
    assert stored.sums().tolist() == [[[14, 15]]]


@settings(deadline=None)
@given(layer=layers())
def test_unused_wordlines_hold_no_level(layer: Layer) -> None:
    stored = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    lengths = segment_lengths(layer.layout.packed_rows, layer.spec.wordlines)
    assert stored.lengths.tolist() == lengths
    for tile, length in enumerate(lengths):
        assert not stored.levels[:, tile, :, length:].any()


@settings(deadline=None)
@given(layer=layers().filter(lambda layer: layer.spec.sign_encoding is SignEncoding.FLIPPED))
def test_flipped_encoding_stores_at_most_half_scale(layer: Layer) -> None:
    stored = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    limits = torch.tensor([layer.spec.slice_limit(s) for s in range(layer.spec.slice_count)])
    full_scale = limits.repeat(layer.layout.packed_outputs) * stored.lengths[:, None]
    assert bool((2 * stored.sums() <= full_scale).all())


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 20)),
    wordlines=st.integers(1, 9),
)
def test_from_segments_undoes_to_segments(sizes: tuple[int, int, int], wordlines: int) -> None:
    groups, lines, rows = sizes
    matrix = torch.arange(1, groups * lines * rows + 1).reshape(sizes)
    segments = to_segments(matrix, wordlines)
    lengths = segment_lengths(rows, wordlines)
    assert segments.shape == (groups, len(lengths), lines, wordlines)
    assert sum(lengths) == rows
    assert torch.equal(from_segments(segments, rows), matrix)
    assert int(segments.count_nonzero()) == matrix.numel()  # the padding is zero


def test_to_segments_cuts_consecutive_rows() -> None:
    segments = to_segments(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), 2)
    assert segments.tolist() == [[[[1, 2], [4, 5]], [[3, 0], [6, 0]]]]


@pytest.mark.parametrize(
    ("rows", "lengths"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])]
)
def test_only_the_last_segment_is_short(rows: int, lengths: list[int]) -> None:
    assert segment_lengths(rows, 4) == lengths


def test_packing_gathers_kept_rows_and_outputs_of_each_group() -> None:
    weight = torch.arange(12).reshape(4, 3)
    layout = MatrixLayout(
        groups=2,
        outputs=2,
        rows=3,
        kept_outputs=torch.tensor([[1], [0]]),
        kept_rows=torch.tensor([[0, 2], [1, 2]]),
    )
    assert (layout.packed_outputs, layout.packed_rows) == (1, 2)
    packed = layout.pack(weight)
    assert packed.tolist() == [[[3, 5]], [[7, 8]]]
    unpacked = layout.unpack(packed, weight.shape)
    assert unpacked.tolist() == [[0, 0, 0], [3, 0, 5], [0, 7, 8], [0, 0, 0]]
    assert torch.equal(layout.mask(weight.shape, "cpu"), unpacked != 0)


@settings(deadline=None)
@given(layer=layers())
def test_pack_undoes_unpack(layer: Layer) -> None:
    packed = layer.layout.pack(layer.weight_q)
    unpacked = layer.layout.unpack(packed, layer.weight_q.shape)
    assert torch.equal(unpacked, _kept_only(layer.weight_q, layer.layout))
    assert torch.equal(layer.layout.pack(unpacked), packed)


def test_layout_on_a_device_keeps_its_indices() -> None:
    layout = MatrixLayout(groups=1, outputs=2, rows=3, kept_rows=torch.tensor([[1]]))
    moved = layout.to(torch.device("cpu"))
    assert moved.kept_rows is not None
    assert moved.kept_rows.tolist() == [[1]]
    assert (moved.kept_outputs, moved.groups, moved.outputs, moved.rows) == (None, 1, 2, 3)


@pytest.mark.parametrize(
    ("shape", "groups", "expected"),
    [((6, 4), 1, (6, 4)), ((6, 4, 3, 3), 1, (6, 36)), ((6, 1, 3, 3), 6, (1, 9))],
)
def test_layout_of_a_weight_counts_outputs_and_rows_per_group(
    shape: tuple[int, ...], groups: int, expected: tuple[int, int]
) -> None:
    layout = MatrixLayout.of(torch.empty(shape), groups)
    assert (layout.packed_outputs, layout.packed_rows) == expected


@pytest.mark.parametrize(("shape", "groups"), [((6,), 1), ((5, 2), 2)])
def test_tensor_that_is_not_a_layers_is_refused(shape: tuple[int, ...], groups: int) -> None:
    with pytest.raises(MappingError, match=rf"shape \({shape[0]},.*with {groups} groups"):
        MatrixLayout.of(torch.empty(shape), groups)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[0, 3]], r"must ascend within 0\.\.2; got \[\[0, 3\]\]"),
        ([[-1, 0]], r"must ascend within 0\.\.2; got \[\[-1, 0\]\]"),
        ([[1, 0]], r"must ascend within 0\.\.2; got \[\[1, 0\]\]"),
        ([[1, 1]], r"must ascend within 0\.\.2; got \[\[1, 1\]\]"),
        ([0, 1], r"torch.int64 of shape \(2,\); allowed: int64 \[1, at most 3\]"),
        ([[0], [1]], r"torch.int64 of shape \(2, 1\); allowed: int64 \[1, at most 3\]"),
        ([[True, False]], r"torch.bool of shape \(1, 2\)"),
    ],
)
@pytest.mark.parametrize("what", ["rows", "outputs"])
def test_kept_indices_are_validated(what: str, kept: list[list[int]], message: str) -> None:
    with pytest.raises(MappingError, match=f"kept {what} .*{message}"):
        MatrixLayout(groups=1, outputs=3, rows=3, **{f"kept_{what}": torch.tensor(kept)})


@pytest.mark.parametrize("encoding", SignEncoding)
def test_weight_too_large_is_refused_with_its_value(encoding: SignEncoding) -> None:
    spec = CrossbarSpec(weight_bits=4, sign_encoding=encoding)
    with pytest.raises(MappingError, match=r"magnitude 8; .*4-bit weights: at most 7"):
        to_bitlines(torch.tensor([[7, -8]]), spec)


def test_weights_that_are_not_integers_are_refused() -> None:
    with pytest.raises(MappingError, match=r"weights are torch\.float32; allowed: integers"):
        to_bitlines(torch.ones(2, 2), CrossbarSpec())


@pytest.mark.parametrize("shape", [(3, 2), (4, 3)])
def test_layout_of_another_layer_is_refused(shape: tuple[int, int]) -> None:
    layout = MatrixLayout(groups=1, outputs=2, rows=3)
    with pytest.raises(MappingError, match=rf"\({shape[0]}, {shape[1]}\)"):
        to_bitlines(torch.ones(shape, dtype=torch.int64), CrossbarSpec(), layout)


def _no_indices() -> Tensor:
    return torch.zeros(1, 0, dtype=torch.int64)
