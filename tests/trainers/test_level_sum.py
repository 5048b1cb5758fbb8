"""Digits under a bound on level sums: feasible always, and close to what brute force finds."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarSpec, SignEncoding, largest_lossless_count
from hwmodel.errors import ConstraintError, SpecError
from hwmodel.mapping import MatrixLayout
from trainers.constraints import BitlineCount, LevelSum
from trainers.level_sum import (
    choose_scale,
    level_limits,
    per_output,
    project_levels,
    project_weight,
    reproject_levels,
)

TINY = CrossbarSpec(wordlines=3, bitlines=16, weight_bits=5)  # magnitudes of two 2-bit slices
SMALL = CrossbarSpec(wordlines=8, bitlines=16)


def values(seed: int, *shape: int, size: float = 20.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * size


def sums(integers: Tensor, spec: CrossbarSpec) -> Tensor:
    """Level sums by polarity and slice, `[2 * slices, ...]`, from the bits of the magnitudes."""
    mask = (1 << spec.cell_bits) - 1
    return torch.stack(
        [
            ((integers.long() * sign).clamp(min=0) >> (spec.cell_bits * index) & mask).sum(-1)
            for sign in (1, -1)
            for index in range(spec.slice_count)
        ]
    )


def error(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().sum(dim=-1)


@given(
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.5, 20.0, 300.0]),
)
@settings(deadline=None, max_examples=30)
def test_projection_is_feasible_whole_and_within_the_spec(
    seed: int, limit: int, cell_bits: int, size: float
) -> None:
    spec = CrossbarSpec(wordlines=8, bitlines=16, cell_bits=cell_bits)
    wanted = values(seed, 5, 8, size=size)
    found = project_levels(wanted, spec, limit)
    assert torch.equal(found, found.round())
    assert int(found.abs().max()) <= spec.weight_limit
    assert int(sums(found, spec).max()) <= limit
    assert (found * wanted >= 0).all()


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_projecting_again_changes_nothing(seed: int, limit: int) -> None:
    found = project_levels(values(seed, 5, 8), SMALL, limit)
    assert torch.equal(project_levels(found, SMALL, limit), found)


def test_values_that_fit_are_only_rounded() -> None:
    wanted = torch.tensor([1.2, -2.0, 0.4, 3.4])
    assert project_levels(wanted, SMALL, 24).tolist() == [1.0, -2.0, 0.0, 3.0]


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_single_slice_is_the_optimum(seed: int, limit: int) -> None:
    spec = CrossbarSpec(wordlines=4, bitlines=16, weight_bits=3)  # one 2-bit slice
    wanted = values(seed, 4, size=2.0).abs()
    choices = torch.tensor(list(product(range(4), repeat=4)), dtype=wanted.dtype)
    least = error(choices[choices.sum(dim=-1) <= limit], wanted).min()
    found = project_levels(wanted, spec, limit)
    torch.testing.assert_close(error(found, wanted), least)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6])
def test_several_slices_are_near_the_joint_optimum(limit: int) -> None:
    """Over 200 segments: the error is at most 10 % above the least possible."""
    choices = torch.tensor(list(product(range(16), repeat=3)), dtype=torch.float32)
    choices = choices[(sums(choices, TINY) <= limit).all(dim=0)]
    wanted = values(limit, 200, 3, size=6.0).abs()
    least = error(choices[None], wanted[:, None, :]).min(dim=1).values
    found = error(project_levels(wanted, TINY, limit), wanted)
    assert (found >= least - 1e-3).all()
    assert float(found.sum()) <= 1.1 * float(least.sum())


@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([1.0, 30.0, 100.0]))
@settings(deadline=None, max_examples=30)
def test_count_bound_at_the_same_adc_is_a_subset(seed: int, adc_bits: int, size: float) -> None:
    wanted = values(seed, 6, 24, size=size).clamp(-127, 127).round()
    layout = MatrixLayout.of(wanted)
    spec = CrossbarSpec(wordlines=16, bitlines=16)
    counted = BitlineCount(largest_lossless_count(adc_bits)).project(wanted, spec, layout)
    LevelSum(adc_bits).check("layer", counted.int(), spec, layout)


@pytest.mark.parametrize("adc_bits", [3, 4, 5, 6])
def test_error_is_never_above_the_count_bounds(adc_bits: int) -> None:
    spec = CrossbarSpec()
    wanted = values(0, 64, 128, size=35.0).clamp(-127, 127)
    layout = MatrixLayout.of(wanted)
    counted = BitlineCount(largest_lossless_count(adc_bits)).project(wanted, spec, layout).round()
    limit = level_limits(spec, adc_bits)
    found = project_weight(wanted, torch.ones(64), spec, layout, limit)
    assert (error(found, wanted) <= error(counted, wanted)).all()


@given(st.integers(0, 10_000), st.integers(1, 20), st.sampled_from([0.1, 3.0, 100.0]))
@settings(deadline=None, max_examples=30)
def test_any_drift_stays_feasible(seed: int, limit: int, drift: float) -> None:
    latent = values(seed, 5, 8)
    anchor = project_levels(latent, SMALL, limit)
    moved = latent + values(seed + 1, 5, 8, size=drift)
    found = reproject_levels(moved, anchor, SMALL)
    assert (sums(found, SMALL) <= sums(anchor, SMALL)).all()
    assert ((found == 0) | (found.sign() == anchor.sign())).all()
    assert torch.equal(reproject_levels(anchor, anchor, SMALL), anchor)


def test_digits_never_exceed_the_anchors() -> None:
    anchor = torch.tensor([0b01_10, 0b01_10, -0b01_10, 0b11_11]).float()
    moved = torch.tensor([15.0, -15.0, -3.0, 9.2])
    assert reproject_levels(moved, anchor, TINY).tolist() == [6.0, 0.0, -4.0, 9.0]


@pytest.mark.parametrize(
    ("adc_bits", "dac_bits", "limit"), [(1, 1, 1), (4, 1, 15), (4, 2, 5), (5, 3, 4), (3, 3, 1)]
)
def test_limit_is_what_the_adc_counts(adc_bits: int, dac_bits: int, limit: int) -> None:
    assert level_limits(CrossbarSpec(dac_bits=dac_bits), adc_bits) == limit


def test_adc_that_cannot_tell_one_level_is_refused() -> None:
    with pytest.raises(SpecError, match="adc_bits is 1; allowed: at least 2"):
        level_limits(CrossbarSpec(dac_bits=2), 1)


@pytest.mark.parametrize("encoding", [SignEncoding.OFFSET, SignEncoding.FLIPPED])
def test_encoding_without_zero_cells_is_refused(encoding: SignEncoding) -> None:
    with pytest.raises(SpecError, match=f"level sums with {encoding} encoding; allowed: differ"):
        level_limits(CrossbarSpec(sign_encoding=encoding), 4)


def test_chosen_scale_costs_no_more_than_the_largest_weights() -> None:
    weight = values(3, 6, 40, size=0.2)
    layout, limit = MatrixLayout.of(weight), 5
    scale = choose_scale(weight, SMALL, layout, limit)
    plain = weight.abs().amax(dim=1) / SMALL.weight_limit

    def cost(unit: Tensor) -> Tensor:
        integers = project_weight(weight, unit, SMALL, layout, limit, thresholds=(0.6,))
        return error(integers * per_output(unit, weight), weight)

    assert (cost(scale) <= cost(plain)).all()
    assert float(cost(scale).sum()) < 0.9 * float(cost(plain).sum())


def test_output_without_weights_has_scale_one() -> None:
    weight = values(0, 2, 8)
    weight[1] = 0
    scale = choose_scale(weight, SMALL, MatrixLayout.of(weight), 5)
    assert float(scale[1]) == 1.0


@given(st.integers(0, 1000), st.integers(1, 6), st.booleans())
@settings(deadline=None, max_examples=12)
def test_constraint_projects_onto_what_its_check_and_the_certificate_accept(
    seed: int, adc_bits: int, packed: bool
) -> None:
    weight = values(seed, 4, 5, 2, 2, size=0.3)
    kept = torch.tensor([[0, 3, 4, 7, 9, 11, 12, 13, 18, 19]]) if packed else None
    layout = MatrixLayout(groups=1, outputs=4, rows=20, kept_rows=kept)
    constraint = LevelSum(adc_bits)
    projected = constraint.project(weight, SMALL, layout)
    scale = choose_scale(weight, SMALL, layout, level_limits(SMALL, adc_bits))
    integers = torch.round(projected / per_output(scale, weight)).int()
    constraint.check("layer", integers, SMALL, layout)
    assert certify(integers, SMALL, layout).adc_bits <= adc_bits


def test_check_names_segment_slice_sum_and_limit() -> None:
    weight = torch.zeros(3, 20, dtype=torch.int32)
    weight[1, 8:14] = -8  # tile 1; digit 2 in slice 1 of the negative bitlines of output 1
    with pytest.raises(ConstraintError) as caught:
        LevelSum(3).check("fc", weight, SMALL, MatrixLayout.of(weight))
    assert str(caught.value) == (
        "fc: levels sum to 12 in segment (tile 1, bitline 13, bit slice 1), limit 7 with a "
        "3-bit ADC"
    )
    LevelSum(4).check("fc", weight, SMALL, MatrixLayout.of(weight))


def test_check_refuses_weights_in_removed_rows() -> None:
    layout = MatrixLayout(groups=1, outputs=1, rows=4, kept_rows=torch.tensor([[0, 1]]))
    with pytest.raises(ConstraintError, match="1 non-zero weights in removed rows"):
        LevelSum(4).check("fc", torch.tensor([[1, 0, 0, 1]]), SMALL, layout)
