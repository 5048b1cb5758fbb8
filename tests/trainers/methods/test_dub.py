from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, ConstraintError
from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import (
    CONV_NET,
    SHAPE,
    finalised,
    no_graph_kept,
    seeded,
    toy_fit,
    toy_images,
    toy_targets,
)
from trainers.config import TrainConfig
from trainers.fit import fit
from trainers.integer import integer_layers
from trainers.methods import Dub, DubConfig
from trainers.methods.dub import TileCounts, hoyer_variance_gradient, nearest_bins
from trainers.networks import build_network
from trainers.tracing import layer_shapes

SPEC = CrossbarSpec(wordlines=8, bitlines=16)
"""Two outputs of eight bitlines side by side."""


def attached(
    network: nn.Module, *, share: float | None = None, epochs: int = 1, **settings: float
) -> Dub:
    targets = {
        name: replace(target, kept_weights=share)
        for name, target in toy_targets(network, SPEC).items()
    }
    method = Dub(targets, DubConfig(**settings))
    method.attach(network, epochs=epochs, steps_per_epoch=1)
    return method


def linear(weight: list[list[float]]) -> nn.Sequential:
    """A linear layer of these weights, `[outputs, rows]`."""
    values = torch.tensor(weight)
    network = nn.Sequential(nn.Linear(values.shape[1], values.shape[0]))
    with torch.no_grad():
        network[0].weight.copy_(values)
    return network


# The regulariser.


def summed_variances(segments: Tensor, width: int) -> Tensor:
    """What the gradient without a gate is of."""
    total = 0 * segments.sum()
    for tile in segments.flatten(0, 1):
        for columns in tile.split(width):
            if len(columns) > 1:
                hoyer = columns.abs().sum(1).square() / (columns.square().sum(1) + 1e-6)
                total = total + hoyer.var()
    return total


@settings(deadline=None)
@given(
    groups=st.integers(1, 2),
    tiles=st.integers(1, 2),
    outputs=st.integers(1, 5),
    wordlines=st.integers(1, 6),
    width=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_gradient_is_that_of_the_variance_where_columns_are_dense(
    groups: int, tiles: int, outputs: int, wordlines: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (groups, tiles, outputs, wordlines)
    segments = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    summed_variances(segments, width).backward()  # type: ignore[no-untyped-call]
    ungated = segments.grad
    assert ungated is not None
    values = segments.detach()
    hoyer = values.abs().sum(-1).square() / (values.square().sum(-1) + 1e-6)
    dense = torch.cat([h > h.mean(-1, keepdim=True) for h in hoyer.split(width, dim=-1)], dim=-1)
    found = hoyer_variance_gradient(values, width)
    torch.testing.assert_close(found, ungated * dense[..., None], atol=1e-9, rtol=1e-6)


def test_dense_column_is_thinned_out_and_the_sparse_one_left_alone() -> None:
    segments = torch.tensor([[[[1.0, 0.9, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0]]]])
    gradient = hoyer_variance_gradient(segments, 2)
    assert int(gradient[0, 0, 1].count_nonzero()) == 0
    assert gradient[0, 0, 0, 2] > 0  # the smallest weight is drawn to zero
    assert gradient[0, 0, 0, 0] < 0  # at the cost of the largest


def test_regularisers_are_weighted_and_end_with_phase_one() -> None:
    network = seeded(nn.Sequential(nn.Linear(8, 2)))
    weight = network[0].weight
    method = attached(network, epochs=2, variance_weight=0.5, l2_weight=0.25)
    weight.grad = torch.zeros_like(weight)
    with no_graph_kept(weight.grad):
        method.after_backward()
        balance = hoyer_variance_gradient(weight.detach()[None, None], 2)[0, 0]
        torch.testing.assert_close(weight.grad, 0.5 * balance + 0.25 * weight.detach())
    method.after_step()
    assert method.masks
    weight.grad = torch.zeros_like(weight)
    method.after_backward()
    assert int(weight.grad.count_nonzero()) == 0


def test_frozen_layer_is_left_without_a_gradient() -> None:
    network = seeded(nn.Sequential(nn.Linear(8, 2)))
    network[0].weight.requires_grad_(False)
    attached(network).after_backward()
    assert network[0].weight.grad is None


# Bins and pruning.


@pytest.mark.parametrize(
    ("densest", "kept"),
    [
        (64, 64),
        (49, 64),
        (48, 32),  # halfway: pruned
        (25, 32),  # 39 of 64 zeros is nearer to a half
        (23, 16),  # 41 of 64 zeros is nearer to three quarters
        (16, 16),
        (2, 2),
        (1, 1),
        (0, 0),
    ],
)
def test_bin_is_the_nearest_power_of_two(densest: int, kept: int) -> None:
    assert nearest_bins(torch.tensor([densest]), torch.tensor([64])).tolist() == [kept]


def test_bins_of_a_tail_are_those_of_its_own_height() -> None:
    found = nearest_bins(torch.tensor([[5, 5], [5, 5]]), torch.tensor([[8], [5]]))
    assert found.tolist() == [[4, 4], [5, 5]]


def test_each_crossbar_is_pruned_to_what_its_densest_column_needs() -> None:
    network = linear(
        [
            [0.9, 0.8, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0],  # three needed: two kept
            [0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0],  # five needed: four kept, so four for both
            [0.5, 0.0005, 0.0004, 0.0, 0.0, 0.0, 0.0, 0.0],  # almost zeros do not count
        ]
    )
    method = attached(network, regularised_share=0.0)
    assert method.counts["0"].tolist() == [[[4, 1]]]
    kept = network[0].weight != 0
    assert kept.sum(dim=1).tolist() == [3, 4, 1]


def test_share_of_needed_weights_takes_the_tolerance_s_place() -> None:
    network = seeded(nn.Sequential(nn.Linear(8, 4)))
    before = network[0].weight.detach().abs()
    method = attached(network, share=0.25, regularised_share=0.0)
    largest = before >= before.flatten().topk(8).values[-1]
    densest = largest.sum(dim=1).reshape(2, 2).amax(dim=1)
    expected = nearest_bins(densest[None, None], torch.tensor([8]))
    assert torch.equal(method.counts["0"], expected)


def test_layer_of_zeros_keeps_nothing() -> None:
    network = linear([[0.0] * 8] * 2)
    for share in (None, 0.5):
        assert attached(network, share=share, regularised_share=0.0).counts["0"].tolist() == [[[0]]]


@settings(deadline=None)
@given(
    outputs=st.integers(1, 5),
    rows=st.integers(1, 20),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_projection_keeps_the_largest_of_each_column(
    outputs: int, rows: int, seed: int, data: st.DataObject
) -> None:
    weight = torch.randn(outputs, rows, generator=torch.Generator().manual_seed(seed))
    layout = MatrixLayout.of(weight)
    tiles, across = -(-rows // 8), -(-outputs // 2)
    limits = data.draw(
        st.lists(st.integers(0, 8), min_size=tiles * across, max_size=tiles * across)
    )
    constraint = TileCounts(torch.tensor(limits).reshape(1, tiles, across))
    projected = constraint.project(weight, SPEC, layout)
    constraint.check("fc", projected, SPEC, layout)
    for output in range(outputs):
        for tile in range(tiles):
            column = weight[output, 8 * tile : 8 * tile + 8]
            limit = limits[tile * across + output // 2]
            expected = sorted(column.abs().tolist(), reverse=True)[:limit]
            found = projected[output, 8 * tile : 8 * tile + 8].abs()
            kept = [value for value in found.tolist() if value]
            assert sorted(kept, reverse=True) == expected
    assert torch.equal(constraint.project(projected, SPEC, layout), projected)


def test_missed_count_is_named() -> None:
    weight = torch.zeros(4, 16, dtype=torch.int32)
    weight[3, 8:13] = 1
    constraint = TileCounts(torch.full((1, 2, 2), 4))
    with pytest.raises(
        ConstraintError,
        match=r"fc: 5 non-zeros in the column at \(tile 1, bitline 24\), limit 4",
    ):
        constraint.check("fc", weight, SPEC, MatrixLayout.of(weight))


# Training.


def test_trained_network_keeps_the_counts_of_its_crossbars() -> None:
    images = toy_images()
    network = build_network(CONV_NET, SHAPE, 3)
    method = attached(network, share=0.4)
    toy_fit(network, images, method, epochs=4)
    assert all(torch.equal(method.modules[n].weight != 0, m) for n, m in method.masks.items())
    zeros = [float((~mask).float().mean()) for mask in method.masks.values()]
    assert min(zeros) > 0.2
    integer = finalised(network, images, method)
    shapes = layer_shapes(network, images.shape)
    assert set(integer_layers(integer)) == set(shapes)


def test_finalising_in_phase_one_prunes() -> None:
    network = seeded(nn.Sequential(nn.Linear(8, 4)))
    method = attached(network, share=0.25, regularised_share=1.0)
    assert int((network[0].weight == 0).sum()) == 0
    method.finalize()
    assert int((network[0].weight == 0).sum()) > 0


@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, stop: int) -> None:
    images = toy_images()

    def run(until: int | None, state: Path | None) -> tuple[nn.Module, Dub]:
        network = build_network(CONV_NET, SHAPE, 3)
        method = attached(network, share=0.4)

        def stop_at(report: object) -> None:
            if getattr(report, "epoch", 0) + 1 == until:
                raise KeyboardInterrupt

        try:
            fit(
                network,
                images,
                method,
                TrainConfig(batch_size=8),
                epochs=4,
                learning_rate=0.02,
                seed=0,
                state_path=state,
                report=stop_at,
            )
        except KeyboardInterrupt:
            return run(None, state)
        return network, method

    whole, whole_method = run(None, None)
    resumed, resumed_method = run(stop, tmp_path / "state")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for name, tensor in whole_method.state_dict().items():
        assert torch.equal(tensor, resumed_method.state_dict()[name]), name


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("variance_weight", -1.0),
        ("l2_weight", -1.0),
        ("tolerance", -1.0),
        ("regularised_share", 1.5),
    ],
)
def test_impossible_setting_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"method.{setting} is {value}; allowed: "):
        DubConfig(**{setting: value})
