"""ResNet-20 for small images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.networks.normalise import Normalise

__all__ = ["BasicBlock", "ResNet", "resnet20"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (subsampled and zero-padded)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, outputs, height / stride, ...]`."""
        residual = functional.relu(self.bn1(self.conv1(images)))
        residual = self.bn2(self.conv2(residual))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        before = self.padding // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, self.padding - before))
        return functional.relu(residual + shortcut)


class ResNet(nn.Module):
    """The CIFAR residual network with `3 * blocks` basic blocks.

    Source: He et al., CVPR 2016, section 4.2, shortcut option A.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to logits `[batch, classes]`."""
        features = functional.relu(self.bn1(self.conv1(self.normalise(images))))
        features = self.layer3(self.layer2(self.layer1(features)))
        return torch.as_tensor(self.linear(features.mean(dim=(2, 3))))


def resnet20(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """ResNet-20 (3 blocks a stage): 0.27 million parameters.

    Published weights expect normalised inputs: `mean` and `std` by channel.
    """
    return ResNet(input_shape[0], classes, 3, mean, std)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
