"""Projections against brute force over every pattern of zeros."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConstraintError
from hwmodel.mapping import MatrixLayout
from tests.strategies import Layer, layers
from trainers.constraints import BitlineCount, Constraint, LayerCount, Unconstrained

SPEC = CrossbarSpec(wordlines=4, bitlines=16)
OFFSET = replace(SPEC, sign_encoding=SignEncoding.OFFSET)


def holds_at_most(matrix: Tensor, wordlines: int, nonzeros: int, *, polarities_apart: bool) -> bool:
    """The count bound by hand: matrix `[groups, outputs, rows]`, one list per segment."""
    for line in matrix.flatten(0, 1).tolist():
        for start in range(0, len(line), wordlines):
            segment = line[start : start + wordlines]
            positive = sum(value > 0 for value in segment)
            negative = sum(value < 0 for value in segment)
            count = max(positive, negative) if polarities_apart else positive + negative
            if count > nonzeros:
                return False
    return True


def satisfied(constraint: Constraint, weight: Tensor, spec: CrossbarSpec, on: MatrixLayout) -> bool:
    try:
        constraint.check("layer", weight, spec, on)
    except ConstraintError:
        return False
    return True


@st.composite
def bounded(draw: st.DrawFn) -> tuple[Layer, BitlineCount]:
    layer = draw(layers())
    bound = BitlineCount(draw(st.integers(1, 8)), draw(st.booleans()))
    return layer, bound


@given(bounded())
@settings(deadline=None, max_examples=60)
def test_projection_is_feasible_idempotent_and_keeps_values(
    case: tuple[Layer, BitlineCount],
) -> None:
    layer, bound = case
    weight = layer.weight_q.float()
    projected = bound.project(weight, layer.spec, layer.layout)
    apart = not bound.both_signs and layer.spec.sign_encoding is SignEncoding.DIFFERENTIAL
    packed = layer.layout.pack(projected)
    assert projected.shape == weight.shape
    assert holds_at_most(packed, layer.spec.wordlines, bound.nonzeros, polarities_apart=apart)
    bound.check("layer", projected, layer.spec, layer.layout)
    assert torch.equal(bound.project(projected, layer.spec, layer.layout), projected)
    assert bool(((projected == weight) | (projected == 0)).all())
    assert torch.equal(weight, layer.weight_q.float())


@given(bounded())
@settings(deadline=None, max_examples=60)
def test_check_agrees_with_counting_by_hand(case: tuple[Layer, BitlineCount]) -> None:
    layer, bound = case
    inside = layer.layout.unpack(layer.layout.pack(layer.weight_q), layer.weight_q.shape)
    apart = not bound.both_signs and layer.spec.sign_encoding is SignEncoding.DIFFERENTIAL
    expected = holds_at_most(
        layer.matrix_q, layer.spec.wordlines, bound.nonzeros, polarities_apart=apart
    )
    assert satisfied(bound, inside, layer.spec, layer.layout) == expected


@given(
    st.lists(st.integers(-4, 4), min_size=6, max_size=6),
    st.sampled_from(["linear", "two outputs", "grouped"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([SignEncoding.DIFFERENTIAL, SignEncoding.OFFSET]),
)
@settings(deadline=None, max_examples=60)
def test_projection_is_nearest(
    values: list[int],
    kind: str,
    wordlines: int,
    nonzeros: int,
    both_signs: bool,
    encoding: SignEncoding,
) -> None:
    shape, groups = {"linear": ((1, 6), 1), "two outputs": ((2, 3), 1), "grouped": ((2, 3), 2)}[
        kind
    ]
    weight = torch.tensor(values, dtype=torch.float32).reshape(shape)
    spec = replace(SPEC, wordlines=wordlines, sign_encoding=encoding)
    layout = MatrixLayout.of(weight, groups)
    projected = BitlineCount(nonzeros, both_signs).project(weight, spec, layout)
    apart = encoding is SignEncoding.DIFFERENTIAL and not both_signs
    # Moving a weight elsewhere than to zero or across zero never helps: patterns of zeros suffice.
    distances = []
    for kept in itertools.product((0.0, 1.0), repeat=6):
        other = weight * torch.tensor(kept).reshape(shape)
        if holds_at_most(layout.pack(other), wordlines, nonzeros, polarities_apart=apart):
            distances.append(float((other - weight).square().sum()))
    assert float((projected - weight).square().sum()) == min(distances)


def test_each_polarity_keeps_its_own_largest() -> None:
    weight = torch.tensor([[3.0, 2.0, -1.0, -0.5]])
    projected = BitlineCount(1).project(weight, SPEC, MatrixLayout.of(weight))
    assert projected.tolist() == [[3.0, 0.0, -1.0, 0.0]]


def test_both_signs_count_together() -> None:
    weight = torch.tensor([[3.0, 2.0, -1.0, -0.5]])
    projected = BitlineCount(2, both_signs=True).project(weight, SPEC, MatrixLayout.of(weight))
    assert projected.tolist() == [[3.0, 2.0, 0.0, 0.0]]


def test_offset_encoding_has_no_polarities_to_count_apart() -> None:
    weight = torch.tensor([[3.0, 2.0, -1.0, -0.5]])
    projected = BitlineCount(1).project(weight, OFFSET, MatrixLayout.of(weight))
    assert projected.tolist() == [[3.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("nonzeros", [1, 2, 3, 4])
def test_tail_segment_keeps_the_bound_or_its_length(nonzeros: int) -> None:
    weight = torch.arange(1.0, 7.0).reshape(1, 6)  # tiles of 4 and 2
    projected = BitlineCount(nonzeros).project(weight, SPEC, MatrixLayout.of(weight))
    assert int(torch.count_nonzero(projected[:, :4])) == nonzeros
    assert int(torch.count_nonzero(projected[:, 4:])) == min(nonzeros, 2)


def test_ties_keep_exactly_the_bound() -> None:
    weight = torch.ones(3, 4)
    projected = BitlineCount(2).project(weight, SPEC, MatrixLayout.of(weight))
    assert torch.count_nonzero(projected, dim=1).tolist() == [2, 2, 2]


def test_zeros_do_not_count() -> None:
    weight = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    projected = BitlineCount(2).project(weight, SPEC, MatrixLayout.of(weight))
    assert torch.equal(projected, weight)


def test_segments_are_those_of_the_packed_matrix() -> None:
    weight = torch.tensor([[9.0, 1.0, 8.0, 2.0, 7.0, 3.0]])
    layout = MatrixLayout(groups=1, outputs=1, rows=6, kept_rows=torch.tensor([[1, 2, 3, 4, 5]]))
    projected = BitlineCount(1).project(weight, SPEC, layout)
    # Row 0 is gone, so rows 1 to 4 share the first tile and row 5 has the second to itself.
    assert projected.tolist() == [[0.0, 0.0, 8.0, 0.0, 0.0, 3.0]]


def test_loose_bound_still_removes_what_the_layout_removes() -> None:
    weight = torch.ones(2, 3)
    layout = MatrixLayout(groups=1, outputs=2, rows=3, kept_outputs=torch.tensor([[1]]))
    projected = BitlineCount(4).project(weight, SPEC, layout)
    assert projected.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("sign", "bitline"),
    # Two polarities of four 2-bit slices for each output; bitlines count (output, polarity, slice).
    [(1.0, 2 * 8), (-1.0, 2 * 8 + 4)],
)
def test_check_names_layer_tile_and_bitline_of_a_planted_violation(
    sign: float, bitline: int
) -> None:
    weight = torch.zeros(3, 10)
    weight[:, 0] = 1.0
    weight[2, 4:7] = sign
    with pytest.raises(ConstraintError) as caught:
        BitlineCount(2).check("conv", weight, SPEC, MatrixLayout.of(weight))
    assert str(caught.value) == f"conv: 3 non-zeros in segment (tile 1, bitline {bitline}), limit 2"


def test_check_names_the_first_bitline_of_the_output_where_signs_count_together() -> None:
    weight = torch.zeros(2, 4)
    weight[1] = torch.tensor([1.0, -1.0, 1.0, 0.0])
    layout = MatrixLayout.of(weight)
    BitlineCount(2).check("fc", weight, SPEC, layout)
    message = r"fc: 3 non-zeros in segment \(tile 0, bitline 8\), limit 2"
    with pytest.raises(ConstraintError, match=message):
        BitlineCount(2, both_signs=True).check("fc", weight, SPEC, layout)
    with pytest.raises(ConstraintError, match=message.replace("bitline 8", "bitline 4")):
        BitlineCount(2).check("fc", weight, OFFSET, layout)


def test_check_finds_the_violation_in_the_packed_tail() -> None:
    weight = torch.zeros(1, 8)
    weight[0, [6, 7]] = 1.0
    kept = torch.tensor([[0, 1, 2, 3, 6, 7]])
    layout = MatrixLayout(groups=1, outputs=1, rows=8, kept_rows=kept)
    with pytest.raises(ConstraintError, match=r"2 non-zeros in segment \(tile 1, bitline 0\)"):
        BitlineCount(1).check("fc", weight, SPEC, layout)


def test_check_names_the_group_of_a_grouped_convolution() -> None:
    weight = torch.zeros(4, 1, 2, 2)
    weight[2] = 1.0
    with pytest.raises(ConstraintError, match="group 2"):
        BitlineCount(1).check("depthwise", weight, SPEC, MatrixLayout.of(weight, groups=4))


def test_check_reads_integers_as_well_as_floats() -> None:
    weight = torch.ones(1, 4, dtype=torch.int16)
    BitlineCount(4).check("fc", weight, SPEC, MatrixLayout.of(weight))
    assert not satisfied(BitlineCount(3), weight, SPEC, MatrixLayout.of(weight))


@pytest.mark.parametrize("constraint", [Unconstrained(), BitlineCount(4), LayerCount(100)])
def test_weights_in_removed_places_are_refused_and_projected_away(constraint: Constraint) -> None:
    weight = torch.ones(2, 3)
    layout = MatrixLayout(groups=1, outputs=2, rows=3, kept_rows=torch.tensor([[0, 2]]))
    with pytest.raises(ConstraintError, match="fc: 2 non-zero weights in removed rows or outputs"):
        constraint.check("fc", weight, SPEC, layout)
    projected = constraint.project(weight, SPEC, layout)
    assert projected.tolist() == [[1.0, 0.0, 1.0]] * 2
    constraint.check("fc", projected, SPEC, layout)


def test_unconstrained_keeps_a_dense_weight() -> None:
    weight = torch.randn(2, 3)
    layout = MatrixLayout.of(weight)
    assert torch.equal(Unconstrained().project(weight, SPEC, layout), weight)
    Unconstrained().check("fc", weight, SPEC, layout)


@given(st.lists(st.integers(-4, 4), min_size=6, max_size=6), st.integers(0, 8))
@settings(deadline=None, max_examples=40)
def test_layer_count_keeps_the_largest_of_the_whole_layer(values: list[int], nonzeros: int) -> None:
    weight = torch.tensor(values, dtype=torch.float32).reshape(2, 3)
    layout = MatrixLayout.of(weight)
    constraint = LayerCount(nonzeros)
    projected = constraint.project(weight, SPEC, layout)
    constraint.check("fc", projected, SPEC, layout)
    assert torch.equal(constraint.project(projected, SPEC, layout), projected)
    dropped = sorted(value * value for value in values)[: max(0, 6 - nonzeros)]
    assert float((projected - weight).square().sum()) == sum(dropped)


def test_layer_count_names_the_layer() -> None:
    weight = torch.ones(2, 3)
    with pytest.raises(ConstraintError, match="fc: 6 non-zeros in the layer, limit 5"):
        LayerCount(5).check("fc", weight, SPEC, MatrixLayout.of(weight))
