"""ResNet-18 and ResNet-50, whose shortcuts change their width by 1x1 convolutions."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from trainers.config import check_choice
from trainers.networks.normalise import Normalise

__all__ = ["Bottleneck", "ProjectedBlock", "ProjectedResNet", "resnet18", "resnet50"]

_WIDTHS = (64, 128, 256, 512)


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes.

    Args:
        inputs: channels that come in.
        width: channels of the convolutions.
        stride: of the first convolution and of the shortcut.
    """

    expansion = 1
    """Channels that go out, as a multiple of `width`."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, width, height / stride, ...]`."""
        residual = functional.relu(self.bn1(self.conv1(images)))
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self.downsample(images))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the arguments of `ProjectedBlock`.

    differs: the stride is the 3x3 convolution's, as in torchvision, not the first 1x1's.
    """

    expansion = 4
    """Channels that go out, as a multiple of `width`."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, 4 * width, height / stride, ...]`."""
        residual = functional.relu(self.bn1(self.conv1(images)))
        residual = functional.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return functional.relu(residual + self.downsample(images))


class ProjectedResNet(nn.Module):
    """Four stages of blocks, named as torchvision names them, so that its state dicts load.

    Args:
        block: kind of its blocks.
        blocks: blocks in each stage.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        stem: `cifar`, a 3x3 convolution, keeps small images whole; `imagenet`, a 7x7 convolution
            and a pooling, both of stride 2, reduces large ones by four.
        mean: what to normalise the images with, by channel (default: 0).
        std: the same (default: 1).

    Raises:
        ConfigError: an unknown stem, or `mean` or `std` of another number of channels.

    Source: He et al., CVPR 2016, table 1.
    """

    def __init__(
        self,
        block: type[ProjectedBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        stem: str = "cifar",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, ("cifar", "imagenet"))
        channels, small = input_shape[0], stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        inputs = [64, *(width * block.expansion for width in _WIDTHS)]
        stages = [
            _stage(block, inputs[number], width, count, stride=1 if number == 0 else 2)
            for number, (width, count) in enumerate(zip(_WIDTHS, blocks, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to logits `[batch, classes]`."""
        features = functional.relu(self.bn1(self.conv1(self.normalise(images))))
        features = self.layer2(self.layer1(self.maxpool(features)))
        features = self.layer4(self.layer3(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


resnet18: Callable[..., nn.Module] = partial(ProjectedResNet, ProjectedBlock, (2, 2, 2, 2))
"""11.17 million parameters for CIFAR-10, 11.69 million for ImageNet."""
resnet50: Callable[..., nn.Module] = partial(ProjectedResNet, Bottleneck, (3, 4, 6, 3))
"""23.52 million parameters for CIFAR-10, 25.56 million for ImageNet."""


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(outputs))


def _stage(
    block: type[ProjectedBlock] | type[Bottleneck],
    inputs: int,
    width: int,
    count: int,
    stride: int,
) -> nn.Sequential:
    first = block(inputs, width, stride)
    rest = (block(width * block.expansion, width, 1) for _ in range(count - 1))
    return nn.Sequential(first, *rest)
