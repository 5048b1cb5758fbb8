"""Level sums in training; the projection itself is in `tests.trainers.test_level_sum`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError, SpecError
from hwmodel.mapping import MatrixLayout, to_segments
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    MLP,
    SHAPE,
    SPEC,
    seeded,
    toy_fit,
    toy_images,
    toy_targets,
)
from trainers.constraints import LevelSum, Unconstrained
from trainers.finalise import finalise
from trainers.integer import integer_layers
from trainers.level_sum import choose_scale, level_limits, project_weight, refit_scale
from trainers.method import LayerTarget
from trainers.methods import LevelSumConfig, LevelSumMethod
from trainers.networks import build_network
from trainers.tracing import layer_shapes


def one_layer(seed: int = 0) -> nn.Sequential:
    return nn.Sequential(seeded(nn.Linear(20, 4, bias=False), seed))


def attached(
    network: nn.Module, adc_bits: int | None = 3, refresh_steps: int = 3, **target: Any
) -> LevelSumMethod:
    targets = {
        name: replace(other, adc_bits=adc_bits, **target)
        for name, other in toy_targets(network).items()
    }
    method = LevelSumMethod(targets, LevelSumConfig(refresh_steps=refresh_steps))
    method.attach(network, epochs=2, steps_per_epoch=4)
    return method


def step(method: LevelSumMethod, network: nn.Sequential, seed: int, size: float = 0.2) -> None:
    """A step of plain descent on noise."""
    generator = torch.Generator().manual_seed(seed)
    method.after_backward()
    with torch.no_grad():
        network[0].weight.add_(torch.randn(4, 20, generator=generator), alpha=size)
    method.after_step()


def integers(method: LevelSumMethod, network: nn.Sequential) -> Tensor:
    """What the network's weights are stored as; they are checked to be just that."""
    weight = network[0].weight.detach()
    found, scale = method.quantise("0", weight)
    torch.testing.assert_close(found * scale[:, None], weight)
    return found


def level_sums(weight_q: Tensor, layout: MatrixLayout, spec: CrossbarSpec = SPEC) -> Tensor:
    """Of every segment, polarity and slice, digit by digit."""
    segments = to_segments(layout.pack(weight_q.long()), spec.wordlines)
    mask = (1 << spec.cell_bits) - 1
    return torch.stack(
        [
            ((segments * sign).clamp(min=0) >> (spec.cell_bits * index) & mask).sum(-1)
            for sign in (1, -1)
            for index in range(spec.slice_count)
        ]
    )


@settings(deadline=None, max_examples=25)
@given(
    adc_bits=st.integers(1, 7),
    refresh_steps=st.integers(1, 4),
    steps=st.integers(0, 6),
    size=st.sampled_from((0.02, 0.3, 3.0)),
    seed=st.integers(0, 50),
    kept=st.sampled_from(({}, {"rows": 11, "outputs": 3})),
)
def test_every_step_ends_within_the_adcs(
    adc_bits: int, refresh_steps: int, steps: int, size: float, seed: int, kept: dict[str, int]
) -> None:
    network = one_layer(seed)
    method = attached(network, adc_bits, refresh_steps, **kept)
    for number in range(steps + 1):
        weight_q = integers(method, network)
        layout = method.layouts["0"]
        assert int(level_sums(weight_q, layout).max()) <= 2**adc_bits - 1
        method.constraint("0").check("0", weight_q, SPEC, layout)
        step(method, network, number, size)


def test_no_digit_grows_between_two_projections() -> None:
    network = one_layer()
    method = attached(network, refresh_steps=4)
    mask = (1 << SPEC.cell_bits) - 1
    anchor = integers(method, network)
    grown = []
    for number in range(8):
        step(method, network, number)
        found = integers(method, network)
        for index in range(SPEC.slice_count):
            digits, caps = (q.abs() >> (SPEC.cell_bits * index) & mask for q in (found, anchor))
            grown.append(bool((digits > caps).any() or (found * anchor < 0).any()))
        if (number + 1) % 4 == 0:
            assert any(grown[-SPEC.slice_count :])  # a projection may raise them
            anchor, grown = found, []
        else:
            assert not any(grown)


def test_scales_are_fitted_to_what_each_projection_finds() -> None:
    network = one_layer()
    method = attached(network, refresh_steps=4)
    for number in range(8):
        step(method, network, number)
        if (number + 1) % 4 == 0:
            latent, found = method.latents["0"], method.anchors["0"]
            errors = {
                factor: float((latent - found * factor * method.scales["0"][:, None]).norm())
                for factor in (0.98, 1.0, 1.02)
            }
            assert min(errors, key=errors.__getitem__) == 1.0
            before = method.scales["0"].clone()
        elif number > 4:
            assert torch.equal(method.scales["0"], before)
    assert torch.equal(method.quantise("0", network[0].weight)[1], method.scales["0"])


def test_scales_of_another_network_are_chosen_anew() -> None:
    network, louder = one_layer(), one_layer(seed=1)
    method = attached(network)
    with torch.no_grad():
        louder[0].weight.mul_(100)
    fresh = louder[0].weight.detach().clone()
    method.attach(louder, epochs=1, steps_per_epoch=4)
    layout, limit = method.layouts["0"], level_limits(SPEC, 3)
    chosen = choose_scale(fresh, SPEC, layout, limit)
    expected = refit_scale(fresh, project_weight(fresh, chosen, SPEC, layout, limit), chosen)
    assert torch.equal(method.scales["0"], expected)


def test_projection_returns_what_is_within_already() -> None:
    network = one_layer()
    method = attached(network, refresh_steps=1)
    step(method, network, 0)
    weight = network[0].weight.detach().clone()
    torch.testing.assert_close(method.project("0", weight), weight)


def test_wider_adcs_stay_nearer_to_the_dense_weights() -> None:
    errors = []
    for adc_bits in (1, 2, 3):
        network = one_layer()
        dense = network[0].weight.detach().clone()
        attached(network, adc_bits)
        errors.append(float((network[0].weight.detach() - dense).norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_layer_without_adc_bits_is_trained_and_stored_as_it_is() -> None:
    network = nn.Sequential(one_layer()[0], seeded(nn.Linear(4, 2)))
    targets = toy_targets(network)
    targets["0"] = replace(targets["0"], adc_bits=3)
    method = LevelSumMethod(targets, LevelSumConfig())
    dense = network[1].weight.detach().clone()
    method.attach(network, epochs=1, steps_per_epoch=1)
    method.after_backward()
    method.after_step()
    assert (method.constraint("0"), method.constraint("1")) == (LevelSum(3), Unconstrained())
    assert torch.equal(network[1].weight, dense)
    assert torch.equal(method.project("1", dense), dense)
    assert int(method.quantise("1", dense)[0].abs().max()) == SPEC.weight_limit
    assert list(method.scales) == list(method.latents) == ["0"]


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_state_round_trip_before_and_after_a_projection(steps: int) -> None:
    network, again = one_layer(), one_layer(seed=7)
    method, other = attached(network), attached(again)
    for number in range(steps):
        step(method, network, number)
    again.load_state_dict(network.state_dict())
    other.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    for number in range(steps, steps + 5):
        step(method, network, number)
        step(other, again, number)
        assert torch.equal(network[0].weight, again[0].weight)
        assert torch.equal(integers(method, network), integers(other, again))


@pytest.mark.parametrize("network_config", [MLP, CONV_NET], ids=["mlp", "conv"])
def test_training_ends_with_integers_that_small_adcs_read(network_config: Any) -> None:
    images = toy_images()
    network = build_network(network_config, SHAPE, CLASSES)
    targets = {name: replace(t, adc_bits=3) for name, t in toy_targets(network).items()}
    method = LevelSumMethod(targets, LevelSumConfig(refresh_steps=2))
    toy_fit(network, images, method, epochs=2)
    before = {name: module.weight.detach().clone() for name, module in method.modules.items()}
    integer = finalise(network, method, layer_shapes(network, SHAPE), images)
    for name, layer in integer_layers(integer).items():
        assert layer.certify().adc_bits <= 3
        assert torch.equal(method.modules[name].weight, before[name])
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight_q.ndim - 1))
        torch.testing.assert_close(layer.unpacked_weight * scale, before[name])


@pytest.mark.parametrize(
    ("spec", "adc_bits", "message"),
    [
        (replace(SPEC, sign_encoding=SignEncoding.OFFSET), 4, "level sums with offset encoding"),
        (replace(SPEC, sign_encoding=SignEncoding.FLIPPED), 4, "level sums with flipped encoding"),
        (replace(SPEC, dac_bits=3), 2, "adc_bits is 2; allowed: at least 3"),
    ],
)
def test_bound_that_no_crossbar_keeps_is_refused_before_training(
    spec: CrossbarSpec, adc_bits: int, message: str
) -> None:
    targets = {"fc": LayerTarget(spec=spec, adc_bits=adc_bits)}
    with pytest.raises(SpecError, match=f"^fc: {message}"):
        LevelSumMethod(targets, LevelSumConfig())
    LevelSumMethod({"fc": LayerTarget(spec=spec)}, LevelSumConfig())


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_impossible_refresh_is_named(steps: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"method\.refresh_steps is {steps}; allowed: an integer"
    ):
        LevelSumConfig(refresh_steps=steps)  # type: ignore[arg-type]
