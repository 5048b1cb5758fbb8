from dataclasses import replace

import torch
from torch import nn

from tests.trainers.toys import SPEC, finalised, seeded, toy_fit, toy_images, toy_targets
from trainers.config import NetworkConfig
from trainers.constraints import LayerCount, Unconstrained
from trainers.integer import integer_layers
from trainers.method import LayerTarget
from trainers.methods import Magnitude, MagnitudeConfig
from trainers.networks import build_network


def attached(network: nn.Module, share: float | None) -> Magnitude:
    targets = {
        name: replace(target, kept_weights=share) for name, target in toy_targets(network).items()
    }
    method = Magnitude(targets, MagnitudeConfig())
    method.attach(network, epochs=1, steps_per_epoch=1)
    return method


def test_largest_weights_of_the_layer_stay() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    before = network[0].weight.detach().clone()
    method = attached(network, share=0.25)
    weight = network[0].weight
    assert method.constraint("0") == LayerCount(12)
    assert int(torch.count_nonzero(weight)) == 12
    assert before[weight == 0].abs().max() <= before[weight != 0].abs().min()


def test_layer_without_a_bound_stays_whole() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    method = attached(network, share=None)
    assert method.constraint("0") == Unconstrained()
    assert int(torch.count_nonzero(network[0].weight)) == 48


def test_mask_is_set_once_and_holds_through_training() -> None:
    images = toy_images()
    network = build_network(NetworkConfig(name="mlp", arguments={"hidden": 6}), images.shape, 3)
    targets = {n: LayerTarget(spec=SPEC, kept_weights=3 / 8) for n in ("fc1", "fc2")}
    method = Magnitude(targets, MagnitudeConfig())
    toy_fit(network, images, method, epochs=2)
    for name, mask in method.masks.items():
        weight = method.modules[name].weight
        assert torch.equal(weight != 0, mask)
    integer = finalised(network, images, method)
    counts = [int(torch.count_nonzero(x.weight_q)) for x in integer_layers(integer).values()]
    assert counts[0] <= round(36 * 6 * 3 / 8)
    assert counts[1] <= round(6 * 3 * 3 / 8)


def test_masks_survive_the_state() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    method = attached(network, share=0.25)
    other_network = seeded(nn.Sequential(nn.Linear(12, 4)), seed=1)
    other = attached(other_network, share=0.25)
    assert not torch.equal(other.masks["0"], method.masks["0"])
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.masks["0"], method.masks["0"])
