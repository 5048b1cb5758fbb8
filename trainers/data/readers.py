"""Readers of image sets: IDX, Parquet, image folders and the binary CIFAR files.

Each returns an `ImageSet`, or raises `DataError` naming the file, what was found in it and what is
expected. Pickled files are never opened: unpickling runs whatever code the file contains.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet

__all__ = [
    "IMAGE_SUFFIXES",
    "image_folder_files",
    "read_cifar_binary",
    "read_idx",
    "read_image_folder",
    "read_parquet",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a class folder that count as images; others, such as notes, are passed over."""

_IDX_IMAGES = 0x803
_IDX_LABELS = 0x801
"""Magic numbers of IDX: unsigned bytes (0x08) in 3 or 1 dimensions."""
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_CLASSES = {1: 10, 2: 100}
"""Classes by label bytes: CIFAR-10 has one, CIFAR-100 a coarse one before the fine one."""
_PICKLE_START = 0x80
"""First byte of every pickle since protocol 2; no CIFAR label reaches it."""


class _Encoded(NamedTuple):
    """One image as stored, with the place that an error message should name."""

    place: str
    content: bytes | None
    label: int | None


def read_idx(images_path: Path, labels_path: Path, *, classes: int | None = None) -> ImageSet:
    """The greyscale images of a pair of IDX files (MNIST's format), gzip or plain.

    Args:
        images_path: file with magic 2051.
        labels_path: file with magic 2049.
        classes: number of classes; by default the highest label + 1.

    Raises:
        DataError: if a file is missing, truncated or no IDX file, or the counts differ.
    """
    images = _read_idx_file(images_path, magic=_IDX_IMAGES, dimensions=3)
    labels = _read_idx_file(labels_path, magic=_IDX_LABELS, dimensions=1).long()
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels, expected one for each of the {len(images)} "
            f"images in {images_path}"
        )
    return _image_set(str(images_path), images.unsqueeze(1), labels, classes)


def _read_idx_file(path: Path, *, magic: int, dimensions: int) -> torch.Tensor:
    """The content of an IDX file, uint8 with `dimensions` dimensions."""
    content = _read_bytes(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path}: {len(content)} bytes, expected a header of {header}")
    found, *shape = np.frombuffer(content[:header], dtype=">u4").tolist()
    if found != magic:
        raise DataError(f"{path}: magic number {found}, expected {magic}")
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path}: {len(content)} bytes, expected {expected} for shape {shape}")
    if len(content) == header:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytearray:
    """The bytes of a file, unpacked where it is gzip; writable, as torch wants its buffers."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return bytearray(content)


def read_cifar_binary(paths: Sequence[Path], label_bytes: int) -> ImageSet:
    """The images of CIFAR's binary version: records of label bytes and 3 x 32 x 32 pixels.

    Args:
        paths: batch files, in order.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, of which the second, the fine label, counts.

    Raises:
        DataError: if a file is missing, truncated or pickled, or `label_bytes` is not 1 or 2.
    """
    if label_bytes not in _CIFAR_CLASSES:
        raise DataError(f"label_bytes is {label_bytes}, expected 1 (CIFAR-10) or 2 (CIFAR-100)")
    size = label_bytes + _CIFAR_PIXELS
    parts = []
    for path in paths:
        content = _read_bytes(path)
        if content[:1] == bytes([_PICKLE_START]):
            raise DataError(
                f"{path}: a pickled batch, which can run any code when opened; "
                "use the binary version (*.bin) or Parquet files"
            )
        if len(content) == 0 or len(content) % size:
            raise DataError(f"{path}: {len(content)} bytes, expected a multiple of {size}")
        parts.append(torch.frombuffer(content, dtype=torch.uint8).reshape(-1, size))
    if not parts:
        raise DataError("no CIFAR batch files given, expected at least one")
    rows = torch.cat(parts)
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).contiguous()
    labels = rows[:, label_bytes - 1].long()
    return _image_set(str(paths[0]), images, labels, _CIFAR_CLASSES[label_bytes])


def read_parquet(
    paths: Sequence[Path], split: str | None = None, *, classes: int | None = None
) -> ImageSet:
    """The images of Parquet files in the Hugging Face image schema.

    A column `image` or `img` holds the encoded image, as bytes or as a struct with a field `bytes`;
    a column `label` (or `fine_label`) its class.

    Args:
        paths: files of one set, in order.
        split: keeps the rows whose column `split` says so; by default all rows.
        classes: number of classes; by default as many as the schema names, or else the highest
            label + 1.

    Raises:
        DataError: if a file or column is missing, no row is left, or an image is corrupt or of
            another size than the first.
    """
    if not paths:
        raise DataError("no Parquet files given, expected at least one")
    rows = (row for path in paths for row in _parquet_rows(path, split))
    name = str(paths[0])
    images, labels = _decode(rows, empty=_nothing_in(name, split))
    return _image_set(name, images, labels, classes or _named_classes(paths[0]))


def _nothing_in(name: str, split: str | None) -> str:
    where = "" if split is None else f" whose split is {split!r}"
    return f"{name}: no rows{where}, expected at least one"


def _parquet_rows(path: Path, split: str | None) -> Iterator[_Encoded]:
    """The encoded images of one file, a batch in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _parquet_columns(path, file.schema_arrow, split)
            start = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                values = [batch.column(name).to_pylist() for name in columns]
                for offset, (image, label, *splits) in enumerate(zip(*values, strict=True)):
                    if not splits or splits[0] == split:
                        content = image.get("bytes") if isinstance(image, dict) else image
                        yield _Encoded(f"{path} row {start + offset}", content, label)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _parquet_columns(path: Path, schema: Any, split: str | None) -> list[str]:
    """The names of the image, the label and, if asked for, the split column."""
    choices = [("image", "img"), ("label", "fine_label"), ("split",)]
    columns = []
    for names in choices if split is not None else choices[:2]:
        present = [name for name in names if name in schema.names]
        if not present:
            wanted = " or ".join(f"'{name}'" for name in names)
            raise DataError(f"{path}: columns {schema.names}, expected one named {wanted}")
        columns.append(present[0])
    import pyarrow.types as kinds

    image, label = (schema.field(name).type for name in columns[:2])
    inner = (
        image.field("bytes").type if kinds.is_struct(image) and "bytes" in image.names else image
    )
    if not (kinds.is_binary(inner) or kinds.is_large_binary(inner)):
        raise DataError(
            f"{path}: column '{columns[0]}' is {image}, expected binary or struct<bytes: binary>"
        )
    if not kinds.is_integer(label):
        raise DataError(f"{path}: column '{columns[1]}' is {label}, expected integers")
    return columns


def _named_classes(path: Path) -> int | None:
    """Number of classes that the Hugging Face metadata of a Parquet file names, if any."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        label = features["label" if "label" in schema.names else "fine_label"]
        return len(label["names"])
    except (KeyError, TypeError, ValueError):
        return None


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


def read_image_folder(root: Path) -> ImageSet:
    """The images of a folder with a sub-folder for each class; labels follow the sorted names.

    Raises:
        DataError: if there are no class folders, one has no images, or an image is corrupt or of
            another size than the first.
    """
    folders = image_folder_files(root)
    rows = (
        _Encoded(str(path), bytes(_read_bytes(path)), label)
        for label, (_, paths) in enumerate(folders)
        for path in paths
    )
    images, labels = _decode(rows, empty=f"{root}: no images")
    return _image_set(str(root), images, labels, len(folders))


def _decode(rows: Iterable[_Encoded], *, empty: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 `[count, channels, height, width]` and labels int64 `[count]`."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for row in rows:
        image = _decode_image(row)
        if pixels and image.shape[:2] != pixels[0].shape[:2]:
            found, expected = (f"{a.shape[1]} x {a.shape[0]}" for a in (image, pixels[0]))
            raise DataError(f"{row.place}: {found} pixels, expected {expected} as in the first row")
        if row.label is None:
            raise DataError(f"{row.place}: no label, expected an integer")
        pixels.append(image)
        labels.append(row.label)
    if not pixels:
        raise DataError(empty)
    channels = max(image.shape[2] for image in pixels)
    stacked = np.empty((len(pixels), channels, *pixels[0].shape[:2]), dtype=np.uint8)
    for row_number, image in enumerate(pixels):
        # A grey image among coloured ones spreads over the three channels.
        stacked[row_number] = image.transpose(2, 0, 1)
    return torch.from_numpy(stacked), torch.tensor(labels, dtype=torch.int64)


def _decode_image(row: _Encoded) -> NDArray[np.uint8]:
    """The pixels of one image, uint8 `[height, width, channels]`: 1 channel if grey, else 3."""
    from PIL import Image

    if row.content is None:
        raise DataError(f"{row.place}: no image bytes, expected an encoded image in the row itself")
    try:
        with Image.open(BytesIO(row.content)) as image:
            mode = image.mode
            grey = mode in {"1", "L", "LA"}
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except Exception as error:
        # Pillow's plugins raise nearly anything on corrupt input: SyntaxError, struct.error, ...
        raise DataError(f"{row.place}: not a readable image: {error}") from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{row.place}: pixel mode {mode!r}, expected 8 bits per channel")
    return pixels[:, :, None] if grey else pixels


def _image_set(
    name: str, images: torch.Tensor, labels: torch.Tensor, classes: int | None
) -> ImageSet:
    """The set, its classes counted from the labels where `classes` does not say."""
    if classes is None:
        classes = max(int(labels.max()) + 1, 1) if len(labels) else 1
    return ImageSet(name=name, images=images, labels=labels, classes=classes)
