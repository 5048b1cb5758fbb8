"""MobileNet for small images: depthwise convolutions, which fill crossbars badly."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import ConfigError
from trainers.config import check_number
from trainers.networks.normalise import Normalise

__all__ = ["MobileNet", "SeparableBlock"]

_PLAN = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each separable block: MobileNets (Howard et al., 2017), table 1.

The last stride is printed as 2 there, which its own sizes contradict; it is 1."""


class SeparableBlock(nn.Module):
    """A depthwise 3x3 convolution, one filter a channel, then a 1x1 convolution across channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, outputs, height / stride, ...]`."""
        features = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(features)))


class MobileNet(nn.Module):
    """MobileNet version 1.

    differs: the stem has stride 1, which keeps small images whole.

    Args:
        input_shape: channels, height and width of an image.
        classes: number of classes.
        width: factor on every number of channels.
        mean: what to normalise the images with, by channel (default: 0).
        std: the same (default: 1).

    Raises:
        ConfigError: a width that leaves a layer without channels.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        width: float = 1.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_number("width", width, low=0)
        widths = [round(width * outputs) for outputs in (32, *(o for o, _ in _PLAN))]
        if widths[0] < 1:
            raise ConfigError(f"width is {width}; allowed: above 1/64, for one channel or more")
        self.normalise = Normalise(input_shape[0], mean, std)
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        strides = [stride for _, stride in _PLAN]
        blocks = zip(widths[:-1], widths[1:], strides, strict=True)
        self.layers = nn.Sequential(*(SeparableBlock(*block) for block in blocks))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to logits `[batch, classes]`."""
        features = functional.relu(self.bn1(self.conv1(self.normalise(images))))
        logits: Tensor = self.linear(self.layers(features).mean(dim=(2, 3)))
        return logits
