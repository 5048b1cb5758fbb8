"""Minibatches of a data set that lies in memory, cut on the device with one gather per batch."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from hwmodel.errors import DataError

if TYPE_CHECKING:
    from trainers.data.dataset import ImageSet

__all__ = ["Batches", "batch_count", "epoch_seed"]


def batch_count(name: str, count: int, batch_size: int, *, shuffle: bool) -> int:
    """Number of batches in an epoch of `count` images.

    Raises:
        DataError: if `batch_size` is below 1, or `shuffle` is on and there are fewer images than
            one batch.
    """
    if batch_size < 1:
        raise DataError(f"batch size is {batch_size}, expected at least 1")
    if not shuffle:
        return -(-count // batch_size)
    if count < batch_size:
        raise DataError(f"{name}: {count} images, expected at least one batch of {batch_size}")
    return count // batch_size


def epoch_seed(seed: int, index: int) -> int:
    """The seed of an epoch's order."""
    # A hash, because seed + index would give seed 0 in epoch 1 the order of seed 1 in epoch 0.
    mixed = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(mixed[:7], "little")


class Batches:
    """Minibatches of an `ImageSet`, an epoch at a time.

    The images stay uint8 on the device; each batch becomes float32 in [0, 1] as it is cut. With
    `shuffle` (training) every epoch has its own order, which depends on nothing but `seed` and the
    epoch's number, and images left over after the last full batch sit that epoch out. Without it
    (evaluation) the order is the set's own and the last batch may be smaller, so that every image
    counts once.

        train = Batches(dataset.train, 128, seed=0, device="cpu")
        for images, labels in train.epoch(3): ...

    Attributes:
        next_epoch: number of the epoch that iterating over the object itself yields next; it counts
            up with each iteration begun. A resumed run sets it.

    Raises:
        DataError: if `batch_size` is below 1, or `shuffle` is on and the set is smaller than one
            batch.
    """

    def __init__(
        self,
        images: "ImageSet",
        batch_size: int,
        *,
        seed: int,
        device: torch.device | str,
        shuffle: bool = True,
    ) -> None:
        self._count = batch_count(images.name, len(images), batch_size, shuffle=shuffle)
        self.next_epoch = 0
        self._set = images.to(device)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of epoch `next_epoch`, as `epoch` gives them."""
        index = self.next_epoch
        self.next_epoch += 1
        return self.epoch(index)

    def epoch(self, index: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of epoch `index`, the same on every call and every device.

        Yields:
            Images, float32 `[batch, channels, height, width]` in [0, 1], and labels, int64
            `[batch]`, both on the device.
        """
        images, labels = self._set.images, self._set.labels
        order = self._order(index) if self._shuffle else None
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            stop = start + self._batch_size
            if order is None:
                yield images[start:stop].float().div_(255), labels[start:stop]
            else:
                rows = order[start:stop]
                yield (
                    images.index_select(0, rows).float().div_(255),
                    labels.index_select(0, rows),
                )

    def _order(self, index: int) -> torch.Tensor:
        """The shuffled row numbers of an epoch, int64 `[count]`, on the device."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, index))
        return torch.randperm(len(self._set), generator=generator).to(self._set.images.device)
