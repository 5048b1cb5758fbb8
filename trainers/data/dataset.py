"""Images and labels held in memory (`ImageSet`); a training and a test set of them (`Dataset`)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import torch

from hwmodel.errors import DataError
from trainers.data.loader import Batches
from trainers.data.source import ImageSource

__all__ = ["Dataset", "ImageSet", "rows_by_turn"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one size with a class label each.

    The tensors may be memory-mapped and are shared by whoever holds the set: do not write to them.

    Raises:
        DataError: if a dtype or shape is not as stated, or a label lies outside 0..classes-1.
    """

    name: str
    images: torch.Tensor
    """uint8 `[count, channels, height, width]`."""
    labels: torch.Tensor
    """int64 `[count]`."""
    classes: int
    """Number of classes, whether or not each of them occurs."""
    _digest: list[str] = field(default_factory=list, init=False, repr=False)
    """Empty until `digest` has been asked for: a frozen object's cache."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        self._require(images.dtype == torch.uint8, f"images are {images.dtype}, expected uint8")
        self._require(labels.dtype == torch.int64, f"labels are {labels.dtype}, expected int64")
        shape = tuple(images.shape)
        self._require(len(shape) == 4, f"images have shape {shape}, expected 4 dimensions")
        self._require(0 not in shape, f"images have shape {shape}, expected at least one image")
        self._require(
            tuple(labels.shape) == shape[:1],
            f"labels have shape {tuple(labels.shape)}, expected {shape[:1]}",
        )
        wrong = (labels < 0) | (labels >= self.classes)
        if bool(wrong.any()):
            row = int(wrong.int().argmax())
            allowed = f"expected 0..{self.classes - 1}"
            self._require(False, f"label {int(labels[row])} in row {row}, {allowed}")

    def __len__(self) -> int:
        """Number of images."""
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return cast("tuple[int, int, int]", tuple(self.images.shape[1:]))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the shape, the pixels and the labels; computed once."""
        if not self._digest:
            content = hashlib.sha256(repr(tuple(self.images.shape)).encode())
            content.update(self.images.cpu().contiguous().numpy().data)
            content.update(self.labels.cpu().contiguous().numpy().astype("<i8").tobytes())
            self._digest.append(content.hexdigest())
        return self._digest[0]

    @property
    def fingerprint(self) -> str:
        """The digest: the images are in memory anyway."""
        return self.digest

    def subset(self, count: int) -> "ImageSet":
        """The first `count` images, taken from each class in turn.

        Balanced even where the source is sorted by class, and nested: a smaller subset is a prefix
        of a larger one. Where the rows already alternate it is a view, without a copy.

        Raises:
            DataError: if `count` is not between 1 and the number of images.
        """
        self._require(1 <= count <= len(self), f"{count} images asked, allowed are 1..{len(self)}")
        rows = rows_by_turn(self.labels)[:count]
        if bool((rows == torch.arange(count, device=rows.device)).all()):
            images, labels = self.images[:count], self.labels[:count]
        else:
            images, labels = self.images[rows], self.labels[rows]
        return ImageSet(name=self.name, images=images, labels=labels, classes=self.classes)

    def batches(
        self, batch_size: int, *, seed: int, device: torch.device | str, shuffle: bool = True
    ) -> Batches:
        """Minibatches of the set, which moves to the device as a whole: `Batches`."""
        return Batches(self, batch_size, seed=seed, device=device, shuffle=shuffle)

    def halves(self) -> tuple["ImageSet", "ImageSet"]:
        """The first half of at least two images, and the rest."""
        half = len(self) // 2
        return self._rows(slice(0, half)), self._rows(slice(half, None))

    def _rows(self, rows: slice) -> "ImageSet":
        return ImageSet(
            name=self.name,
            images=self.images[rows],
            labels=self.labels[rows],
            classes=self.classes,
        )

    def of_classes(self, classes: Sequence[int]) -> "ImageSet":
        """The images of some classes, which are numbered anew in the order given.

        Raises:
            DataError: fewer than two classes, a repeated one, or one that the set does not have.
        """
        known = all(0 <= number < self.classes for number in classes)
        self._require(
            known and len(classes) == len(set(classes)) and len(classes) > 1,
            f"classes {list(classes)} asked, allowed are two or more of 0..{self.classes - 1}",
        )
        numbers = torch.full((self.classes,), -1, device=self.labels.device)
        numbers[list(classes)] = torch.arange(len(classes), device=numbers.device)
        labels = numbers[self.labels]
        rows = labels >= 0
        return ImageSet(
            name=self.name, images=self.images[rows], labels=labels[rows], classes=len(classes)
        )

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on `device`; without a copy where it is there already."""
        return ImageSet(
            name=self.name,
            images=self.images.to(device),
            labels=self.labels.to(device),
            classes=self.classes,
        )

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise DataError(f"{self.name}: {message}")


def rows_by_turn(labels: torch.Tensor) -> torch.Tensor:
    """Row numbers, int64 `[count]`: every class's first row, then every class's second, ..."""
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels), device=labels.device) - starts[labels[by_class]]
    return torch.argsort(turn, stable=True)


_Source = TypeVar("_Source", bound=ImageSource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Generic[_Source]):
    """A training and a test set of the same image shape and classes.

    Raises:
        DataError: if the two differ in image shape or number of classes.
    """

    name: str
    train: _Source
    test: _Source

    def __post_init__(self) -> None:
        for what, train, test in (
            ("image shape", self.train.shape, self.test.shape),
            ("number of classes", self.train.classes, self.test.classes),
        ):
            if train != test:
                raise DataError(
                    f"{self.name}: {what} {train} in train but {test} in test, expected the same"
                )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes
