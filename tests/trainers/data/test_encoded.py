from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.errors import DataError
from tests.trainers.data.images import COLOURS, PIXELS, png
from trainers.data.encoded import EncodedImage, image_folder_files, is_grey, read_image_folder


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


def test_image_of_another_size_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.png", PIXELS[0])
    write_image(tmp_path / "dog" / "b.png", PIXELS[0, :3])
    message = r"b\.png: 5 x 3 pixels, expected 5 x 4 .*data\.image_size scales"
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path)
    assert read_image_folder(tmp_path, image_size=3).shape == (1, 3, 3)


def test_grey_is_told_from_the_header() -> None:
    assert is_grey(EncodedImage("a", png(PIXELS[0])[:60], 0))
    assert not is_grey(EncodedImage("a", png(COLOURS[0])[:60], 0))
    with pytest.raises(DataError, match="a: not a readable image"):
        is_grey(EncodedImage("a", b"GIF", 0))
