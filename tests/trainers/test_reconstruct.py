"""Reconstruction against closed forms: what nothing bounds comes back, what is masked fits best."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    as_floats,
    seeded,
    toy_images,
    toy_targets,
    toy_tinyadc,
)
from trainers.method import Method
from trainers.networks import build_network
from trainers.reconstruct import _rows, reconstruct


def linear() -> nn.Module:
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)))


def test_unbounded_layer_finds_back_to_the_dense_one() -> None:
    dense, images = linear(), toy_images(96)
    network = copy.deepcopy(dense)
    with torch.no_grad():
        network[1].weight *= 0.2
        network[1].bias += 1
    method = Method(toy_targets(network))
    method.attach(network, epochs=0, steps_per_epoch=1)
    reconstruct(network, method, dense, images)
    torch.testing.assert_close(
        network(as_floats(images)), dense(as_floats(images)), atol=5e-3, rtol=0
    )


def test_outputs_come_nearer_and_keep_their_mean_within_the_bound() -> None:
    dense, images = linear(), toy_images(96)
    network = copy.deepcopy(dense)
    method = toy_tinyadc(network, 1)
    method.attach(network, epochs=0, steps_per_epoch=1)
    values = as_floats(images)
    wanted = dense(values)
    before = (network(values) - wanted).var(dim=0).sum()
    reconstruct(network, method, dense, images)
    found = network(values)
    method.constraint("1").check(
        "1", network[1].weight, method.targets["1"].spec, method.layouts["1"]
    )
    assert (found - wanted).var(dim=0).sum() < 0.5 * before
    torch.testing.assert_close(found.mean(dim=0), wanted.mean(dim=0), atol=1e-4, rtol=0)


def test_every_kind_of_convolution_keeps_its_bound_and_the_seed_decides() -> None:
    images = toy_images()
    weights = []
    for _ in range(2):
        dense = build_network(CONV_NET, SHAPE, CLASSES)
        network = copy.deepcopy(dense)
        method = toy_tinyadc(network, 1)
        method.attach(network, epochs=0, steps_per_epoch=1)
        reconstruct(network, method, dense, images)
        for name, module in method.modules.items():
            spec, layout = method.targets[name].spec, method.layouts[name]
            method.constraint(name).check(name, module.weight, spec, layout)
        assert not network.training
        weights.append(network.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not torch.equal(weights[0]["linear.weight"], dense.linear.weight)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (lambda **k: nn.Conv1d(4, 6, 3, padding=2, stride=2, groups=2, **k), (20,)),
        (lambda **k: nn.Conv2d(4, 6, (3, 2), padding=1, dilation=(1, 2), **k), (7, 6)),
    ],
)
def test_rows_times_weights_are_what_a_convolution_answers(
    layer: Callable[..., nn.Conv1d | nn.Conv2d], size: tuple[int, ...], mode: str
) -> None:
    module = seeded(layer(bias=False, padding_mode=mode))
    inputs = torch.randn(5, 4, *size, generator=torch.Generator().manual_seed(0))
    rows = _rows(module, inputs, module.groups, seed=0)  # [groups, vectors, rows]
    matrix = module.weight.detach().reshape(module.groups, 6 // module.groups, -1)
    answers = torch.einsum("gvr,gor->vgo", rows, matrix).flatten(1)
    expected = module(inputs).detach().flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(
        answers.sum(0) / len(answers), expected.sum(0) / len(expected), atol=1e-4, rtol=1e-4
    )
