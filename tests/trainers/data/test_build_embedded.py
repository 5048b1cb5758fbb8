import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from trainers.data import build_embedded
from trainers.data.build_embedded import main, select_rows
from trainers.data.catalog import EMBEDDED_DIGESTS, EMBEDDED_FILE
from trainers.data.parquet import read_parquet
from trainers.data.readers import read_idx

ORIGINAL = Path("/usr/share/datasets/fashion-mnist")


def write_original(folder: Path, per_class: int) -> None:
    """IDX files named as the originals, with `per_class` random images of each class."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    for prefix in ("train", "t10k"):
        pixels = generator.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        images = struct.pack(">4I", 2051, *pixels.shape) + pixels.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
        packed = gzip.compress(struct.pack(">2I", 2049, len(labels)) + labels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(packed)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(build_embedded, "_SPLITS", (("train", "train", 4), ("test", "t10k", 2)))
    write_original(tmp_path, per_class=6)
    return tmp_path


def test_selection_is_stratified_balanced_and_fixed() -> None:
    labels = torch.arange(60) % 3
    rows = select_rows(labels, split="train", per_class=5)
    assert rows == select_rows(labels, split="train", per_class=5)
    assert len(set(rows)) == 15
    assert all(sorted(turn) == [0, 1, 2] for turn in labels[rows].reshape(5, 3).tolist())
    assert rows != select_rows(labels, split="test", per_class=5)
    assert rows[:6] == select_rows(labels, split="train", per_class=2)


def test_building_twice_gives_the_same_file(small: Path) -> None:
    outputs = [small / "one.parquet", small / "two.parquet"]
    for output in outputs:
        main(["--source", str(small), "--output", str(output)])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_built_rows_are_the_originals_they_name(small: Path) -> None:
    output = small / "built.parquet"
    main(["--source", str(small), "--output", str(output)])
    paths = [row["path"] for row in pq.read_table(output)["image"].to_pylist()]
    for split, prefix, count in (("train", "train", 40), ("test", "t10k", 20)):
        built = read_parquet([output], split)
        original = read_idx(
            small / f"{prefix}-images-idx3-ubyte.gz", small / f"{prefix}-labels-idx1-ubyte.gz"
        )
        rows = [int(path[-9:-4]) for path in paths if path.startswith(split)]
        assert len(built) == len(rows) == count
        assert torch.equal(built.images, original.images[rows])
        assert torch.equal(built.labels, original.labels[rows])


def test_embedded_file_has_the_hugging_face_image_schema() -> None:
    schema = pq.read_schema(EMBEDDED_FILE)
    assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert str(schema.field("label").type) == "int64"
    assert str(schema.field("split").type).startswith("dictionary<values=string")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert len(features["label"]["names"]) == 10
    assert EMBEDDED_FILE.stat().st_size < 5_000_000


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason="Debian's dataset-fashion-mnist not installed")
def test_rebuilding_from_the_originals_gives_the_documented_pixels(tmp_path: Path) -> None:
    output = tmp_path / "rebuilt.parquet"
    main(["--output", str(output)])
    for split, digest in EMBEDDED_DIGESTS.items():
        assert read_parquet([output], split).digest == digest
