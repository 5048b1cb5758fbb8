"""Whatever takes long is tracked, and counts as many as it announced."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.data.images import PIXELS, png, write_parquet
from tests.trainers.toys import CLASSES, SHAPE, toy_images, toy_tinyadc
from trainers.checkpoint import save_checkpoint
from trainers.config import NetworkConfig
from trainers.data.encoded import read_image_folder
from trainers.data.parquet import read_parquet
from trainers.export import export_folder
from trainers.finalise import finalise
from trainers.networks import build_network
from trainers.progress import watched_by
from trainers.tracing import layer_shapes
from trainers.verify import slices_of_folder, verify_folder


class Seen(dict[str, tuple[int, int]]):
    """How many of each work were announced, and how many came."""

    def watch(self, items: Iterable[Any], what: str, count: int) -> Iterator[Any]:
        came = 0
        for item in items:
            yield item
            came += 1
        self[what] = (count, came)


@pytest.fixture
def seen() -> Iterator[Seen]:
    found = Seen()
    with watched_by(found.watch):
        yield found
    assert all(announced == came for announced, came in found.values()), found


def test_projection_export_and_proof_are_tracked(seen: Seen, tmp_path: Path) -> None:
    images, config = toy_images(24), NetworkConfig(name="mlp")
    network = build_network(config, SHAPE, CLASSES)
    dense = build_network(config, SHAPE, CLASSES)
    method = toy_tinyadc(network)
    method.attach(network, epochs=0, steps_per_epoch=1)
    shapes = layer_shapes(network, SHAPE)
    integer = finalise(network, method, shapes, images, dense=dense)
    assert {"projection, layers", "reconstruction, layers", "certificates, layers"} == set(seen)
    seen.clear()
    save_checkpoint(
        tmp_path / "saved", integer, config, input_shape=SHAPE, classes=CLASSES, facts={}
    )
    export_folder(tmp_path / "saved", tmp_path / "out", images)
    assert seen["export of graphs, steps"] == (3, 3)
    seen.clear()
    verify_folder(tmp_path / "out")
    slices_of_folder(tmp_path / "out")
    assert {
        "certificates, layers",
        "measuring accuracy, batches",
        "simulation, batches",
        "bit slices, layers",
    } == set(seen)


def test_decoding_is_tracked(seen: Seen, tmp_path: Path) -> None:
    rows = [png(pixels) for pixels in PIXELS]
    path = write_parquet(
        tmp_path / "set.parquet", image=rows, label=[0, 1, 0], split=["a", "b", "a"]
    )
    read_parquet([path], "a")
    assert seen["decoding, images"] == (2, 2)
    read_parquet([path, path])
    assert seen["decoding, images"] == (6, 6)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").write_bytes(rows[0])
    read_image_folder(tmp_path / "train")
    assert seen["decoding, images"] == (2, 2)
