"""Augmentation of whole batches on their device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AUGMENTATIONS", "crop_flip", "crop_flip_cutout", "cutout", "flip"]

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


def cutout(images: Tensor) -> Tensor:
    """Blanks a square of half the images' shorter side, its centre anywhere in the image.

    Source: DeVries and Taylor (2017), with the 16 pixels of 32 that it uses for CIFAR-10.
    differs: the square takes the mean of its image by channel; the paper's is 0 after
    normalisation, which this code leaves to the network.

    Args:
        images: `[batch, channels, height, width]`.
    """
    count, _, height, width = images.shape
    side = max(min(height, width) // 2, 1)
    hidden = torch.ones((), dtype=torch.bool, device=images.device)
    for size, shape in ((height, (count, 1, height, 1)), (width, (count, 1, 1, width))):
        centre = torch.randint(0, size, (count, 1), device=images.device)
        offset = torch.arange(size, device=images.device) - centre + side // 2
        hidden = hidden & ((offset >= 0) & (offset < side)).reshape(shape)
    return torch.where(hidden, images.mean(dim=(2, 3), keepdim=True), images)


def crop_flip_cutout(images: Tensor) -> Tensor:
    """`crop_flip`, then `cutout`.

    Args:
        images: `[batch, channels, height, width]`.
    """
    return cutout(crop_flip(images))


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "flip": flip,
    "crop-flip": crop_flip,
    "crop-flip-cutout": crop_flip_cutout,
}
"""By name; all draw from torch's own generator, which the training loop seeds and saves."""
