"""A user's own data: a factory that returns a training and a test set."""

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor

from hwmodel.errors import DataError
from trainers.data.dataset import Dataset, ImageSet
from trainers.own import load_own
from trainers.progress import track

__all__ = ["load_own_dataset"]


def load_own_dataset(name: str) -> Dataset[ImageSet]:
    """The sets that `module:factory` returns, read into memory once.

    Args:
        name: of a callable without arguments that returns a pair, training and test set, each an
            `ImageSet` or a `torch.utils.data.Dataset` whose items are an image (uint8, or float
            from 0 to 1, `[channels, height, width]`) and a label.

    Raises:
        ConfigError: it cannot be imported.
        DataError: it returns something else; naming the row where an item is to blame.
    """
    made = load_own(name, "data set")()
    if not isinstance(made, tuple) or len(made) != 2:
        raise DataError(f"data set {name!r} made a {type(made).__name__}, expected a pair of sets")
    train, test = (
        part if isinstance(part, ImageSet) else _read(part, f"{name}/{split}")
        for part, split in zip(made, ("train", "test"), strict=True)
    )
    classes = max(train.classes, test.classes)
    return Dataset(name=name, train=_of_classes(train, classes), test=_of_classes(test, classes))


def _of_classes(images: ImageSet, classes: int) -> ImageSet:
    return ImageSet(name=images.name, images=images.images, labels=images.labels, classes=classes)


def _read(items: Any, name: str) -> ImageSet:
    """All items of a torch data set."""
    if not isinstance(items, Sized) or not hasattr(items, "__getitem__"):
        raise DataError(f"{name}: a {type(items).__name__}, expected a data set with a length")
    if len(items) == 0:
        raise DataError(f"{name}: no item, expected at least one")
    images, labels = [], []
    for row in track(range(len(items)), f"reading {name}, images", len(items)):
        try:
            image, label = items[row]
            images.append(_pixels(torch.as_tensor(image)))
            labels.append(int(label))
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{name}, row {row}: {error}") from None
        if images[-1].shape != images[0].shape:
            shapes = f"{tuple(images[-1].shape)}, expected {tuple(images[0].shape)} as in row 0"
            raise DataError(f"{name}, row {row}: image has shape {shapes}")
        if labels[-1] < 0:
            raise DataError(f"{name}, row {row}: label {labels[-1]}, expected 0 or more")
    return ImageSet(
        name=name,
        images=torch.stack(images),
        labels=torch.tensor(labels),
        classes=max(labels) + 1,
    )


def _pixels(image: Tensor) -> Tensor:
    """uint8 `[channels, height, width]`.

    Raises:
        ValueError: anything else.
    """
    if image.dim() != 3:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected 3 dimensions")
    if image.dtype == torch.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if not image.is_floating_point() or low < 0 or high > 1:
        raise ValueError(
            f"image is {image.dtype} from {low:g} to {high:g}, expected uint8, or float from 0 to 1"
        )
    return (image * 255).round().to(torch.uint8)
