import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError, CrossfrontError
from tests.trainers.toys import SPEC, finalised, seeded, toy_fit, toy_images, toy_targets
from trainers.config import NetworkConfig
from trainers.constraints import LayerCount, Unconstrained
from trainers.integer import integer_layers
from trainers.method import LayerTarget
from trainers.methods import Magnitude, MagnitudeConfig
from trainers.networks import build_network


def attached(network: nn.Module, nonzeros: int | None) -> Magnitude:
    method = Magnitude(toy_targets(network, nonzeros=nonzeros), MagnitudeConfig())
    method.attach(network, epochs=1, steps_per_epoch=1)
    return method


def test_share_of_the_wordlines_is_the_share_of_the_layer() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    before = network[0].weight.detach().clone()
    method = attached(network, nonzeros=2)  # 2 of 8
    weight = network[0].weight
    assert method.constraint("0") == LayerCount(12)
    assert int(torch.count_nonzero(weight)) == 12
    assert before[weight == 0].abs().max() <= before[weight != 0].abs().min()
    assert method.segment_bound("0") is None


def test_share_given_for_a_layer_comes_before_its_bound() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 4)))
    config = MagnitudeConfig(kept={"0": 0.125})
    method = Magnitude(toy_targets(network, nonzeros=4), config)
    method.attach(network, epochs=1, steps_per_epoch=1)
    counts = [int(torch.count_nonzero(layer.weight)) for layer in method.modules.values()]
    assert counts == [6, 8]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_impossible_share_names_its_layer(share: float) -> None:
    with pytest.raises(ConfigError, match=f"method.kept.fc1 is {share}; allowed: a number"):
        MagnitudeConfig(kept={"fc1": share})


def test_share_of_a_layer_that_is_not_there_is_refused() -> None:
    network = nn.Sequential(nn.Linear(12, 4))
    method = Magnitude(toy_targets(network), MagnitudeConfig(kept={"fc1": 0.5}))
    with pytest.raises(CrossfrontError):
        method.attach(network, epochs=1, steps_per_epoch=1)


def test_layer_without_a_bound_stays_whole() -> None:
    network = seeded(nn.Sequential(nn.Linear(12, 4)))
    method = attached(network, nonzeros=None)
    assert method.constraint("0") == Unconstrained()
    assert int(torch.count_nonzero(network[0].weight)) == 48


def test_mask_is_set_once_and_holds_through_training() -> None:
    images = toy_images()
    network = build_network(NetworkConfig(name="mlp", arguments={"hidden": 6}), images.shape, 3)
    targets = {n: LayerTarget(spec=SPEC, nonzeros=3) for n in ("fc1", "fc2")}
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
    method = attached(network, nonzeros=2)
    other_network = seeded(nn.Sequential(nn.Linear(12, 4)), seed=1)
    other = attached(other_network, nonzeros=2)
    assert not torch.equal(other.masks["0"], method.masks["0"])
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.masks["0"], method.masks["0"])
