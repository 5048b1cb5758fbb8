"""Images in Parquet files, in the Hugging Face image schema.

A column `image` or `img` holds the encoded image, as bytes or as a struct with a field `bytes`; a
column `label` (or `fine_label`) its class; a column `split`, if there is one, its split.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet
from trainers.data.encoded import EncodedImage, check_label, decode_images
from trainers.data.readers import image_set

__all__ = ["RowGroup", "named_classes", "parquet_rows", "read_parquet", "row_groups"]

_ROWS_AT_ONCE = 256
"""Encoded images of one file in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """A part of a file that can be read by itself."""

    path: Path
    split: str | None
    """Value of the column `split` of the rows that count (None: all rows)."""
    number: int
    """Of the row group in the file."""
    first: int
    """Its first row in the file."""
    labels: Sequence[int]
    """Of the rows that count."""

    def rows(self) -> Iterator[EncodedImage]:
        """The rows that count, a few in memory at a time.

        Raises:
            DataError: if the file cannot be read.
        """
        return parquet_rows(self.path, self.split, self)


def read_parquet(
    paths: Sequence[Path],
    split: str | None = None,
    *,
    classes: int | None = None,
    image_size: int | None = None,
) -> ImageSet:
    """The images of Parquet files.

    Args:
        paths: files of one set, in order.
        split: keeps the rows whose column `split` says so; by default all rows.
        classes: number of classes; by default as many as the schema names, or else the highest
            label + 1.
        image_size: side that the images are scaled to (None: as stored, all of one size).

    Raises:
        DataError: if a file or column is missing, no row is left, a label is none of the classes,
            or an image is corrupt or of another size than the first.
    """
    if not paths:
        raise DataError("no Parquet files given, expected at least one")
    rows = (row for path in paths for row in parquet_rows(path, split))
    name = str(paths[0])
    where = "" if split is None else f" whose split is {split!r}"
    classes = named_classes(paths[0]) if classes is None else classes
    images, labels = decode_images(
        rows,
        count=sum(_count(path, split) for path in paths),
        empty=f"{name}: no rows{where}, expected at least one",
        classes=classes,
        image_size=image_size,
    )
    return image_set(name, images, labels, classes)


def parquet_rows(
    path: Path, split: str | None, group: RowGroup | None = None
) -> Iterator[EncodedImage]:
    """The encoded images of one file, or of one of its row groups, a few in memory at a time.

    Raises:
        DataError: if the file cannot be read or a column is missing.
    """
    with _opened(path) as file:
        columns = _columns(path, file.schema_arrow, split)
        start = 0 if group is None else group.first
        groups = None if group is None else [group.number]
        for batch in file.iter_batches(
            batch_size=_ROWS_AT_ONCE, row_groups=groups, columns=columns
        ):
            values = [batch.column(name).to_pylist() for name in columns]
            for offset, (image, label, *splits) in enumerate(zip(*values, strict=True)):
                if not splits or splits[0] == split:
                    content = image.get("bytes") if isinstance(image, dict) else image
                    yield EncodedImage(f"{path} row {start + offset}", content, label)
            start += batch.num_rows


def row_groups(path: Path, split: str | None, classes: int | None) -> list[RowGroup]:
    """The row groups of one file that hold rows of a split, with these rows' labels.

    Raises:
        DataError: if the file cannot be read, a column is missing, or a label is missing or none
            of the classes.
    """
    found = []
    with _opened(path) as file:
        columns = _columns(path, file.schema_arrow, split)[1:]
        first = 0
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=columns)
            values = [table.column(name).to_pylist() for name in columns]
            labels = [
                check_label(f"{path} row {first + offset}", label, classes)
                for offset, (label, *splits) in enumerate(zip(*values, strict=True))
                if not splits or splits[0] == split
            ]
            if labels:
                found.append(
                    RowGroup(path=path, split=split, number=number, first=first, labels=labels)
                )
            first += table.num_rows
    return found


def named_classes(path: Path) -> int | None:
    """Number of classes that the Hugging Face metadata of a Parquet file names, if any.

    Raises:
        DataError: if the file cannot be read.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        label = features["label" if "label" in schema.names else "fine_label"]
        return len(label["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _count(path: Path, split: str | None) -> int:
    """How many rows of a file are of a split."""
    with _opened(path) as file:
        if split is None or "split" not in file.schema_arrow.names:
            return int(file.metadata.num_rows)
        splits: list[str] = file.read(columns=["split"]).column(0).to_pylist()
    return splits.count(split)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; what Arrow cannot read of it becomes an error that names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _columns(path: Path, schema: Any, split: str | None) -> list[str]:
    """The names of the image, the label and, if asked for, the split column."""
    import pyarrow.types as kinds

    choices = [("image", "img"), ("label", "fine_label"), ("split",)]
    columns = []
    for names in choices if split is not None else choices[:2]:
        present = [name for name in names if name in schema.names]
        if not present:
            wanted = " or ".join(f"'{name}'" for name in names)
            raise DataError(f"{path}: columns {schema.names}, expected one named {wanted}")
        columns.append(present[0])
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
