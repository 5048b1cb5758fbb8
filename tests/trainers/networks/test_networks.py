import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError
from tests.trainers.toys import as_floats, toy_images
from trainers.config import NetworkConfig
from trainers.networks import NETWORKS, build_network
from trainers.networks.lenet import lenet5
from trainers.networks.mlp import mlp
from trainers.networks.resnet import BasicBlock, resnet20, resnet32, resnet56
from trainers.tracing import check_mapped, crossbar_modules, layer_shapes


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_lenet5_has_the_published_number_of_parameters() -> None:
    assert parameter_count(lenet5(input_shape=(1, 28, 28), classes=10)) == 431_080


def test_mlp_is_784_100_10_on_mnist() -> None:
    assert parameter_count(mlp(input_shape=(1, 28, 28), classes=10)) == 784 * 100 + 100 + 1010


@pytest.mark.parametrize(
    ("factory", "layers", "millions"),
    [(resnet20, 20, 0.27), (resnet32, 32, 0.46), (resnet56, 56, 0.85)],
)
def test_cifar_resnets_have_the_published_layers_and_parameters(
    factory: Callable[..., nn.Module], layers: int, millions: float
) -> None:
    # He et al. (CVPR 2016), table 6.
    network = factory(input_shape=(3, 32, 32), classes=10)
    assert round(parameter_count(network) / 1e6, 2) == millions
    assert len(crossbar_modules(network)) == layers


def test_shortcut_is_subsampled_and_padded_with_zeros_on_both_sides() -> None:
    block = BasicBlock(2, 6, stride=2).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
        images = torch.rand(1, 2, 4, 4)
        outputs = block(images)
    assert torch.equal(outputs[:, 2:4], images[:, :, ::2, ::2])
    assert int(torch.count_nonzero(outputs[:, [0, 1, 4, 5]])) == 0


SMALLEST = {"lenet5": 16, "vgg8": 8, "vgg11": 32, "vgg16": 32}
"""Side of the smallest image; of any other network 1."""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "wider"), [(1, 0), (3, 4)])
def test_every_network_takes_any_image_that_is_large_enough(
    name: str, channels: int, wider: int
) -> None:
    side = SMALLEST.get(name, 1)
    shape = (channels, side + wider, side)
    network = build_network(NetworkConfig(name=name), shape, 7)
    assert network.training
    assert network.eval()(as_floats(toy_images(3, shape, 7))).shape == (3, 7)


def test_seed_alone_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    built = [build_network(NetworkConfig(name="mlp"), (1, 4, 4), 3, seed=s) for s in (1, 1, 2)]
    first, again, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in built)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "title"),
    [("lenet5", "LeNet-5"), ("vgg8", "VGG-8"), ("vgg11", "VGG-11"), ("vgg16", "VGG-16")],
)
def test_images_that_are_too_small_are_refused_with_their_size(name: str, title: str) -> None:
    side = SMALLEST[name]
    message = f"{title} on images of {side}x{side - 1}; allowed: at least {side}x{side}"
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(name=name), (1, side, side - 1), 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_every_network_lie_on_crossbars(name: str) -> None:
    shape = (3, 32, 32)
    network = build_network(NetworkConfig(name=name), shape, 10)
    check_mapped(network)
    weights = {n: m.weight.numel() for n, m in crossbar_modules(network).items()}
    shapes = layer_shapes(network, shape)
    assert {n: s.groups * s.rows * s.outputs for n, s in shapes.items()} == weights
    assert list(shapes.values())[-1].outputs == 10


def test_unknown_name_lists_the_known_ones() -> None:
    message = f"unknown network 'vgg'; allowed: {', '.join(NETWORKS)} or m:factory"
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(name="vgg"), (1, 8, 8), 10)


@pytest.mark.parametrize("arguments", [{"depth": 3}, {"classes": 4}, {"hidden": "many"}])
def test_wrong_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="network 'mlp' refused its arguments: "):
        build_network(NetworkConfig(name="mlp", arguments=arguments), (1, 4, 4), 3)


def test_impossible_argument_is_refused() -> None:
    config = NetworkConfig(name="mlp", arguments={"hidden": -5})
    with pytest.raises(ConfigError):
        build_network(config, (1, 4, 4), 3)


def test_arguments_reach_the_factory() -> None:
    config = NetworkConfig(name="mlp", arguments={"hidden": 5})
    assert parameter_count(build_network(config, (1, 4, 4), 3)) == 16 * 5 + 5 + 15 + 3


OWN = """
import torch
from torch import nn

def wide(*, input_shape, classes, width=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] ** 2, classes * width),
                         nn.Linear(classes * width, classes))

def too_many(*, input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes + 1))

def no_module(*, input_shape, classes):
    return "a network"

constant = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def test_users_own_factory_is_imported_and_called(own_module: str) -> None:
    config = NetworkConfig(name=f"{own_module}:wide", arguments={"width": 3})
    network = build_network(config, (1, 4, 4), 2)
    assert [layer.out_features for layer in crossbar_modules(network).values()] == [6, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("too_many", "returns \\(3,\\) values an image; allowed: 2, one per class"),
        ("no_module", "made a str, not a Module"),
        ("constant", "is a int; allowed: a callable"),
        ("missing", "cannot be imported: module 'own_networks' has no attribute 'missing'"),
    ],
)
def test_bad_factory_is_refused(own_module: str, attribute: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(NetworkConfig(name=f"{own_module}:{attribute}"), (1, 4, 4), 2)


def test_module_that_is_elsewhere_is_refused_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        build_network(NetworkConfig(name="nowhere_at_all:factory"), (1, 4, 4), 2)
    assert str(caught.value).endswith(
        f"no module 'nowhere_at_all' in '{tmp_path}' or elsewhere on Python's path; go to the "
        "folder of nowhere_at_all.py, or put it into PYTHONPATH"
    )


@pytest.mark.parametrize("name", [":factory", "..relative:factory"])
def test_name_that_is_no_module_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        build_network(NetworkConfig(name=name), (1, 4, 4), 2)
