"""The smallest networks, images and crossbars that serve the tests of `trainers`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from trainers.config import NetworkConfig, TrainConfig
from trainers.data import ImageSet
from trainers.finalise import finalise
from trainers.fit import fit
from trainers.method import LayerTarget, Method, dense_targets
from trainers.methods import TinyAdc, TinyAdcConfig
from trainers.tracing import layer_shapes

SPEC = CrossbarSpec(wordlines=8, bitlines=16)
MLP = NetworkConfig(name="mlp", arguments={"hidden": 6})
SHAPE = (1, 6, 6)
CLASSES = 3


def toy_images(
    count: int = 24, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES, seed: int = 0
) -> ImageSet:
    """Noise around one random image per class: learnt in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, *shape, generator=generator)
    labels = torch.arange(count) % classes
    noise = torch.rand(count, *shape, generator=generator)
    pixels = (centres[labels] * 0.7 + noise * 0.3) * 255
    return ImageSet(name="toy", images=pixels.byte(), labels=labels, classes=classes)


def as_floats(images: ImageSet) -> Tensor:
    """What the training loop feeds to the network, float32 in [0, 1]."""
    return images.images.float() / 255


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights drawn from `seed`; also what initialises to zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


class ConvNet(nn.Module):
    """Convolutions of every kind, batch norm, dropout, a signed activation and a linear layer."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 2, stride=2, groups=4)
        self.dropout = nn.Dropout(0.25)
        self.linear = nn.Linear(4 * (size // 2) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.norm(self.first(images)))
        features = torch.tanh(self.grouped(features))
        features = torch.relu(self.depthwise(features))
        return torch.as_tensor(self.linear(self.dropout(features.flatten(1))))


def conv_net(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A user's own factory."""
    return ConvNet(input_shape[0], input_shape[1], classes)


CONV_NET = NetworkConfig(name=f"{__name__}:conv_net")


class PaddedNet(nn.Module):
    """Every padding mode, on images and on the signals that their pixels in a row are."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.circular = nn.Conv2d(channels, 2, 3, padding=(2, 1), padding_mode="circular")
        self.reflect = nn.Conv1d(2, 4, 5, stride=2, padding=3, padding_mode="reflect")
        self.replicate = nn.Conv1d(4, 4, 3, padding="same", padding_mode="replicate", groups=2)
        self.zeros = nn.Conv1d(4, 4, 2, padding=1, dilation=2)
        self.linear = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        signals = torch.tanh(self.circular(images).flatten(2))
        signals = torch.tanh(self.replicate(torch.tanh(self.reflect(signals))))
        return torch.as_tensor(self.linear(self.zeros(signals).amax(dim=2)))


def padded_net(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A user's own factory, of signals."""
    return PaddedNet(input_shape[0], classes)


PADDED_NET = NetworkConfig(name=f"{__name__}:padded_net")


def toy_targets(
    network: nn.Module, spec: CrossbarSpec = SPEC, *, nonzeros: int | None = None
) -> dict[str, LayerTarget]:
    """The same bound for every layer."""
    dense = dense_targets(network, CrossbarPlan(default=spec))
    return {name: replace(target, nonzeros=nonzeros) for name, target in dense.items()}


def toy_tinyadc(network: nn.Module, nonzeros: int = 2, *, admm_share: float = 0.5) -> TinyAdc:
    """TinyADC on every layer."""
    config = TinyAdcConfig(admm_share=admm_share, rounds_per_epoch=2)
    return TinyAdc(toy_targets(network, nonzeros=nonzeros), config)


def toy_fit(network: nn.Module, images: ImageSet, method: Method, epochs: int = 1) -> None:
    """A short training run."""
    fit(
        network,
        images,
        method,
        TrainConfig(batch_size=8),
        epochs=epochs,
        learning_rate=0.02,
        seed=0,
    )


def finalised(network: nn.Module, images: ImageSet, method: Method | None = None) -> nn.Module:
    """The integer network under a method (default: dense) attached afresh, untrained."""
    method = Method(toy_targets(network)) if method is None else method
    method.attach(network, epochs=0, steps_per_epoch=1)
    return finalise(network, method, layer_shapes(network, images.shape), images)


@contextmanager
def no_graph_kept(*tensors: Tensor) -> Iterator[None]:
    """Checks that no tensor has become part of an autograd graph."""
    yield
    for tensor in tensors:
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
