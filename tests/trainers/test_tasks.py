import pytest
import torch

from hwmodel.errors import ConfigError, SpecError
from tests.trainers.toys import CONV_NET, SHAPE
from trainers.config import NetworkConfig
from trainers.networks import build_network
from trainers.tasks import class_groups, head_name, transfer_backbone


def test_ten_classes_are_cut_into_pairs_or_fives() -> None:
    assert class_groups(10, 5) == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    assert class_groups(10, 2)[-1] == (8, 9)


@pytest.mark.parametrize("size", [1, 3])
def test_a_size_that_leaves_classes_over_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"tasks of {size} out of 10 classes; allowed: a divisor"):
        class_groups(10, size)


def test_everything_but_the_head_is_transferred() -> None:
    source, target = (build_network(CONV_NET, SHAPE, n, seed=n) for n in (5, 2))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    transfer_backbone(source, target)
    assert head_name(target) == "linear"
    for name, tensor in target.state_dict().items():
        expected = before[name] if name.startswith("linear.") else source.state_dict()[name]
        assert torch.equal(tensor, expected)


def test_another_network_is_refused() -> None:
    small, large = (
        build_network(NetworkConfig(name="mlp", arguments={"hidden": n}), SHAPE, 2) for n in (3, 4)
    )
    with pytest.raises(SpecError, match=r"'fc1.weight' has shape \(3, 36\) in the backbone and"):
        transfer_backbone(small, large)
    with pytest.raises(SpecError, match="is in one of two networks only"):
        transfer_backbone(small, build_network(CONV_NET, SHAPE, 2))
