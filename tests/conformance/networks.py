"""The smallest networks that hold every kind of layer a method must know."""

import torch
from torch import Tensor, nn

from trainers.config import NetworkConfig

__all__ = ["CLASSES", "NETWORKS", "SHAPE"]

SHAPE = (2, 8, 8)
CLASSES = 3


class Plain(nn.Module):
    """Two convolutions and two linear layers; the first of each has more than one tile."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.hidden = nn.Linear(36, 8)
        self.last = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.second(torch.relu(self.first(images))))
        return torch.as_tensor(self.last(torch.relu(self.hidden(features.flatten(1)))))


class Grouped(nn.Module):
    """Grouped, depthwise and pointwise convolution, signed activations and dropout."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 4, 1)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(4 * 16, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.grouped(torch.tanh(self.first(images))))
        features = torch.tanh(self.pointwise(self.depthwise(features)))
        return torch.as_tensor(self.last(self.dropout(features.flatten(1))))


class Residual(nn.Module):
    """Batch norm, an identity shortcut and a projected one."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4)
        self.wider = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.wider_norm = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(4, 8, 1, stride=2, bias=False)
        self.last = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.first_norm(self.first(images)))
        features = torch.relu(features + self.inner_norm(self.inner(features)))
        wider = self.wider_norm(self.wider(features)) + self.shortcut(features)
        return torch.as_tensor(self.last(torch.relu(wider).mean(dim=(2, 3))))


def plain(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Plain(input_shape[0], classes)


def grouped(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Grouped(input_shape[0], classes)


def residual(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Residual(input_shape[0], classes)


NETWORKS = {
    "linear": NetworkConfig(name="mlp", arguments={"hidden": 8}),
    **{name: NetworkConfig(name=f"{__name__}:{name}") for name in ("plain", "grouped", "residual")},
}
"""By name; as a user names networks of their own."""
