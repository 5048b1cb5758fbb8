"""Levels without a zero, the interval between them, and which weights snap first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.errors import ConstraintError
from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import SPEC
from trainers.levels import LevelSet, level_indices, level_interval, snap_nearest


def weights(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 100), levels=st.integers(1, 20), interval=st.floats(0.05, 2))
def test_each_weight_gets_the_nearest_level_of_all(seed: int, levels: int, interval: float) -> None:
    weight = weights(seed, 30)
    allowed = torch.tensor([i for i in range(-levels, levels + 1) if i != 0]) * interval
    nearest = (weight[:, None] - allowed).abs().amin(dim=1)
    found = level_indices(weight, interval, levels) * interval
    torch.testing.assert_close((weight - found).abs(), nearest)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 100), levels=st.integers(1, 60))
def test_interval_is_as_good_as_any_on_the_grid_around_the_largest(seed: int, levels: int) -> None:
    weight = weights(seed, 40) * (weights(seed + 1, 40) > 0)

    def error(interval: float) -> float:
        kept = weight[weight != 0]
        return float((level_indices(kept, interval, levels) * interval - kept).square().sum())

    best = error(level_interval(weight, levels))
    largest = float(weight.abs().amax())
    for percent in range(90, 111):
        assert best <= error(largest / levels * percent / 100) * 1.01 + 1e-6


def test_levels_of_a_layer_of_zeros_are_next_to_nothing() -> None:
    interval = level_interval(torch.zeros(4), 3)
    assert 0 < interval < 1e-30
    assert level_indices(torch.zeros(4), interval, 3).tolist() == [1, 1, 1, 1]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 50), levels=st.integers(1, 40), nonzeros=st.integers(1, 40))
def test_projection_is_in_the_set_and_projects_to_itself(
    seed: int, levels: int, nonzeros: int
) -> None:
    weight = weights(seed, 4, 10)
    layout = MatrixLayout.of(weight)
    for bound in (LevelSet(levels), LevelSet(levels, nonzeros)):
        projected = bound.project(weight, SPEC, layout)
        interval = level_interval(projected, levels)
        bound.check("fc", torch.round(projected / interval).int(), SPEC, layout)
        torch.testing.assert_close(bound.project(projected, SPEC, layout), projected)


def test_check_names_the_cell_that_is_off_the_levels() -> None:
    integers = torch.ones(4, 20, dtype=torch.int32)
    layout = MatrixLayout.of(integers)
    LevelSet(3).check("fc", integers, SPEC, layout)
    integers[2, 17] = -4
    with pytest.raises(ConstraintError, match=r"fc: level 4 .*tile 2, bitline 16.*limit 3"):
        LevelSet(3).check("fc", integers, SPEC, layout)
    integers[2, 17] = 0
    with pytest.raises(ConstraintError, match=r"fc: level 0 .*tile 2, bitline 16.*reserved"):
        LevelSet(3).check("fc", integers, SPEC, layout)
    LevelSet(3, 79).check("fc", integers, SPEC, layout)
    with pytest.raises(ConstraintError, match="79 non-zeros in the layer, limit 78"):
        LevelSet(3, 78).check("fc", integers, SPEC, layout)


def test_nearest_share_of_each_level_snaps() -> None:
    weight = torch.tensor([1.1, 1.2, 0.95, 0.6, 2.4, 2.1, -1.3, -1.01, 5.0, 1.0])
    free = torch.ones(10, dtype=torch.bool)
    free[9] = False
    chosen = snap_nearest(weight, free, 1.0, 2, 0.3)
    # Level 1: two of 1.1, 1.2, 0.95, 0.6; level 2: one of 2.4, 2.1, 5.0; level -1: one of two.
    assert chosen.nonzero().flatten().tolist() == [0, 2, 5, 7]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 50), share=st.floats(0, 1))
def test_only_free_weights_snap_and_a_whole_share_takes_all(seed: int, share: float) -> None:
    weight, free = weights(seed, 5, 7), weights(seed + 1, 5, 7) > 0
    assert not bool((snap_nearest(weight, free, 0.3, 4, share) & ~free).any())
    assert torch.equal(snap_nearest(weight, free, 0.3, 4, 1.0), free)
