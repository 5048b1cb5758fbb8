from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec, SignEncoding
from hwmodel.errors import ConstraintError, MappingError, SpecError
from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import (
    CONV_NET,
    SHAPE,
    SPEC,
    finalised,
    seeded,
    toy_fit,
    toy_images,
)
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.config import TrainConfig
from trainers.constraints import Circulant, Unconstrained
from trainers.fit import EpochReport, fit
from trainers.integer import EVERY_READING, EXACT, integer_layers, set_readout
from trainers.method import LayerTarget, dense_targets
from trainers.methods import CirculantConfig, CirculantMethod
from trainers.networks import build_network
from trainers.tracing import layer_shapes

IMAGES = toy_images(shape=(1, 6, 6))


def circulant(
    network: nn.Module, block_size: int | None = 4, spec: CrossbarSpec = SPEC
) -> CirculantMethod:
    targets = {
        name: replace(target, block_size=block_size)
        for name, target in dense_targets(network, CrossbarPlan(default=spec)).items()
    }
    return CirculantMethod(targets, CirculantConfig())


def attached(network: nn.Module, block_size: int | None = 4) -> CirculantMethod:
    method = circulant(network, block_size)
    method.attach(network, epochs=1, steps_per_epoch=1)
    return method


def conv_net() -> nn.Module:
    return seeded(build_network(CONV_NET, SHAPE, 3))


@torch.no_grad()
def off_diagonal(method: CirculantMethod) -> float:
    """Largest distance of a weight from the mean of its diagonal, over all layers."""
    distances = [
        (blocks.project(method.modules[name].weight) - method.modules[name].weight).abs().max()
        for name, blocks in method.blocks.items()
    ]
    return float(torch.stack(distances).max())


def test_layers_take_the_largest_block_that_fits() -> None:
    method = attached(conv_net())
    # first has one input channel, depthwise layers too; grouped has two in and two out.
    assert {name: blocks.side for name, blocks in method.blocks.items()} == {
        "grouped": 2,
        "linear": 3,
    }


def test_attaching_keeps_the_norm_and_makes_the_blocks_circulant() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 8)))
    before = network[0].weight.detach().clone()
    method = attached(network)
    assert float(network[0].weight.detach().norm()) == pytest.approx(float(before.norm()))
    assert off_diagonal(method) < 1e-6


def test_layer_without_blocks_stays_as_it_is() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 8)))
    before = network[0].weight.detach().clone()
    method = attached(network, block_size=None)
    assert method.constraint("0") == Unconstrained()
    assert torch.equal(network[0].weight, before)


def test_a_step_is_gradient_descent_on_the_defining_vectors() -> None:
    network = seeded(nn.Sequential(nn.Linear(8, 8, bias=False)))
    method = attached(network)
    blocks, weight = method.blocks["0"], network[0].weight
    vectors = blocks.vectors(weight.detach()).requires_grad_()
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    (inputs @ blocks.expand(vectors, (8, 8)).T).square().sum().backward()
    network(inputs).square().sum().backward()
    method.after_backward()
    assert vectors.grad is not None
    assert weight.grad is not None
    expected = blocks.expand(vectors.grad / blocks.side, (8, 8))
    assert torch.allclose(weight.grad, expected, rtol=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_training_stays_circulant_and_learns(optimiser: str) -> None:
    network = conv_net()
    method = circulant(network)
    config = TrainConfig(batch_size=8, optimiser=optimiser)
    result = fit(network, IMAGES, method, config, epochs=8, learning_rate=0.02, seed=0)
    assert result.epochs[-1].loss < result.epochs[0].loss
    assert off_diagonal(method) < 1e-5


def test_rounded_weights_stay_circulant_with_a_scale_per_block_row() -> None:
    network = seeded(nn.Sequential(nn.Linear(10, 7)))
    method = attached(network)
    weight_q, scale = method.quantise("0", network[0].weight)
    limit = SPEC.weight_limit
    Circulant(4).check("0", weight_q, SPEC, MatrixLayout.of(weight_q))
    assert int(weight_q.abs().max()) == limit
    assert scale[:4].unique().numel() == scale[4:].unique().numel() == 1
    assert scale.shape == (7,)
    error = (weight_q * scale[:, None] - network[0].weight).abs()
    assert bool((error <= scale[:, None] / 2 + 1e-6).all())


@pytest.mark.parametrize("encoding", SignEncoding)
def test_rotated_readings_equal_the_integer_network(encoding: SignEncoding) -> None:
    wide = CrossbarSpec(sign_encoding=encoding)
    spec = replace(wide, wordlines=16, bitlines=2 * wide.bitlines_per_output)
    network = conv_net()
    method = circulant(network, 3, spec)
    toy_fit(network, IMAGES, method)
    integer = finalised(network, IMAGES, method)
    layers = integer_layers(integer)
    assert any(layer.rotated is not None for layer in layers.values())
    inputs = IMAGES.images.float() / 255
    set_readout(integer, EXACT)
    expected = integer(inputs)
    set_readout(integer, EVERY_READING)
    assert torch.equal(integer(inputs), expected)


def test_mapped_layers_are_what_was_planned() -> None:
    network = conv_net()
    method = circulant(network, 3, CrossbarSpec(wordlines=16, bitlines=16))
    shapes = layer_shapes(network, SHAPE)
    integer = finalised(network, IMAGES, method)
    for name, layer in integer_layers(integer).items():
        mapped = layer.mapped(shapes[name])
        planned = method.targets[name].planned(shapes[name])
        assert (mapped.rows, mapped.outputs) == (planned.rows, planned.outputs)
        assert (mapped.crossbars, mapped.rotations) == (planned.crossbars, planned.rotations)
        assert mapped.adc_bits <= planned.adc_bits
        assert layer.adc_bits == mapped.adc_bits
    linear = integer_layers(integer)["linear"].mapped(shapes["linear"])
    assert (linear.rotations, linear.crossbars) == (2, 3)


def test_a_checkpoint_keeps_its_blocks(tmp_path: Path) -> None:
    network = conv_net()
    method = circulant(network, 3)
    integer = finalised(network, IMAGES, method)
    save_checkpoint(tmp_path / "c", integer, CONV_NET, input_shape=SHAPE, classes=3, facts={})
    loaded = integer_layers(load_checkpoint(tmp_path / "c").network)
    for name, layer in integer_layers(integer).items():
        assert loaded[name].block_size == layer.block_size == 3
        assert loaded[name].certify() == layer.certify()


class Killed(Exception):
    pass


def kill(report: EpochReport) -> None:
    raise Killed(report.epoch)


def trained(state: Path | None, report: Callable[[EpochReport], None] | None = None) -> nn.Module:
    network = conv_net()
    fit(
        network,
        IMAGES,
        circulant(network),
        TrainConfig(batch_size=8),
        epochs=3,
        learning_rate=0.02,
        seed=0,
        state_path=state,
        report=report,
    )
    return network


def test_training_killed_and_resumed_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for epoch in range(2):
        with pytest.raises(Killed, match=str(epoch)):
            trained(state, kill)
    resumed, once = trained(state).state_dict(), trained(None).state_dict()
    assert all(torch.equal(resumed[key], once[key]) for key in once)


def test_structured_pruning_of_circulant_blocks_is_refused() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 8)))
    target = LayerTarget(spec=SPEC, rows=8, block_size=4)
    with pytest.raises(MappingError, match="0: 8 rows kept; allowed with circulant blocks: 12"):
        target.planned(layer_shapes(network, (1, 1, 12))["0"])
    with pytest.raises(SpecError, match="0: rows or outputs removed; allowed with block_size"):
        CirculantMethod({"0": target}, CirculantConfig()).attach(
            network, epochs=1, steps_per_epoch=1
        )


def test_a_weight_off_its_diagonal_is_named() -> None:
    weight = torch.tensor([[1, 2, 5], [2, 1, 6], [1, 2, 7], [2, 3, 8]])
    layout = MatrixLayout.of(weight)
    with pytest.raises(ConstraintError, match=r"layer: 2 weights .* output 2, input 0.* \(1, 0\)"):
        Circulant(2).check("layer", weight, SPEC, layout)
    weight[3, 1] = 1
    Circulant(2).check("layer", weight, SPEC, layout)


def test_a_layer_that_relies_on_blocks_refuses_other_weights() -> None:
    network = conv_net()
    integer = finalised(network, IMAGES, circulant(network, 3))
    layer = integer_layers(integer)["linear"]
    broken = layer.weight_q.clone()
    broken[0, 0] += 1 if broken[0, 0] < 0 else -1
    with pytest.raises(MappingError, match="differ from others on their diagonal"):
        replace(layer, weight_q=broken).certify()
