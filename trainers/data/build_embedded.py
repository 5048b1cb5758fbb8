"""Rebuilds the embedded data set from the original Fashion-MNIST files.

    python -m trainers.data.build_embedded --source DIR --output FILE

Selection: in each original file, the rows of a class are ranked by the SHA-256 of
"SEED/split/choice/row"; the first 1,000 (train) or 200 (t10k, our test) of each class are taken.
Order: the first row of each class, then the second of each, and so on, the ten of a turn ordered
by the SHA-256 of "SEED/split/turn/row": any prefix is balanced to within one image per class. A
hash, not a random generator, because its results stay the same over all versions of everything.

The PNGs are stored, not deflated: zstd over a whole column of them is smaller (4.7 against 5.4 MB)
and they decode faster.

Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747; MIT licence, Copyright 2017
Zalando SE, see LICENSE.fashion-mnist beside this file.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from trainers.data.catalog import EMBEDDED_FILE
from trainers.data.dataset import ImageSet
from trainers.data.readers import read_idx

__all__ = ["build", "main", "select_rows"]

_SEED = "crossfront fashion-mnist-12k"
_DEFAULT_SOURCE = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
_SPLITS = (("train", "train", 1_000), ("test", "t10k", 200))
"""Our split, the original file's prefix, images per class."""
_CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": list(_CLASS_NAMES), "_type": "ClassLabel"},
    "split": {"dtype": "string", "_type": "Value"},
}


def select_rows(labels: torch.Tensor, *, split: str, per_class: int) -> list[int]:
    """The row numbers to take from a file, in the order to store them.

    Args:
        labels: int64 `[count]`.
        split: part of the hashed text, so that the two files are ranked independently.
        per_class: rows to take of each class.
    """

    def ranked(rows: Iterable[int], purpose: str) -> list[int]:
        return sorted(
            rows,
            key=lambda row: hashlib.sha256(f"{_SEED}/{split}/{purpose}/{row}".encode()).digest(),
        )

    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels.tolist()):
        rows_of[label].append(row)
    chosen = [ranked(rows, "choice")[:per_class] for rows in rows_of.values()]
    # A second hash: by the first, the classes would stay in nearly one order over many turns.
    return [row for turn in zip(*chosen, strict=True) for row in ranked(turn, "turn")]


def build(source: Path, output: Path) -> None:
    """Writes the embedded data set to `output` from the four IDX files (gzip) in `source`.

    Raises:
        DataError: if a source file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for split, prefix, per_class in _SPLITS:
        original = read_idx(
            source / f"{prefix}-images-idx3-ubyte.gz",
            source / f"{prefix}-labels-idx1-ubyte.gz",
            classes=len(_CLASS_NAMES),
        )
        for row in select_rows(original.labels, split=split, per_class=per_class):
            rows.append(_record(original, row, split))
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("split", pa.dictionary(pa.int32(), pa.string())),
        ],
        # Tools of the Hugging Face hub read the class names from here, and so does read_parquet.
        metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(
        table, output, compression="zstd", compression_level=19, use_dictionary=["split"]
    )


def _record(original: ImageSet, row: int, split: str) -> dict[str, Any]:
    """One row of the table; the path says where in the original file the image was."""
    from PIL import Image

    png = BytesIO()
    Image.fromarray(original.images[row, 0].numpy()).save(png, "PNG", compress_level=0)
    return {
        "image": {"bytes": png.getvalue(), "path": f"{split}/{row:05d}.png"},
        "label": int(original.labels[row]),
        "split": split,
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(prog="python -m trainers.data.build_embedded")
    parser.add_argument("--source", type=Path, default=_DEFAULT_SOURCE)
    parser.add_argument("--output", type=Path, default=EMBEDDED_FILE)
    options = parser.parse_args(arguments)
    build(options.source, options.output)


if __name__ == "__main__":
    main()
