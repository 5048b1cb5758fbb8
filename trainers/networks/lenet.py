"""LeNet-5 as the pruning papers use it."""

from torch import nn

from hwmodel.errors import ConfigError

__all__ = ["lenet5"]


def lenet5(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Caffe-style LeNet-5: 431,080 parameters on 28x28 grey images.

    conv 20@5x5, pool, conv 50@5x5, pool, linear 500 with ReLU, linear to the classes; no
    non-linearity after the convolutions but the pooling.

    Raises:
        ConfigError: images smaller than 16x16.

    Source: the LeNet that ADMM-NN (ASPLOS 2019) and its predecessors prune.
    """
    channels, height, width = input_shape
    reduced = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
    if min(reduced) < 1:
        raise ConfigError(f"LeNet-5 on images of {height}x{width}; allowed: at least 16x16")
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(channels, 20, 5))
    network.add_module("pool1", nn.MaxPool2d(2))
    network.add_module("conv2", nn.Conv2d(20, 50, 5))
    network.add_module("pool2", nn.MaxPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc1", nn.Linear(50 * reduced[0] * reduced[1], 500))
    network.add_module("relu", nn.ReLU())
    network.add_module("fc2", nn.Linear(500, classes))
    return network
