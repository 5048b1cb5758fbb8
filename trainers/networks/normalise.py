"""Normalised inputs, inside the network, so that whoever runs it feeds pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwmodel.errors import ConfigError

__all__ = ["Normalise"]


class Normalise(nn.Module):
    """`(pixels - mean) / std` by channel; without either, the pixels themselves.

    It has no parameters and adds nothing to a state dict: published weights keep their names.

    Args:
        channels: of the images.
        mean: by channel, in [0, 1] (default: 0).
        std: by channel (default: 1).

    Raises:
        ConfigError: not one value per channel, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.active = mean is not None or std is not None
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = [default] * channels if values is None else list(values)
            if len(values) != channels or (name == "std" and min(values) <= 0):
                kind = "positive numbers" if name == "std" else "numbers"
                raise ConfigError(f"{name} is {values}; allowed: {channels} {kind}, one a channel")
            shaped = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, shaped, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]`."""
        return (images - self.mean) / self.std if self.active else images
