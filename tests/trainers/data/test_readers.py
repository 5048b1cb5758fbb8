import gzip
import json
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hwmodel.errors import DataError
from trainers.data.readers import (
    image_folder_files,
    read_cifar_binary,
    read_idx,
    read_image_folder,
    read_parquet,
)

PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
COLOURS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def idx(values: np.ndarray[Any, Any], magic: int) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def write_idx(folder: Path, *, packed: bool = False) -> tuple[Path, Path]:
    pack = gzip.compress if packed else bytes
    images, labels = folder / "images", folder / "labels"
    images.write_bytes(pack(idx(PIXELS, 2051)))
    labels.write_bytes(pack(idx(np.array([2, 0, 1], dtype=np.uint8), 2049)))
    return images, labels


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


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


def test_pickled_cifar_batch_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(DataError, match=r"pickled batch.*binary version \(\*\.bin\) or Parquet"):
        read_cifar_binary([path], 1)


def test_cifar_arguments_are_checked() -> None:
    with pytest.raises(DataError, match="label_bytes is 3, expected 1"):
        read_cifar_binary([], 3)
    with pytest.raises(DataError, match="no CIFAR batch files"):
        read_cifar_binary([], 1)


def test_parquet_of_structs_gives_grey_images(tmp_path: Path) -> None:
    rows = [{"bytes": png(pixels), "path": None} for pixels in PIXELS]
    path = write_parquet(tmp_path / "set.parquet", image=rows, label=[0, 1, 0])
    images = read_parquet([path])
    assert images.images[:, 0].tolist() == PIXELS.tolist()
    assert images.labels.tolist() == [0, 1, 0]
    assert images.classes == 2


def test_parquet_of_bytes_gives_coloured_images(tmp_path: Path) -> None:
    paths = [
        write_parquet(tmp_path / f"{row}.parquet", img=[png(COLOURS[row])], fine_label=[row])
        for row in range(2)
    ]
    images = read_parquet(paths)
    assert images.images.permute(0, 2, 3, 1).tolist() == COLOURS.tolist()
    assert images.labels.tolist() == [0, 1]


def test_grey_image_among_coloured_ones_gets_three_channels(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "set.parquet", image=[png(PIXELS[0]), png(COLOURS[0])], label=[0, 1]
    )
    images = read_parquet([path])
    assert images.shape == (3, 4, 5)
    assert torch.equal(images.images[0, 0], images.images[0, 2])


def test_parquet_keeps_the_rows_of_its_split(tmp_path: Path) -> None:
    split = pa.array(["train", "test", "train"]).dictionary_encode()
    path = write_parquet(
        tmp_path / "set.parquet", image=[png(p) for p in PIXELS], label=[0, 1, 1], split=split
    )
    assert read_parquet([path], "train").labels.tolist() == [0, 1]
    assert len(read_parquet([path])) == 3
    with pytest.raises(DataError, match="no rows whose split is 'valid'"):
        read_parquet([path], "valid")


def test_parquet_classes_come_from_the_schema(tmp_path: Path) -> None:
    names = {"names": ["a", "b", "c"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": names}}})}
    table = pa.table({"image": [png(PIXELS[0])], "label": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "set.parquet")
    assert read_parquet([tmp_path / "set.parquet"]).classes == 3
    assert read_parquet([tmp_path / "set.parquet"], classes=7).classes == 7


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0]}, r"columns \['label'\], expected one named 'image' or 'img'"),
        ({"image": [b""]}, "expected one named 'label' or 'fine_label'"),
        ({"image": ["text"], "label": [0]}, "column 'image' is string, expected binary"),
        ({"image": [b""], "label": ["cat"]}, "column 'label' is string, expected integers"),
        ({"image": [png(PIXELS[0]), b"no"], "label": [0, 0]}, "row 1: not a readable image"),
        ({"image": [png(PIXELS[0])[:50]], "label": [0]}, "row 0: not a readable image"),
        (
            {"image": [png(PIXELS[0]), png(PIXELS[0, :3])], "label": [0, 0]},
            "row 1: 5 x 3 pixels, expected 5 x 4 as in the first row",
        ),
        ({"image": [png(PIXELS[0].astype(np.uint16))], "label": [0]}, "row 0: pixel mode 'I;16'"),
        ({"image": [png(PIXELS[0]), None], "label": [0, 0]}, "row 1: no image bytes"),
        ({"image": [png(PIXELS[0])], "label": pa.array([None], pa.int64())}, "row 0: no label"),
        ({"image": [png(PIXELS[0])], "label": [-1]}, r"label -1 in row 0, expected 0\.\.0"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no rows, exp"),
    ],
)
def test_unusable_parquet_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = write_parquet(tmp_path / "set.parquet", **columns)
    with pytest.raises(DataError, match=message):
        read_parquet([path])


def test_parquet_without_split_column_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set.parquet", image=[png(PIXELS[0])], label=[0])
    with pytest.raises(DataError, match="expected one named 'split'"):
        read_parquet([path], "train")


def test_files_that_are_no_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    with pytest.raises(DataError, match=r"set\.parquet: cannot be read as Parquet"):
        read_parquet([path])
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"set\.parquet: cannot be read as Parquet"):
        read_parquet([path])
    with pytest.raises(DataError, match="no Parquet files given"):
        read_parquet([])


def write_image(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(pixels))


def test_image_folder_labels_follow_the_sorted_names(tmp_path: Path) -> None:
    write_image(tmp_path / "dog" / "b.png", PIXELS[0])
    write_image(tmp_path / "dog" / "a.PNG", PIXELS[1])
    write_image(tmp_path / "cat" / "c.png", PIXELS[2])
    (tmp_path / "dog" / "notes.txt").write_text("passed over")
    (tmp_path / ".thumbnails").mkdir()
    images = read_image_folder(tmp_path)
    assert images.labels.tolist() == [0, 1, 1]
    assert images.images[:, 0].tolist() == PIXELS[[2, 1, 0]].tolist()
    assert [name for name, _ in image_folder_files(tmp_path)] == ["cat", "dog"]


def test_unusable_image_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        read_image_folder(tmp_path / "absent")
    with pytest.raises(DataError, match="no sub-folders"):
        read_image_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="cat: no images"):
        read_image_folder(tmp_path)
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png: not a readable image"):
        read_image_folder(tmp_path)
