"""The small multi-layer perceptron of the bit-slice L1 paper."""

import math

from torch import nn

__all__ = ["mlp"]


def mlp(*, input_shape: tuple[int, int, int], classes: int, hidden: int = 100) -> nn.Module:
    """Inputs - hidden - classes with one ReLU (784-100-10 on MNIST)."""
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc1", nn.Linear(math.prod(input_shape), hidden))
    network.add_module("relu", nn.ReLU())
    network.add_module("fc2", nn.Linear(hidden, classes))
    return network
