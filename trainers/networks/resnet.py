"""Residual networks for small images: ResNet-20, -32 and -56."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.networks.normalise import Normalise

__all__ = ["BasicBlock", "ResNet", "resnet20", "resnet32", "resnet56"]


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
    """The CIFAR residual network: three stages of basic blocks, `6 * blocks + 2` layers.

    Args:
        blocks: basic blocks in a stage.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        mean: what to normalise the images with, by channel (default: 0); published weights expect
            it.
        std: the same (default: 1).

    Raises:
        ConfigError: `mean` or `std` of another number of channels.

    Source: He et al., CVPR 2016, section 4.2, shortcut option A.
    """

    def __init__(
        self,
        blocks: int,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(input_shape[0], mean, std)
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
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


resnet20: Callable[..., nn.Module] = partial(ResNet, 3)
"""0.27 million parameters."""
resnet32: Callable[..., nn.Module] = partial(ResNet, 5)
"""0.46 million parameters."""
resnet56: Callable[..., nn.Module] = partial(ResNet, 9)
"""0.85 million parameters."""


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
