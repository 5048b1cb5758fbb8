from collections.abc import Callable

import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError
from trainers.config import NetworkConfig
from trainers.networks import build_network
from trainers.networks.imagenet_resnet import Bottleneck, ProjectedBlock, resnet18, resnet50
from trainers.tracing import layer_shapes


@pytest.mark.parametrize(
    ("factory", "stem", "classes", "parameters"),
    [
        (resnet18, "imagenet", 1000, 11_689_512),
        (resnet50, "imagenet", 1000, 25_557_032),
        (resnet18, "cifar", 10, 11_173_962),
        (resnet50, "cifar", 10, 23_520_842),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    factory: Callable[..., nn.Module], stem: str, classes: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = factory(input_shape=(3, 224, 224), classes=classes, stem=stem)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("factory", "tensors", "projected"),
    [
        (resnet18, 122, ["layer2", "layer3", "layer4"]),
        (resnet50, 320, ["layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_tensors_are_named_as_in_published_state_dicts(
    factory: Callable[..., nn.Module], tensors: int, projected: list[str]
) -> None:
    with torch.device("meta"):
        state = factory(input_shape=(3, 224, 224), classes=10, stem="imagenet").state_dict()
    assert len(state) == tensors
    names = {"conv1.weight", "bn1.running_mean", "layer4.1.conv2.weight", "fc.weight", "fc.bias"}
    assert names <= set(state)
    found = [name for name in state if name.endswith("downsample.0.weight")]
    assert found == [f"{stage}.0.downsample.0.weight" for stage in projected]
    assert f"{projected[0]}.0.downsample.1.running_var" in state


def test_imagenet_stem_reduces_by_four_and_the_cifar_stem_not_at_all() -> None:
    for stem, side in (("imagenet", 8), ("cifar", 32)):
        network = resnet18(input_shape=(3, 32, 32), classes=10, stem=stem)
        shapes = layer_shapes(network, (3, 32, 32))
        assert shapes["layer1.0.conv1"].positions == side**2
        assert shapes["layer4.1.conv2"].positions == (side // 8) ** 2


@pytest.mark.parametrize("block", [ProjectedBlock, Bottleneck])
def test_block_whose_residual_is_zero_passes_its_shortcut(
    block: type[ProjectedBlock] | type[Bottleneck],
) -> None:
    same = block(2 * block.expansion, 2, 1).eval()
    images = torch.rand(1, 2 * block.expansion, 4, 4)
    last = same.bn3 if isinstance(same, Bottleneck) else same.bn2
    with torch.no_grad():
        last.weight.zero_()
        assert torch.equal(same(images), images)
        assert block(3, 2, 2).eval()(images[:, :1].expand(1, 3, 4, 4)).shape == (
            1,
            2 * block.expansion,
            2,
            2,
        )


def test_unknown_stem_is_refused() -> None:
    config = NetworkConfig(name="resnet18", arguments={"stem": "mnist"})
    with pytest.raises(ConfigError, match="stem is 'mnist'; allowed: cifar, imagenet"):
        build_network(config, (3, 32, 32), 10)
