"""Encoded images (JPEG, PNG, ...): decoded, scaled if asked for, and read from class folders."""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet
from trainers.data.readers import image_set, read_bytes
from trainers.progress import track

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = [
    "IMAGE_SUFFIXES",
    "EncodedImage",
    "ImageFile",
    "check_label",
    "check_size",
    "decode_image",
    "decode_images",
    "image_folder_files",
    "is_grey",
    "read_image_folder",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a class folder that count as images; others, such as notes, are passed over."""

_GREY_MODES = ("1", "L", "LA")
"""Pillow's names of pixels with one colour channel."""


class EncodedImage(NamedTuple):
    """One image as stored, with the place that an error message should name."""

    place: str
    content: bytes | None
    label: int | None


class ImageFile(NamedTuple):
    """A file of one image: the smallest group of rows that a stream can read by itself."""

    path: Path
    label: int

    @property
    def labels(self) -> Sequence[int]:
        """Of its one row."""
        return (self.label,)

    def rows(self) -> Iterator[EncodedImage]:
        """Its one row.

        Raises:
            DataError: if the file cannot be read.
        """
        yield EncodedImage(str(self.path), bytes(read_bytes(self.path)), self.label)


def image_folder_files(root: Path) -> list[tuple[str, list[Path]]]:
    """The class folders of `root` and the image files of each, both sorted by name.

    Raises:
        DataError: if `root` is no folder, has no sub-folders, or one of them has no images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: not a folder, expected one with a sub-folder for each class")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        raise DataError(f"{root}: no sub-folders, expected one for each class")
    found = []
    for folder in folders:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{folder}: no images, expected at least one in each class folder")
        found.append((folder.name, files))
    return found


def read_image_folder(root: Path, *, image_size: int | None = None) -> ImageSet:
    """The images of a folder with a sub-folder for each class; labels follow the sorted names.

    Args:
        root: the folder.
        image_size: as in `decode_image`.

    Raises:
        DataError: if there are no class folders, one has no images, or an image is corrupt or of
            another size than the first.
    """
    folders = image_folder_files(root)
    rows = (
        row
        for label, (_, paths) in enumerate(folders)
        for path in paths
        for row in ImageFile(path, label).rows()
    )
    images, labels = decode_images(
        rows,
        count=sum(len(paths) for _, paths in folders),
        empty=f"{root}: no images",
        classes=len(folders),
        image_size=image_size,
    )
    return image_set(str(root), images, labels, len(folders))


def decode_images(
    rows: Iterable[EncodedImage],
    *,
    count: int,
    empty: str,
    classes: int | None,
    image_size: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 `[count, channels, height, width]` and labels int64 `[count]`.

    Args:
        rows: the encoded images.
        count: how many there are.
        empty: what to say if there are none.
        classes: number of classes (None: any label from 0).
        image_size: as in `decode_image`.

    Raises:
        DataError: naming the place of an image that is corrupt, of another size than the first, or
            whose label is missing or none of the classes; or that there are no images.
    """
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for row in track(rows, "decoding, images", count):
        labels.append(check_label(row.place, row.label, classes))
        image = decode_image(row, image_size=image_size)
        if pixels:
            check_size(row.place, image, pixels[0].shape[0], pixels[0].shape[1])
        pixels.append(image)
    if not pixels:
        raise DataError(empty)
    channels = max(image.shape[2] for image in pixels)
    stacked = np.empty((len(pixels), channels, *pixels[0].shape[:2]), dtype=np.uint8)
    for row_number, image in enumerate(pixels):
        # A grey image among coloured ones spreads over the three channels.
        stacked[row_number] = image.transpose(2, 0, 1)
    return torch.from_numpy(stacked), torch.tensor(labels, dtype=torch.int64)


def check_label(place: str, label: int | None, classes: int | None) -> int:
    """The label, which is one of the classes.

    Raises:
        DataError: naming the place.
    """
    if label is None:
        raise DataError(f"{place}: no label, expected an integer")
    if label < 0 or (classes is not None and label >= classes):
        allowed = "0 or more" if classes is None else f"0..{classes - 1}"
        raise DataError(f"{place}: label {label}, expected {allowed}")
    return label


def check_size(place: str, image: NDArray[np.uint8], height: int, width: int) -> None:
    """Refuses an image of another size than the first of its set.

    Raises:
        DataError: naming the place and both sizes.
    """
    if image.shape[:2] != (height, width):
        raise DataError(
            f"{place}: {image.shape[1]} x {image.shape[0]} pixels, expected {width} x {height} as "
            "in the first row (data.image_size scales images)"
        )


def decode_image(row: EncodedImage, *, image_size: int | None) -> NDArray[np.uint8]:
    """The pixels of one image, uint8 `[height, width, channels]`: 1 channel if grey, else 3.

    Args:
        row: the image.
        image_size: the largest centred square is scaled to this side (None: as stored).

    Raises:
        DataError: if it is missing, corrupt, or has more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    try:
        with _opened(row) as image:
            mode = image.mode
            grey = mode in _GREY_MODES
            plain = image.convert("L" if grey else "RGB")
            if image_size is not None:
                plain = ImageOps.fit(plain, (image_size, image_size), Image.Resampling.BILINEAR)
            pixels = np.asarray(plain, dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:
        # Pillow's plugins raise nearly anything on corrupt input: SyntaxError, struct.error, ...
        raise DataError(f"{row.place}: not a readable image: {error}") from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{row.place}: pixel mode {mode!r}, expected 8 bits per channel")
    return pixels[:, :, None] if grey else pixels


def is_grey(row: EncodedImage) -> bool:
    """Whether an image has one channel, from its header alone.

    Raises:
        DataError: if it is missing or corrupt.
    """
    with _opened(row) as image:
        return image.mode in _GREY_MODES


def _opened(row: EncodedImage) -> "PilImage":
    from PIL import Image

    if row.content is None:
        raise DataError(f"{row.place}: no image bytes, expected an encoded image in the row itself")
    try:
        return Image.open(BytesIO(row.content))
    except Exception as error:
        raise DataError(f"{row.place}: not a readable image: {error}") from error
