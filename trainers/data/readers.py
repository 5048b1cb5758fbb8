"""Readers of image sets stored as plain pixels: IDX and both versions of the CIFAR files.

Each returns an `ImageSet`, or raises `DataError` naming the file, what was found in it and what is
expected. `trainers.data.encoded` reads JPEG, PNG and the like.
"""

import gzip
import math
import pickle
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet

__all__ = ["image_set", "read_bytes", "read_cifar_binary", "read_cifar_pickled", "read_idx"]

_IDX_IMAGES = 0x803
_IDX_LABELS = 0x801
"""Magic numbers of IDX: unsigned bytes (0x08) in 3 or 1 dimensions."""
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_CLASSES = {1: 10, 2: 100}
"""Classes by label bytes: CIFAR-10 has one, CIFAR-100 a coarse one before the fine one."""
_CIFAR_LABELS = {1: "labels", 2: "fine_labels"}
"""Keys of the labels in the pickled version, by label bytes of the binary one."""


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
    return image_set(str(images_path), images.unsqueeze(1), labels, classes)


def _read_idx_file(path: Path, *, magic: int, dimensions: int) -> torch.Tensor:
    """The content of an IDX file, uint8 with `dimensions` dimensions."""
    content = read_bytes(path)
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


def read_bytes(path: Path) -> bytearray:
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
        DataError: if a file is missing or truncated, a label is none of the classes, or
            `label_bytes` is not 1 or 2.
    """
    _check_cifar(paths, label_bytes)
    size = label_bytes + _CIFAR_PIXELS
    parts = []
    for path in paths:
        content = read_bytes(path)
        if len(content) == 0 or len(content) % size:
            raise DataError(f"{path}: {len(content)} bytes, expected a multiple of {size}")
        rows = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, size)
        parts.append((path, rows[:, label_bytes:], rows[:, label_bytes - 1].long()))
    return _cifar_set(parts, _CIFAR_CLASSES[label_bytes])


def read_cifar_pickled(paths: Sequence[Path], label_bytes: int) -> ImageSet:
    """The images of CIFAR's Python version: pickled tables of pixels and labels.

    Unpickling can run whatever code a file contains; here it builds arrays, texts, numbers and
    containers of them, and refuses all else.

    Args:
        paths: batch files, in order.
        label_bytes: 1 for CIFAR-10, 2 for the fine labels of CIFAR-100.

    Raises:
        DataError: if a file is missing, truncated or holds anything else, a label is none of the
            classes, or `label_bytes` is not 1 or 2.
    """
    _check_cifar(paths, label_bytes)
    key = _CIFAR_LABELS[label_bytes]
    parts = []
    for path in paths:
        table = _unpickled(path)
        pixels, labels = (table.get(name, table.get(name.encode())) for name in ("data", key))
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise DataError(f"{path}: no uint8 array 'data', expected a pickled CIFAR batch")
        if pixels.ndim != 2 or pixels.shape[1] != _CIFAR_PIXELS or len(pixels) == 0:
            expected = f"expected (count, {_CIFAR_PIXELS})"
            raise DataError(f"{path}: 'data' has shape {pixels.shape}, {expected}")
        if not isinstance(labels, list) or [type(label) for label in labels] != [int] * len(pixels):
            raise DataError(f"{path}: no list '{key}' of {len(pixels)} integers, expected one")
        parts.append((path, torch.from_numpy(pixels.copy()), torch.tensor(labels)))
    return _cifar_set(parts, _CIFAR_CLASSES[label_bytes])


def _check_cifar(paths: Sequence[Path], label_bytes: int) -> None:
    if label_bytes not in _CIFAR_CLASSES:
        raise DataError(f"label_bytes is {label_bytes}, expected 1 (CIFAR-10) or 2 (CIFAR-100)")
    if not paths:
        raise DataError("no CIFAR batch files given, expected at least one")


def _cifar_set(parts: Sequence[tuple[Path, torch.Tensor, torch.Tensor]], classes: int) -> ImageSet:
    """The set of batches of pixels, uint8 `[count, 3072]`, and labels, int64 `[count]`."""
    for path, _, labels in parts:
        for row in torch.nonzero((labels < 0) | (labels >= classes))[:1].flatten().tolist():
            raise DataError(f"{path} row {row}: label {labels[row]}, expected 0..{classes - 1}")
    images = torch.cat([pixels for _, pixels, _ in parts]).reshape(-1, 3, 32, 32).contiguous()
    labels = torch.cat([labels for _, _, labels in parts])
    return image_set(str(parts[0][0]), images, labels, classes)


def _unpickled(path: Path) -> dict[Any, Any]:
    content = read_bytes(path)
    try:
        table = _ArrayUnpickler(BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can make its machine raise nearly anything
        raise DataError(f"{path}: not a pickled CIFAR batch: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: a pickled {type(table).__name__}, expected a CIFAR batch")
    return table


def _latin1(text: str, _encoding: str) -> bytes:
    """What `_codecs.encode` is called for where Python 3 pickled bytes for Python 2."""
    return text.encode("latin-1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _latin1,
}
"""All that a CIFAR batch refers to, by the names of every NumPy version."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """The one of the allowed functions and classes that is called so."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, expected arrays alone")
        return _ALLOWED[module, name]  # type: ignore[no-any-return]


def image_set(
    name: str, images: torch.Tensor, labels: torch.Tensor, classes: int | None
) -> ImageSet:
    """The set, its classes counted from the labels where `classes` does not say."""
    if classes is None:
        classes = max(int(labels.max()) + 1, 1) if len(labels) else 1
    return ImageSet(name=name, images=images, labels=labels, classes=classes)
