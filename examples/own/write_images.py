"""Writes pictures in the layouts that need no code: `python write_images.py images`.

    images/parquet/train-0.parquet, test-0.parquet    columns `image` (PNG, JPEG, ...) and `label`
    images/folder/train/bar0/0000.png, ...            a folder for each class, and so in test/

`[data] name = "parquet"` or `"image-folder"`, and `path` the folder.
"""

import sys
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from my_data import Bars, bars
from PIL import Image

CLASSES = ("bar0", "bar1", "bar2", "bar3")
"""Folders by label: labels count the sorted names."""


def pngs(pictures: Bars) -> list[tuple[bytes, int]]:
    found = []
    for row in range(len(pictures)):
        picture, label = pictures[row]
        content = BytesIO()
        Image.fromarray((picture[0] * 255).round().byte().numpy()).save(content, "png")
        found.append((content.getvalue(), label))
    return found


def write(to: Path) -> None:
    (to / "parquet").mkdir(parents=True)
    for split, pictures in zip(("train", "test"), bars(), strict=True):
        rows = pngs(pictures)
        images, labels = zip(*rows, strict=True)
        table = pa.table({"image": images, "label": labels})
        pq.write_table(table, to / "parquet" / f"{split}-0.parquet")
        for row, (image, label) in enumerate(rows):
            folder = to / "folder" / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:04}.png").write_bytes(image)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
