import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError
from tests.trainers.toys import finalised, seeded, toy_images
from trainers.config import NetworkConfig
from trainers.finalise import recalibrate_batch_norm
from trainers.integer import EVERY_READING, integer_layers, set_readout
from trainers.networks import build_network
from trainers.networks.mobilenet import MobileNet
from trainers.tracing import layer_shapes


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("width", "millions"), [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_networks_have_the_published_number_of_parameters(width: float, millions: float) -> None:
    # MobileNets (2017), table 6.
    with torch.device("meta"):
        network = MobileNet(input_shape=(3, 32, 32), classes=1000, width=width)
    assert round(parameter_count(network) / 1e6, 1) == millions


def test_depthwise_convolutions_have_a_group_a_channel() -> None:
    network = MobileNet(input_shape=(3, 32, 32), classes=10)
    shapes = layer_shapes(network, (3, 32, 32))
    depthwise = [shapes[f"layers.{number}.conv1"] for number in range(13)]
    assert [shape.groups for shape in depthwise[:4]] == [32, 64, 128, 128]
    assert {(shape.rows, shape.outputs) for shape in depthwise} == {(9, 1)}
    assert [shapes[f"layers.{number}.conv2"].positions for number in range(13)] == [
        *(1024, 256, 256, 64, 64),
        *(16,) * 6,
        *(4, 4),
    ]


def test_small_mobilenet_becomes_an_integer_network_whose_readings_are_exact() -> None:
    shape = (2, 6, 6)
    config = NetworkConfig(name="mobilenet", arguments={"width": 0.1})
    network = seeded(build_network(config, shape, 3))
    images = toy_images(24, shape)
    # Statistics that nothing has measured would let the signal die on its way.
    recalibrate_batch_norm(network, images)
    integer = finalised(network, images)
    assert len(integer_layers(integer)) == 1 + 2 * 13 + 1
    pixels = images.images.float() / 255
    with torch.no_grad():
        logits = integer(pixels)
        set_readout(integer, EVERY_READING)
        assert torch.equal(integer(pixels), logits)
    assert float(logits.std(dim=0).min()) > 0


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (0.01, "width is 0.01; allowed: above 1/64"),
        (-1, "width is -1; allowed: a number from 0"),
        ("wide", "width is 'wide'; allowed: a number"),
    ],
)
def test_impossible_width_is_refused(width: object, message: str) -> None:
    config = NetworkConfig(name="mobilenet", arguments={"width": width})
    with pytest.raises(ConfigError, match=message):
        build_network(config, (3, 32, 32), 10)
