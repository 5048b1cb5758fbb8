"""Tiny encoded images and Parquet files of them."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
"""Three grey images of 5 x 4 pixels."""
COLOURS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
"""Two coloured images of 5 x 4 pixels."""


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """The image as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, *, rows_per_group: int | None = None, **columns: Any) -> Path:
    """Writes a Parquet file of these columns."""
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path
