import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hwmodel.errors import DataError
from tests.trainers.data.images import COLOURS, PIXELS, png, write_parquet
from trainers.data.parquet import parquet_rows, read_parquet, row_groups


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
        ({"image": [png(PIXELS[0])], "label": [-1]}, "row 0: label -1, expected 0 or more"),
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


def test_label_beyond_the_named_classes_is_named_with_file_and_row(tmp_path: Path) -> None:
    paths = [
        write_parquet(tmp_path / "a.parquet", image=[png(PIXELS[0])] * 2, label=[0, 1]),
        write_parquet(tmp_path / "b.parquet", image=[png(PIXELS[0])] * 2, label=[1, 2]),
    ]
    assert read_parquet(paths).classes == 3
    with pytest.raises(DataError, match=r"b\.parquet row 1: label 2, expected 0\.\.1"):
        read_parquet(paths, classes=2)


def test_corrupt_image_is_named_with_file_and_row(tmp_path: Path) -> None:
    paths = [
        write_parquet(tmp_path / "a.parquet", image=[png(PIXELS[0])] * 300, label=[0] * 300),
        write_parquet(
            tmp_path / "b.parquet", image=[*[png(PIXELS[0])] * 280, b"\xff\xd8"], label=[0] * 281
        ),
    ]
    with pytest.raises(DataError, match=r"b\.parquet row 280: not a readable image"):
        read_parquet(paths)


def test_images_of_any_size_are_scaled_where_asked(tmp_path: Path) -> None:
    images = [png(np.full(shape, 7, np.uint8)) for shape in ((4, 4), (9, 5), (6, 30))]
    path = write_parquet(tmp_path / "set.parquet", image=images, label=[0, 1, 0])
    found = read_parquet([path], image_size=6)
    assert found.shape == (1, 6, 6)
    assert bool((found.images == 7).all())


def test_scaling_keeps_the_centred_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    path = write_parquet(tmp_path / "set.parquet", image=[png(wide), png(wide.T)], label=[0, 0])
    assert bool((read_parquet([path], image_size=4).images == 200).all())


def test_row_groups_cover_the_rows_of_their_split(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "set.parquet",
        rows_per_group=2,
        image=[png(PIXELS[row % 3]) for row in range(7)],
        label=[0, 1, 2, 3, 4, 5, 6],
        split=["a", "b", "b", "b", "a", "a", "b"],
    )
    groups = row_groups(path, "a", None)
    assert [(group.number, group.first, group.labels) for group in groups] == [
        (0, 0, [0]),
        (2, 4, [4, 5]),
    ]
    rows = [row for group in groups for row in parquet_rows(path, "a", group)]
    assert [(row.place, row.label) for row in rows] == [
        (f"{path} row 0", 0),
        (f"{path} row 4", 4),
        (f"{path} row 5", 5),
    ]
