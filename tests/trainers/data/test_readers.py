import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.errors import DataError
from trainers.data.readers import read_cifar_binary, read_cifar_pickled, read_idx

PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def idx(values: np.ndarray[Any, Any], magic: int) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def write_idx(folder: Path, *, packed: bool = False) -> tuple[Path, Path]:
    pack = gzip.compress if packed else bytes
    images, labels = folder / "images", folder / "labels"
    images.write_bytes(pack(idx(PIXELS, 2051)))
    labels.write_bytes(pack(idx(np.array([2, 0, 1], dtype=np.uint8), 2049)))
    return images, labels


@pytest.mark.parametrize("packed", [False, True])
def test_idx_gives_pixels_and_labels(tmp_path: Path, packed: bool) -> None:
    images = read_idx(*write_idx(tmp_path, packed=packed))
    assert images.shape == (1, 4, 5)
    assert images.images[:, 0].numpy().tolist() == PIXELS.tolist()
    assert images.labels.tolist() == [2, 0, 1]
    assert images.classes == 3


def test_idx_takes_the_number_of_classes_it_is_told(tmp_path: Path) -> None:
    assert read_idx(*write_idx(tmp_path), classes=10).classes == 10
    with pytest.raises(DataError, match=r"label 2 in row 0, expected 0\.\.1"):
        read_idx(*write_idx(tmp_path), classes=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0", "2 bytes, expected a header of 16"),
        (idx(PIXELS, 2049), "magic number 2049, expected 2051"),
        (idx(PIXELS, 2051)[:-1], r"75 bytes, expected 76 for shape \[3, 4, 5\]"),
        (idx(PIXELS, 2051) + b"\0", "77 bytes, expected 76"),
        (idx(PIXELS[:2], 2051), "3 labels, expected one for each of the 2 images"),
        (gzip.compress(idx(PIXELS, 2051))[:-12], "not a complete gzip file"),
        (b"\x1f\x8b garbage that is long enough", "not a complete gzip file"),
        (idx(PIXELS[:0], 2051), "3 labels, expected one for each of the 0 images"),
    ],
)
def test_damaged_idx_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    images, labels = write_idx(tmp_path)
    images.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(images, labels)


def test_empty_idx_pair_is_refused(tmp_path: Path) -> None:
    images, labels = write_idx(tmp_path)
    images.write_bytes(idx(PIXELS[:0], 2051))
    labels.write_bytes(idx(np.zeros(0, dtype=np.uint8), 2049))
    with pytest.raises(DataError, match="at least one image"):
        read_idx(images, labels)


def test_missing_idx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: cannot be read: No such file"):
        read_idx(tmp_path / "absent", tmp_path / "labels")


@pytest.mark.parametrize(("label_bytes", "classes"), [(1, 10), (2, 100)])
def test_cifar_binary_gives_the_last_label_byte(
    tmp_path: Path, label_bytes: int, classes: int
) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (4, label_bytes + 3072), dtype=np.uint8)
    paths = [tmp_path / "one.bin", tmp_path / "two.bin"]
    paths[0].write_bytes(rows[:3].tobytes())
    paths[1].write_bytes(rows[3:].tobytes())
    images = read_cifar_binary(paths, label_bytes)
    assert images.shape == (3, 32, 32)
    assert images.classes == classes
    assert images.labels.tolist() == rows[:, label_bytes - 1].tolist()
    assert images.images.flatten(1).tolist() == rows[:, label_bytes:].tolist()


@pytest.mark.parametrize("content", [b"", b"\0" * 3072])
def test_truncated_cifar_batch_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{len(content)} bytes, expected a multiple of 3073"):
        read_cifar_binary([path], 1)


@pytest.mark.parametrize(("label_bytes", "label"), [(1, 10), (2, 100)])
def test_label_beyond_the_classes_is_named_with_its_row(
    tmp_path: Path, label_bytes: int, label: int
) -> None:
    rows = np.zeros((3, label_bytes + 3072), dtype=np.uint8)
    rows[2, label_bytes - 1] = label
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(rows.tobytes())
    message = rf"data_batch_1\.bin row 2: label {label}, expected 0\.\.{label - 1}"
    with pytest.raises(DataError, match=message):
        read_cifar_binary([path], label_bytes)


PIXEL_ROWS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)


def python2_pickle(pixels: np.ndarray[Any, Any], labels: list[int], key: str) -> bytes:
    """A batch as Python 2 and the NumPy of its time wrote it: byte strings, protocol 2."""

    def text(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
    array += integer(0) + b"t" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR("
    dtype += integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = b"(" + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"t"
    state = b"(" + integer(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    items = b"".join(map(integer, labels))
    table = text(b"data") + array + state + text(key.encode()) + b"(" + items + b"l"
    return b"\x80\x02}(" + table + b"u."


@pytest.mark.parametrize(
    ("label_bytes", "key", "classes"), [(1, "labels", 10), (2, "fine_labels", 100)]
)
@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_cifar_pickles_of_python_2_and_3_are_read(
    tmp_path: Path, label_bytes: int, key: str, classes: int, protocol: int | None
) -> None:
    for number, rows in enumerate((slice(0, 2), slice(2, 3))):
        pixels, labels = PIXEL_ROWS[rows], [3, 0, 9][rows]
        if protocol is None:
            content = python2_pickle(pixels, labels, key)
        else:
            table = {b"data": pixels, key: labels, b"filenames": [b"a.png"]}
            content = pickle.dumps(table, protocol)
        (tmp_path / str(number)).write_bytes(content)
    images = read_cifar_pickled([tmp_path / "0", tmp_path / "1"], label_bytes)
    assert images.shape == (3, 32, 32)
    assert images.classes == classes
    assert images.labels.tolist() == [3, 0, 9]
    assert images.images.flatten(1).tolist() == PIXEL_ROWS.tolist()


class Malice:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.target, "executed"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_would_run_code_is_refused(tmp_path: Path, protocol: int) -> None:
    path, proof = tmp_path / "data_batch_1", tmp_path / "proof"
    table = {"data": PIXEL_ROWS, "labels": Malice(proof)}
    path.write_bytes(pickle.dumps(table, protocol))
    with pytest.raises(DataError, match="data_batch_1: not a pickled CIFAR batch: refers to "):
        read_cifar_pickled([path], 1)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2], "a pickled list, expected a CIFAR batch"),
        ({"labels": [1]}, "no uint8 array 'data'"),
        ({"data": PIXEL_ROWS.astype(np.float32), "labels": [1, 2, 3]}, "no uint8 array 'data'"),
        ({"data": PIXEL_ROWS[:, :100], "labels": [1, 2, 3]}, r"'data' has shape \(3, 100\)"),
        ({"data": PIXEL_ROWS[:0], "labels": []}, r"'data' has shape \(0, 3072\)"),
        ({"data": PIXEL_ROWS, "labels": [1, 2]}, "no list 'labels' of 3 integers"),
        ({"data": PIXEL_ROWS, "labels": [1, 2, "a"]}, "no list 'labels' of 3 integers"),
        ({"data": PIXEL_ROWS, "fine_labels": [1, 2, 3]}, "no list 'labels' of 3 integers"),
        ({"data": PIXEL_ROWS, "labels": [1, 10, 3]}, r"row 1: label 10, expected 0\.\.9"),
        ({"data": PIXEL_ROWS, "labels": [1, 2, -1]}, r"row 2: label -1, expected 0\.\.9"),
    ],
)
def test_pickle_of_something_else_is_refused(tmp_path: Path, table: object, message: str) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(table))
    with pytest.raises(DataError, match=message):
        read_cifar_pickled([path], 1)


def test_truncated_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    whole = pickle.dumps({"data": PIXEL_ROWS, "labels": [1, 2, 3]})
    for kept in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match="data_batch_1: not a pickled CIFAR batch"):
            read_cifar_pickled([path], 1)


def test_cifar_arguments_are_checked() -> None:
    with pytest.raises(DataError, match="label_bytes is 3, expected 1"):
        read_cifar_binary([], 3)
    with pytest.raises(DataError, match="no CIFAR batch files"):
        read_cifar_binary([], 1)
