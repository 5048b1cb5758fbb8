"""Images that do not fit in memory: streamed from their files, decoded in the background.

Labels lie in memory, pixels never do, but for two batches. An epoch reads the groups of rows (image
files, or row groups of Parquet files) in a new order and draws each image from a buffer of encoded
ones that the reading refills. Image files mix perfectly; Parquet rows mix across about `buffer` of
them, so a set that is sorted by class wants its rows mixed before it is written.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet, rows_by_turn
from trainers.data.encoded import (
    EncodedImage,
    ImageFile,
    check_size,
    decode_image,
    image_folder_files,
    is_grey,
)
from trainers.data.loader import batch_count, epoch_seed
from trainers.data.parquet import named_classes, row_groups
from trainers.progress import track

__all__ = ["RowSource", "StreamedBatches", "StreamedImages", "stream_folder", "stream_parquet"]

_PEEKED = 256
"""Images whose headers tell whether the set is grey or coloured (at most twice as many)."""


class RowSource(Protocol):
    """Rows that are read together: a row group of a Parquet file, or an image file."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def labels(self) -> Sequence[int]:
        """One for each row."""
        ...

    def rows(self) -> Iterator[EncodedImage]:
        """The rows, in the labels' order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamedImages:
    """Images in files, of which only the labels lie in memory."""

    name: str
    classes: int
    """Number of classes, whether or not each of them occurs."""
    shape: tuple[int, int, int]
    """Channels, height and width of every image."""
    groups: tuple[RowSource, ...]
    """All rows, in order."""
    image_size: int | None
    """Side that images are scaled to (None: as stored)."""
    buffer: int
    """Encoded images in memory at a time, from which training draws."""
    _digest: list[str] = field(default_factory=list, init=False, repr=False)
    """Empty until `digest` has been asked for: a frozen object's cache."""

    def __len__(self) -> int:
        """Number of images."""
        return sum(len(group.labels) for group in self.groups)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the files' bytes, the labels and the images' shape; computed once.

        It differs from the digest of the same images in memory, which is over their pixels.
        """
        if not self._digest:
            content = hashlib.sha256(repr((self.shape, self._labels().tolist())).encode())
            paths = dict.fromkeys(group.path for group in self.groups)
            for path in track(paths, "digest, files", len(paths)):
                with path.open("rb") as file:
                    content.update(hashlib.file_digest(file, "sha256").digest())
            self._digest.append(content.hexdigest())
        return self._digest[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the files' names, sizes and times, the labels and the images' shape.

        No file is opened, so that a set of any size has it at once. A copy of the files under other
        times has another one, and a file that was changed behind its size and time has the same.

        Raises:
            DataError: a file is gone.
        """
        content = hashlib.sha256(repr((self.shape, self._labels().tolist())).encode())
        for path in dict.fromkeys(group.path for group in self.groups):
            try:
                found = path.stat()
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
            content.update(repr((path.name, found.st_size, found.st_mtime_ns)).encode())
        return content.hexdigest()

    def subset(self, count: int) -> ImageSet:
        """The first `count` images, taken from each class in turn, decoded into memory.

        The same images as those of `ImageSet.subset` on the whole set.

        Raises:
            DataError: if `count` is not between 1 and the number of images, or one is corrupt or of
                another size.
        """
        if not 1 <= count <= len(self):
            raise DataError(f"{self.name}: {count} images asked, allowed are 1..{len(self)}")
        labels = self._labels()
        rows = rows_by_turn(labels)[:count]
        places = {row: place for place, row in enumerate(rows.tolist())}
        images = torch.empty((count, *self.shape), dtype=torch.uint8)
        start = 0
        for group in track(self.groups, "reading, parts of the set", len(self.groups)):
            wanted = range(start, start + len(group.labels))
            start = wanted.stop
            if places.keys().isdisjoint(wanted):
                continue
            for row, encoded in zip(wanted, group.rows(), strict=True):
                if row in places:
                    images[places[row]] = self._pixels(encoded)
        return ImageSet(name=self.name, images=images, labels=labels[rows], classes=self.classes)

    def batches(
        self, batch_size: int, *, seed: int, device: torch.device | str, shuffle: bool = True
    ) -> "StreamedBatches":
        """Minibatches, decoded one ahead of their use.

        Raises:
            DataError: if `batch_size` is below 1, or `shuffle` is on and there are fewer images
                than one batch.
        """
        return StreamedBatches(self, batch_size, seed=seed, device=device, shuffle=shuffle)

    def encoded(self, seed: int | None) -> Iterator[EncodedImage]:
        """Every image once, still encoded; in an order of its own for each seed.

        Args:
            seed: of the order (None: the files' own).
        """
        if seed is None:
            for group in self.groups:
                yield from group.rows()
            return
        chance = random.Random(seed)
        waiting: list[EncodedImage] = []
        for group in chance.sample(self.groups, len(self.groups)):
            for row in group.rows():
                if len(waiting) < self.buffer:
                    waiting.append(row)
                    continue
                drawn = chance.randrange(self.buffer)
                yield waiting[drawn]
                waiting[drawn] = row
        chance.shuffle(waiting)
        yield from waiting

    def decoded(self, rows: Sequence[EncodedImage]) -> tuple[Tensor, Tensor]:
        """Images uint8 `[count, channels, height, width]` and labels int64 `[count]`.

        Raises:
            DataError: naming an image that is corrupt or of another size.
        """
        images = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        for place, row in enumerate(rows):
            images[place] = self._pixels(row)
        return images, torch.tensor([row.label for row in rows])

    def _labels(self) -> Tensor:
        """Of every image, int64 `[count]`."""
        return torch.tensor([label for group in self.groups for label in group.labels])

    def _pixels(self, row: EncodedImage) -> Tensor:
        """One image, uint8 `[channels, height, width]`; a grey one takes the set's channels."""
        image = decode_image(row, image_size=self.image_size)
        channels, height, width = self.shape
        check_size(row.place, image, height, width)
        if image.shape[2] > channels:
            raise DataError(
                f"{row.place}: a coloured image, expected grey as the {_PEEKED} that were looked at"
            )
        planes = np.broadcast_to(image.transpose(2, 0, 1), self.shape)
        return torch.from_numpy(planes.copy())


class StreamedBatches:
    """Minibatches of `StreamedImages`; see `trainers.data.source.EpochBatches`."""

    def __init__(
        self,
        images: StreamedImages,
        batch_size: int,
        *,
        seed: int,
        device: torch.device | str,
        shuffle: bool,
    ) -> None:
        self._count = batch_count(images.name, len(images), batch_size, shuffle=shuffle)
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._shuffle = shuffle

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._count

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `index`, the same on every call.

        Yields:
            Images, float32 `[batch, channels, height, width]` in [0, 1], and labels, int64
            `[batch]`, both on the device.

        Raises:
            DataError: naming an image that is corrupt or of another size.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:
            decoded = self._decoded(index)
            ahead = thread.submit(next, decoded, None)
            while (batch := ahead.result()) is not None:
                ahead = thread.submit(next, decoded, None)
                images, labels = (tensor.to(self._device) for tensor in batch)
                yield images.float().div_(255), labels

    def _decoded(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed = epoch_seed(self._seed, index) if self._shuffle else None
        rows = self._images.encoded(seed)
        for _ in range(self._count):
            yield self._images.decoded(list(islice(rows, self._batch_size)))


def stream_parquet(
    paths: Sequence[Path],
    split: str | None = None,
    *,
    image_size: int | None = None,
    buffer: int,
) -> StreamedImages:
    """The images of Parquet files, of which it reads the labels and a few headers.

    Args:
        paths: files of one set, in order.
        split: keeps the rows whose column `split` says so; by default all rows.
        image_size: side that the images are scaled to (None: as stored, all of one size).
        buffer: encoded images in memory at a time.

    Raises:
        DataError: if a file or column is missing, no row is left, a label is missing or none of the
            classes, or one of the first images is corrupt.
    """
    if not paths:
        raise DataError("no Parquet files given, expected at least one")
    classes = named_classes(paths[0])
    groups = tuple(group for path in paths for group in row_groups(path, split, classes))
    if not groups:
        where = "" if split is None else f" whose split is {split!r}"
        raise DataError(f"{paths[0]}: no rows{where}, expected at least one")
    if classes is None:
        classes = 1 + max(max(group.labels) for group in groups)
    return _stream(paths[0], groups, classes, image_size, buffer)


def stream_folder(root: Path, *, image_size: int | None = None, buffer: int) -> StreamedImages:
    """The images of a folder with a sub-folder for each class; labels follow the sorted names.

    Args:
        root: the folder.
        image_size: side that the images are scaled to (None: as stored, all of one size).
        buffer: encoded images in memory at a time.

    Raises:
        DataError: if there are no class folders, one has no images, or one of the first images is
            corrupt.
    """
    folders = image_folder_files(root)
    groups = tuple(
        ImageFile(path, label) for label, (_, paths) in enumerate(folders) for path in paths
    )
    return _stream(root, groups, len(folders), image_size, buffer)


def _stream(
    path: Path, groups: tuple[RowSource, ...], classes: int, image_size: int | None, buffer: int
) -> StreamedImages:
    """The set, whose shape is its first image's; images from all over it tell grey from colour."""
    chosen = groups[:: -(-len(groups) // _PEEKED)]
    each = -(-_PEEKED // len(chosen))
    peeked = [row for group in chosen for row in islice(group.rows(), each)]
    height, width, _ = decode_image(peeked[0], image_size=image_size).shape
    channels = 1 if all(is_grey(row) for row in peeked) else 3
    return StreamedImages(
        name=str(path),
        classes=classes,
        shape=(channels, height, width),
        groups=groups,
        image_size=image_size,
        buffer=buffer,
    )
