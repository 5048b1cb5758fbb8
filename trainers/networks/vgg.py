"""VGG networks: 3x3 convolutions, pooling by two, linear layers."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from hwmodel.errors import ConfigError
from trainers.config import check_number
from trainers.networks.normalise import Normalise

__all__ = ["Vgg", "vgg8", "vgg11", "vgg16"]

_POOL = 0
"""Stands for a 2x2 pooling among the channels of a plan."""
_PLANS = {
    # Six convolutions and two linear layers: the VGG-8 of DNN+NeuroSim (IEDM 2019).
    8: (128, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL),
    # Columns A and D of Simonyan and Zisserman (ICLR 2015), table 1.
    11: (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL),
    16: (
        *(64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL),
        *(512, 512, 512, _POOL, 512, 512, 512, _POOL),
    ),
}
"""Output channels of the convolutions, by the number of layers with weights."""


class Vgg(nn.Module):
    """Convolutions with ReLU, pooling, then linear layers with ReLU between them.

    The layers are named and numbered as torchvision names them, so that its state dicts load.

    Args:
        depth: 8, 11 or 16.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        batch_norm: one after each convolution.
        hidden: widths of the linear layers before the last.
        pooled: the features are averaged down to `pooled` x `pooled` positions before the linear
            layers (None: they are taken as they are).
        dropout: share of the hidden activations that training drops.
        mean: what to normalise the images with, by channel (default: 0).
        std: the same (default: 1).

    Raises:
        ConfigError: images that the poolings leave nothing of, or an impossible argument.
    """

    def __init__(
        self,
        depth: int,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        batch_norm: bool = False,
        hidden: Sequence[int] = (512,),
        pooled: int | None = None,
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        plan = _PLANS[depth]
        factor = 2 ** plan.count(_POOL)
        if min(height, width) < factor:
            allowed = f"at least {factor}x{factor}"
            raise ConfigError(f"VGG-{depth} on images of {height}x{width}; allowed: {allowed}")
        check_number("dropout", dropout, low=0, high=1)
        if pooled is not None:
            check_number("pooled", pooled, low=1, integer=True)
        self.normalise = Normalise(channels, mean, std)
        self.features = _features(plan, channels, batch_norm)
        self.avgpool = nn.Identity() if pooled is None else nn.AdaptiveAvgPool2d(pooled)
        positions = pooled**2 if pooled else (height // factor) * (width // factor)
        self.classifier = _classifier([plan[-2] * positions, *hidden], classes, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to logits `[batch, classes]`."""
        features: Tensor = self.avgpool(self.features(self.normalise(images)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


vgg8: Callable[..., nn.Module] = partial(Vgg, 8, hidden=(1024,))
"""12.97 million weights on 32x32 colour images: the CIFAR-10 network of DNN+NeuroSim."""
vgg11: Callable[..., nn.Module] = partial(Vgg, 11)
"""By default the one of the bit-slice L1 paper (512-512-classes, no batch norm). The ImageNet
network is `hidden = [4096, 4096], pooled = 7, dropout = 0.5`."""
vgg16: Callable[..., nn.Module] = partial(Vgg, 16)
"""As `vgg11`, with one convolution more in each stage."""


def _features(plan: Sequence[int], channels: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for outputs in plan:
        if outputs == _POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
        channels = outputs
    return nn.Sequential(*layers)


def _classifier(widths: Sequence[int], classes: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        check_number("hidden", outputs, low=1, integer=True)
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _initialise(module: nn.Conv2d | nn.Linear) -> None:
    """Keeps the signal's size through layers that no batch norm follows.

    Source: He et al. (ICCV 2015), equation 10.
    """
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)
