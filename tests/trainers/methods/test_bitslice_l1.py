from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError, ConstraintError, SpecError
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
from trainers.finalise import finalise
from trainers.fit import fit
from trainers.integer import integer_layers
from trainers.methods import BitsliceL1, BitsliceL1Config
from trainers.methods.bitslice_l1 import ARMS, fixed_point_step, slice_gradient
from trainers.networks import build_network
from trainers.tracing import layer_shapes

PAPER = CrossbarSpec(wordlines=8, bitlines=16, weight_bits=9)
"""Eight bits of magnitude in 2-bit cells, as in the paper."""


def linear(nonzeros: int | None = None, **settings: object) -> tuple[nn.Linear, BitsliceL1]:
    """A linear layer of 12 x 4 under the method, attached for two epochs of one step."""
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    config = BitsliceL1Config(**settings)  # type: ignore[arg-type]
    method = BitsliceL1(toy_targets(network, PAPER, nonzeros=nonzeros), config)
    method.attach(network, epochs=2, steps_per_epoch=1)
    layer = network[0]
    assert isinstance(layer, nn.Linear)
    return layer, method


def step_of(layer: nn.Linear, method: BitsliceL1, gradient: Tensor | None = None) -> None:
    """One step of plain gradient descent with this gradient of the data."""
    layer.weight.grad = torch.zeros_like(layer.weight) if gradient is None else gradient
    method.after_backward()
    with torch.no_grad():
        layer.weight.sub_(0.1 * layer.weight.grad)
    method.after_step()


def published_penalty(weight: Tensor, step: float) -> Tensor:
    """Sum of the four digits: floors and round pass gradients on, higher digits are constants."""

    def through(rounded: Tensor, value: Tensor) -> Tensor:
        return rounded.detach() + (value - value.detach())

    scaled = weight.abs() / step
    rest = through(torch.round(scaled), scaled)
    total = torch.zeros(())
    for unit in (64, 16, 4, 1):
        quotient = rest / unit
        digit = through(torch.floor(quotient), quotient)
        digit = torch.where(digit > 0, digit, torch.zeros(()))
        total = total + digit.sum()
        rest = rest - unit * digit.detach()
    return total


# The fixed-point format.


@pytest.mark.parametrize(
    ("largest", "step"),
    [
        (1.0, 2.0**-8),
        (1.001, 2.0**-7),
        (0.999, 2.0**-8),
        (0.5, 2.0**-9),
        (0.3, 2.0**-9),
        (3.0, 2.0**-6),
        (0.0, 2.0**-24),  # a layer of zeros: the range is 1e-5, up to 2^-16
    ],
)
def test_step_is_the_power_of_two_that_covers_the_largest_weight(
    largest: float, step: float
) -> None:
    assert float(fixed_point_step(torch.tensor([0.0, -largest]), PAPER)) == step


def test_fewer_weight_bits_make_coarser_steps() -> None:
    spec = replace(PAPER, weight_bits=5)
    assert float(fixed_point_step(torch.tensor([1.0]), spec)) == 2.0**-4


def test_largest_weight_at_a_power_of_two_is_clipped_to_what_the_cells_hold() -> None:
    network = nn.Sequential(nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -1.0, 0.5]]))
    method = BitsliceL1(toy_targets(network, PAPER), BitsliceL1Config())
    method.attach(network, epochs=1, steps_per_epoch=1)
    integers, scale = method.quantise("0", network[0].weight.detach())
    assert integers.tolist() == [[255, -255, 128]]
    assert scale.tolist() == [2.0**-8]


# The regulariser.


@settings(deadline=None)
@given(
    integers=st.lists(st.integers(-255, 255), min_size=1, max_size=12),
    exponent=st.integers(-12, 2),
    offset=st.floats(-0.4, 0.4),
)
def test_gradient_is_that_of_the_published_function(
    integers: list[int], exponent: int, offset: float
) -> None:
    step = 2.0**exponent
    values = torch.tensor(integers, dtype=torch.float32)
    weight = (values + values.sign() * offset) * step
    weight = weight.clamp(-255 * step, 255 * step).requires_grad_()
    published_penalty(weight, step).backward()  # type: ignore[no-untyped-call]
    found = slice_gradient(weight, torch.tensor(step), PAPER)
    assert weight.grad is not None
    torch.testing.assert_close(found, weight.grad)


@pytest.mark.parametrize(
    ("integer", "pull"),
    [
        (0, 0.0),
        (1, 1.0),
        (4, 1 / 4),
        (16, 1 / 16),
        (64, 1 / 64),
        (192, 1 / 64),
        (255, 1 + 1 / 4 + 1 / 16 + 1 / 64),
        (-66, -1 - 1 / 64),
    ],
)
def test_pull_ends_slice_by_slice_where_a_digit_is_zero(integer: int, pull: float) -> None:
    step = torch.tensor(2.0**-8)
    assert float(slice_gradient(torch.tensor(integer) * step, step, PAPER)) == pull * 256


def test_pull_follows_the_cells() -> None:
    spec = replace(PAPER, weight_bits=7, cell_bits=3)  # two slices of three bits
    weight = torch.tensor([1.0, 8.0, 9.0])
    assert slice_gradient(weight, torch.tensor(1.0), spec).tolist() == [1.0, 1 / 8, 9 / 8]


def test_bit_slice_arm_adds_the_mean_digit_over_all_layers() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 2)))
    config = BitsliceL1Config(alpha=3.0, l1_share=0.0)
    method = BitsliceL1(toy_targets(network, PAPER), config)
    method.attach(network, epochs=1, steps_per_epoch=1)
    stored = {n: m.weight.detach().clone() for n, m in method.modules.items()}
    for module in method.modules.values():
        module.weight.grad = torch.zeros_like(module.weight)
    method.after_backward()
    for name, module in method.modules.items():
        pull = slice_gradient(stored[name], fixed_point_step(method.latents[name], PAPER), PAPER)
        assert module.weight.grad is not None
        torch.testing.assert_close(module.weight.grad, 3.0 / (4 * (48 + 8)) * pull)
        assert torch.equal(module.weight, method.latents[name])


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_starts_with_plain_l1(arm: str) -> None:
    layer, method = linear(arm=arm, l1_share=1.0, l1_weight=4.8)
    layer.weight.grad = torch.zeros_like(layer.weight)
    method.after_backward()
    torch.testing.assert_close(layer.weight.grad, 0.1 * method.latents["0"].sign())


def test_arms_differ_in_the_last_phase_only() -> None:
    gradients = {}
    for arm in ARMS:
        layer, method = linear(arm=arm, l1_share=0.0)
        layer.weight.grad = torch.zeros_like(layer.weight)
        method.after_backward()
        gradients[arm] = layer.weight.grad
    assert int(gradients["pruned"].count_nonzero()) == 0
    assert torch.equal(gradients["l1"].sign(), gradients["bl1"].sign())
    assert not torch.equal(gradients["l1"], gradients["bl1"])


def test_frozen_layer_is_left_without_a_gradient() -> None:
    for share in (0.0, 1.0):
        layer, method = linear(l1_share=share)
        layer.weight.requires_grad_(False)
        method.after_backward()
        assert layer.weight.grad is None


# The schedule.


def test_forward_pass_sees_fixed_point_weights_of_the_latents() -> None:
    layer, method = linear()
    step_of(layer, method, torch.ones(4, 12))
    latent = method.latents["0"]
    step = fixed_point_step(latent, PAPER)
    assert torch.equal(layer.weight, torch.round(latent / step) * step)
    assert not torch.equal(layer.weight, latent)


def test_small_weights_go_for_good_when_l1_has_done_its_part() -> None:
    layer, method = linear(l1_share=0.5, threshold=0.2)
    assert method.masks == {}
    step_of(layer, method)
    latent = method.latents["0"]
    mask = method.masks["0"]
    assert 0 < int(mask.sum()) < mask.numel()
    assert torch.equal(latent != 0, mask)
    assert latent[mask].abs().min() >= 0.2
    step_of(layer, method, -torch.ones(4, 12))
    assert torch.equal(method.latents["0"] != 0, mask)
    assert int(layer.weight[~mask].count_nonzero()) == 0


def test_momentum_does_not_move_removed_weights() -> None:
    layer, method = linear(l1_share=0.0, threshold=0.2)
    with torch.no_grad():
        layer.weight.grad = torch.zeros_like(layer.weight)
        method.after_backward()
        layer.weight.add_(1.0)  # an optimiser that still moves everything
    method.after_step()
    assert torch.equal(method.latents["0"] != 0, method.masks["0"])


def test_finalising_in_the_l1_phase_prunes() -> None:
    layer, method = linear(l1_share=1.0, threshold=0.2)
    method.finalize()
    assert torch.equal(method.latents["0"] != 0, method.masks["0"])
    assert int((layer.weight == 0).sum()) > 0


@pytest.mark.parametrize("arm", ARMS)
def test_stored_integers_are_those_that_were_trained(arm: str) -> None:
    images = toy_images()
    network = build_network(CONV_NET, SHAPE, 3)
    spec = replace(PAPER, wordlines=16)
    method = BitsliceL1(
        toy_targets(network, spec), BitsliceL1Config(arm=arm, l1_weight=0.1, alpha=0.01)
    )
    with no_graph_kept(*method.latents.values()):
        toy_fit(network, images, method, epochs=2)
    trained = {name: module.weight.detach().clone() for name, module in method.modules.items()}
    integer = finalise(network, method, layer_shapes(network, images.shape), images)
    for name, layer in integer_layers(integer).items():
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight_q.ndim - 1))
        assert torch.equal(layer.weight_q * scale, trained[name])
        assert len(set(layer.weight_scale.tolist())) == 1


def test_regulariser_empties_slices() -> None:
    nonzero_digits = {}
    for alpha in (0.0, 0.5):
        images = toy_images()
        network = build_network(CONV_NET, SHAPE, 3)
        config = BitsliceL1Config(alpha=alpha, l1_share=0.0)
        method = BitsliceL1(toy_targets(network, PAPER), config)
        toy_fit(network, images, method, epochs=4)
        digits = [
            (integers.abs().int() >> (2 * index)) & 3
            for name, module in method.modules.items()
            for integers in [method.quantise(name, module.weight.detach())[0]]
            for index in range(4)
        ]
        nonzero_digits[alpha] = sum(int((d > 0).sum()) for d in digits)
    assert nonzero_digits[0.5] < 0.8 * nonzero_digits[0.0]


# Together with the count bound.


def test_count_bound_holds_at_every_step() -> None:
    layer, method = linear(nonzeros=2, refresh_steps=2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        integers, _ = method.quantise("0", layer.weight.detach())
        method.constraint("0").check("0", integers, PAPER, method.layouts["0"])
        step_of(layer, method, torch.randn(4, 12, generator=generator))
    assert int(layer.weight.count_nonzero()) > 0


def test_missed_count_bound_is_named() -> None:
    _, method = linear(nonzeros=1)
    integers = torch.ones(4, 12, dtype=torch.int32)
    with pytest.raises(ConstraintError, match=r"0: 8 non-zeros in segment \(tile 0, bitline 0\)"):
        method.constraint("0").check("0", integers, PAPER, method.layouts["0"])


def test_weights_outside_the_bound_are_not_pulled_at() -> None:
    layer, method = linear(nonzeros=1, l1_share=0.0)
    idle = layer.weight == 0
    layer.weight.grad = torch.zeros_like(layer.weight)
    method.after_backward()
    assert int(layer.weight.grad[idle].count_nonzero()) == 0
    assert int(layer.weight.grad[~idle].count_nonzero()) > 0


# State and settings.


@pytest.mark.parametrize("nonzeros", [None, 2])
@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_run_is_the_same_bit_for_bit(
    tmp_path: Path, nonzeros: int | None, stop: int
) -> None:
    images = toy_images()

    def run(epochs: int, state: Path | None = None) -> tuple[nn.Module, BitsliceL1]:
        network = build_network(CONV_NET, SHAPE, 3)
        config = BitsliceL1Config(l1_weight=0.1, alpha=0.01, refresh_steps=2)
        method = BitsliceL1(toy_targets(network, PAPER, nonzeros=nonzeros), config)

        def stop_at(report: object) -> None:
            if state is not None and getattr(report, "epoch", 0) + 1 == epochs:
                raise KeyboardInterrupt

        train = TrainConfig(batch_size=8)
        try:
            fit(
                network,
                images,
                method,
                train,
                epochs=4,
                learning_rate=0.02,
                seed=0,
                state_path=state,
                report=stop_at,
            )
        except KeyboardInterrupt:
            return run(0, state)
        return network, method

    whole, whole_method = run(4)
    resumed, resumed_method = run(stop, tmp_path / "state")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for name, tensor in whole_method.state_dict().items():
        assert torch.equal(tensor, resumed_method.state_dict()[name]), name


def test_untrained_network_finalises_within_its_bound() -> None:
    images = toy_images()
    network = build_network(CONV_NET, SHAPE, 3)
    method = BitsliceL1(toy_targets(network, PAPER, nonzeros=2), BitsliceL1Config())
    integer = finalised(network, images, method)
    for layer in integer_layers(integer).values():
        assert layer.adc_bits <= 3


@pytest.mark.parametrize("encoding", [SignEncoding.OFFSET, SignEncoding.FLIPPED])
def test_cells_that_a_zero_does_not_leave_empty_are_refused(encoding: SignEncoding) -> None:
    network = nn.Sequential(nn.Linear(4, 2))
    spec = replace(PAPER, sign_encoding=encoding)
    with pytest.raises(SpecError, match=f"0: sign_encoding is '{encoding}'; allowed with"):
        BitsliceL1(toy_targets(network, spec), BitsliceL1Config())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("arm", "l2"),
        ("alpha", -1.0),
        ("l1_weight", -1.0),
        ("l1_share", 1.5),
        ("threshold", -0.1),
        ("refresh_steps", 0),
    ],
)
def test_impossible_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"method.{setting} is {value!r}; allowed: "):
        BitsliceL1Config(**{setting: value})  # type: ignore[arg-type]
