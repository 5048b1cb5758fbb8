"""Augmentation of whole batches on their device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AUGMENTATIONS", "crop_flip", "flip"]

_PADDING = 4


def flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability one half.

    Args:
        images: `[batch, channels, height, width]`.
    """
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)


def crop_flip(images: Tensor) -> Tensor:
    """Pads with 4 zero pixels, cuts out the old size at random, then mirrors as `flip` does.

    Source: the usual CIFAR augmentation (He et al., CVPR 2016, section 4.2).

    Args:
        images: `[batch, channels, height, width]`.
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (_PADDING,) * 4)
    top, left = torch.randint(0, 2 * _PADDING + 1, (2, count), device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    tall = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    return flip(tall.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1)))


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "flip": flip,
    "crop-flip": crop_flip,
}
"""By name; all draw from torch's own generator, which the training loop seeds and saves."""
