import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError
from trainers.config import NetworkConfig
from trainers.networks import build_network
from trainers.networks.vgg import vgg8, vgg11, vgg16
from trainers.tracing import crossbar_modules, layer_shapes

IMAGENET = {"input_shape": (3, 224, 224), "classes": 1000, "hidden": (4096, 4096), "pooled": 7}


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("depth", "batch_norm", "parameters", "tensors", "last"),
    [
        (11, False, 132_863_336, 22, "features.18.weight"),
        (11, True, 132_868_840, 62, "features.25.weight"),
        (16, False, 138_357_544, 32, "features.28.weight"),
        (16, True, 138_365_992, 97, "features.40.weight"),
    ],
)
def test_imagenet_network_is_the_published_one(
    depth: int, batch_norm: bool, parameters: int, tensors: int, last: str
) -> None:
    factory = {11: vgg11, 16: vgg16}[depth]
    with torch.device("meta"):
        network = factory(**IMAGENET, batch_norm=batch_norm, dropout=0.5)
    assert parameter_count(network) == parameters
    state = network.state_dict()
    assert len(state) == tensors
    assert state[last].shape == (512, 512, 3, 3)
    assert state["classifier.6.weight"].shape == (1000, 4096)
    assert len(crossbar_modules(network)) == depth


def test_vgg11_is_the_one_of_the_bit_slice_paper() -> None:
    network = vgg11(input_shape=(3, 32, 32), classes=10)
    shapes = layer_shapes(network, (3, 32, 32))
    assert [shape.outputs for shape in shapes.values()] == [
        *(64, 128, 256, 256, 512, 512, 512, 512),
        *(512, 10),
    ]
    assert [shape.positions for shape in shapes.values()] == [
        *(1024, 256, 64, 64, 16, 16, 4, 4),
        *(1, 1),
    ]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_vgg8_has_the_weights_of_its_source() -> None:
    with torch.device("meta"):
        network = vgg8(input_shape=(3, 32, 32), classes=10)
    weights = [module.weight.numel() for module in crossbar_modules(network).values()]
    assert len(weights) == 8
    # 128-128-256-256-512-512, then 8192-1024-10.
    assert sum(weights) == 9 * (3 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2) + (
        8192 * 1024 + 1024 * 10
    )


def test_signal_survives_sixteen_layers_without_batch_norm() -> None:
    network = build_network(NetworkConfig(name="vgg16"), (3, 32, 32), 10).eval()
    with torch.no_grad():
        logits = network(torch.rand(8, 3, 32, 32) - 0.5)
    assert 0.01 < float(logits.std(dim=0).mean()) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 1.5}, "dropout is 1.5; allowed: a number from 0 up to 1"),
        ({"pooled": 0}, "pooled is 0; allowed: an integer from 1"),
        ({"hidden": [64, 0]}, "hidden is 0; allowed: an integer from 1"),
        ({"mean": [0.5]}, r"mean is \[0.5\]; allowed: 3 numbers"),
    ],
)
def test_impossible_argument_is_refused(arguments: dict[str, object], message: str) -> None:
    config = NetworkConfig(name="vgg11", arguments=arguments)
    with pytest.raises(ConfigError, match=message):
        build_network(config, (3, 32, 32), 10)
