"""What training and evaluation ask of images, whether they lie in memory or are streamed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainers.data.dataset import ImageSet

__all__ = ["EpochBatches", "ImageSource"]


class EpochBatches(Protocol):
    """Minibatches, an epoch at a time."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        ...

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `index`, the same on every call.

        Yields:
            Images, float32 `[batch, channels, height, width]` in [0, 1], and labels, int64
            `[batch]`, both on the device.
        """
        ...


class ImageSource(Protocol):
    """Images of one size with a class label each."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes, whether or not each of them occurs."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over whatever the images are decoded from; computed once."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that tells sets apart without reading files; of no use as a proof."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def subset(self, count: int) -> "ImageSet":
        """The first `count` images, taken from each class in turn, in memory.

        Raises:
            DataError: if `count` is not between 1 and the number of images.
        """
        ...

    def batches(
        self, batch_size: int, *, seed: int, device: torch.device | str, shuffle: bool = True
    ) -> EpochBatches:
        """Minibatches on a device.

        With `shuffle` (training) every epoch has its own order, which depends on nothing but `seed`
        and the epoch's number, and images left over after the last full batch sit that epoch out.
        Without it (evaluation) the order is the set's own and the last batch may be smaller, so
        that every image counts once.

        Raises:
            DataError: if `batch_size` is below 1, or `shuffle` is on and there are fewer images
                than one batch.
        """
        ...
