import gc
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwmodel.errors import DataError
from tests.trainers.data.images import COLOURS, PIXELS, png, write_parquet
from tests.trainers.toys import finalised, toy_targets
from trainers.config import NetworkConfig, TrainConfig
from trainers.data import parquet, stream
from trainers.data.encoded import read_image_folder
from trainers.data.parquet import read_parquet
from trainers.data.stream import StreamedImages, stream_folder, stream_parquet
from trainers.fit import accuracy, fit
from trainers.method import Method
from trainers.networks import build_network

COUNT = 60
"""Images of the set: the pixels of image `i` hold `4 * i`, its label is `i % 3`."""
BUFFER = 8


def shards_of(folder: Path) -> list[Path]:
    """Three files of 20 rows in groups of 7."""
    paths = []
    for first in (0, 20, 40):
        rows = range(first, first + 20)
        images = [png(np.full((4, 4), 4 * row, np.uint8)) for row in rows]
        path = folder / f"train-{first:02}.parquet"
        labels = [row % 3 for row in rows]
        paths.append(write_parquet(path, rows_per_group=7, image=images, label=labels))
    return paths


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return shards_of(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def images(shards: list[Path]) -> StreamedImages:
    return stream_parquet(shards, buffer=BUFFER)


def order_of(images: StreamedImages, epoch: int, batch_size: int = 10, **options: Any) -> list[int]:
    """The images of an epoch by number, each held against its label."""
    batches = images.batches(batch_size, **{"seed": 0, "device": "cpu", **options})
    found = []
    for pixels, labels in batches.epoch(epoch):
        assert pixels.dtype == torch.float32
        assert labels.dtype == torch.int64
        numbers = (pixels[:, 0, 0, 0] * 255 / 4).round().long()
        assert torch.equal(numbers % 3, labels)
        found += numbers.tolist()
    return found


def test_stream_knows_its_set_without_its_pixels(images: StreamedImages) -> None:
    assert len(images) == COUNT
    assert images.classes == 3
    assert images.shape == (1, 4, 4)


def test_every_image_comes_once_an_epoch(images: StreamedImages) -> None:
    for epoch in range(3):
        assert sorted(order_of(images, epoch)) == list(range(COUNT))


def test_order_depends_on_seed_and_epoch_alone(images: StreamedImages) -> None:
    torch.manual_seed(1)
    first = order_of(images, 2)
    torch.manual_seed(2)
    assert first == order_of(images, 2, batch_size=15)
    assert first != order_of(images, 3)
    assert first != order_of(images, 2, seed=1)


def test_images_mix_across_files(images: StreamedImages) -> None:
    orders = [order_of(images, epoch) for epoch in range(10)]
    assert len({order[0] // 20 for order in orders}) == 3
    runs = [sum(b - a == 1 for a, b in pairwise(o)) for o in orders]
    assert max(runs) < COUNT // 4


def test_evaluation_keeps_the_order_and_the_last_batch(images: StreamedImages) -> None:
    batches = images.batches(25, seed=0, device="cpu", shuffle=False)
    assert len(batches) == 3
    assert [len(labels) for _, labels in batches.epoch(0)] == [25, 25, 10]
    assert order_of(images, 0, batch_size=25, shuffle=False) == list(range(COUNT))


def test_training_leaves_out_the_partial_batch_but_not_always_the_same_images(
    images: StreamedImages,
) -> None:
    batches = images.batches(25, seed=0, device="cpu")
    assert len(batches) == 2
    orders = [order_of(images, epoch, batch_size=25) for epoch in range(20)]
    assert {len(set(order)) for order in orders} == {50}
    assert set().union(*orders) == set(range(COUNT))


@pytest.mark.parametrize("shuffle", [True, False])
def test_memory_holds_a_buffer_of_encoded_and_two_batches_of_decoded_images(
    images: StreamedImages, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    counts = {"read": 0, "decoded": 0}
    waiting: list[int] = []
    read, decode = parquet.parquet_rows, stream.decode_image

    def counting_rows(*arguments: Any) -> Iterator[Any]:
        for row in read(*arguments):
            counts["read"] += 1
            waiting.append(counts["read"] - counts["decoded"])
            yield row

    def counting_decode(row: Any, **options: Any) -> Any:
        counts["decoded"] += 1
        return decode(row, **options)

    monkeypatch.setattr(parquet, "parquet_rows", counting_rows)
    monkeypatch.setattr(stream, "decode_image", counting_decode)
    batches = images.batches(4, seed=0, device="cpu", shuffle=shuffle)
    for number, _ in enumerate(batches.epoch(0)):
        # The batch in hand and the one that is decoded ahead of it.
        assert counts["decoded"] <= 4 * (number + 2)
    assert counts == {"read": COUNT, "decoded": COUNT}
    assert max(waiting) <= (BUFFER if shuffle else 0) + 4 + 1


def test_decoding_happens_in_one_background_thread(
    images: StreamedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    decode = stream.decode_image

    def noting(row: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return decode(row, **options)

    monkeypatch.setattr(stream, "decode_image", noting)
    order_of(images, 0)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_epoch_that_is_given_up_stops_its_thread(images: StreamedImages) -> None:
    epoch = images.batches(4, seed=0, device="cpu").epoch(0)
    next(epoch)
    assert any(thread.name.startswith("decode") for thread in threading.enumerate())
    del epoch
    gc.collect()
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.mark.parametrize("count", [1, 7, 31, COUNT])
def test_subset_is_the_one_of_the_set_in_memory(
    images: StreamedImages, shards: list[Path], count: int
) -> None:
    expected = read_parquet(shards).subset(count)
    assert images.subset(count).digest == expected.digest


def test_subset_beyond_the_set_is_refused(images: StreamedImages) -> None:
    for count in (0, COUNT + 1):
        with pytest.raises(DataError, match=rf"{count} images asked, allowed are 1\.\.{COUNT}"):
            images.subset(count)


def test_rows_of_other_splits_are_left_out(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "set.parquet",
        rows_per_group=2,
        image=[png(np.full((4, 4), 4 * row, np.uint8)) for row in range(6)],
        label=[0, 1, 2, 0, 1, 2],
        split=["train", "test", "test", "test", "train", "train"],
    )
    images = stream_parquet([path], "train", buffer=2)
    assert len(images) == 3
    assert sorted(order_of(images, 0, batch_size=3)) == [0, 4, 5]
    assert images.subset(3).digest == read_parquet([path], "train").subset(3).digest
    with pytest.raises(DataError, match="no rows whose split is 'valid'"):
        stream_parquet([path], "valid", buffer=2)


def test_images_of_any_size_are_scaled(tmp_path: Path) -> None:
    shapes = ((4, 4, 3), (9, 5, 3), (6, 30))
    path = write_parquet(
        tmp_path / "set.parquet",
        image=[png(np.full(shape, 7, np.uint8)) for shape in shapes],
        label=[0, 1, 0],
    )
    images = stream_parquet([path], image_size=6, buffer=2)
    assert images.shape == (3, 6, 6)
    (batch,) = images.batches(3, seed=0, device="cpu").epoch(0)
    assert torch.equal(batch[0], torch.full((3, 3, 6, 6), 7 / 255))


def folder_of(root: Path, count: int = 30) -> Path:
    """Class folders `0`, `1` and `2` of the first images."""
    for number in range(count):
        path = root / str(number % 3) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((4, 4), 4 * number, np.uint8)))
    return root


def test_image_folders_stream_and_mix_perfectly(tmp_path: Path) -> None:
    images = stream_folder(folder_of(tmp_path), buffer=2)
    assert (len(images), images.classes, images.shape) == (30, 3, (1, 4, 4))
    orders = [order_of(images, epoch) for epoch in range(20)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({order[0] for order in orders}) > 8
    assert orders[4] == order_of(images, 4, batch_size=15)
    assert images.subset(11).digest == read_image_folder(tmp_path).subset(11).digest


def test_bad_file_of_an_image_folder_is_named(tmp_path: Path) -> None:
    images = stream_folder(folder_of(tmp_path), buffer=2)
    (tmp_path / "1" / "04.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1/04\.png: not a readable image"):
        order_of(images, 0)
    (tmp_path / "1" / "04.png").unlink()
    with pytest.raises(DataError, match=r"1/04\.png: cannot be read: No such file"):
        order_of(images, 0)


def test_coloured_images_anywhere_make_a_coloured_set(tmp_path: Path) -> None:
    for number in range(600):
        path = tmp_path / "a" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(PIXELS[0] if number < 400 else COLOURS[0]))
    images = stream_folder(tmp_path, buffer=2)
    assert images.shape == (3, 4, 5)
    pixels = images.subset(1).images[0]
    assert torch.equal(pixels[0], pixels[2])


def test_digest_tells_files_and_sizes_apart(shards: list[Path], tmp_path: Path) -> None:
    def digest(paths: list[Path], image_size: int | None = None) -> str:
        return stream_parquet(paths, image_size=image_size, buffer=2).digest

    found = {digest(shards), digest(shards[:2]), digest(shards[::-1]), digest(shards, 5)}
    assert len(found) == 4
    assert digest(shards_of(tmp_path)) == digest(shards)


def test_fingerprint_tells_files_apart_and_opens_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(tmp_path)
    sets = [stream_parquet(s, buffer=2) for s in (shards, shards[:2], shards[::-1], shards)]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("reads a file")

    with monkeypatch.context() as shut:
        shut.setattr(Path, "open", refuse)
        found = [images.fingerprint for images in sets]
    assert found[0] == found[3]
    assert len(set(found)) == 3
    os.utime(shards[0], (1, 1))
    assert sets[0].fingerprint != found[0]
    shards[0].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        _ = sets[0].fingerprint


def test_fewer_images_than_a_batch_are_refused(images: StreamedImages) -> None:
    with pytest.raises(DataError, match=r"parquet: 60 images, expected at least one batch of 61"):
        images.batches(61, seed=0, device="cpu")
    with pytest.raises(DataError, match="batch size is 0"):
        images.batches(0, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", r"b\.parquet row 1: not a readable image"),
        (png(PIXELS[0])[:-30], r"b\.parquet row 1: not a readable image"),
        (None, r"b\.parquet row 1: no image bytes"),
        (png(PIXELS[0, :3]), r"b\.parquet row 1: 5 x 3 pixels, expected 5 x 4"),
        (png(COLOURS[0]), r"b\.parquet row 1: a coloured image, expected grey"),
    ],
)
def test_bad_image_ends_the_epoch_with_its_file_and_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: bytes | None,
    message: str,
) -> None:
    monkeypatch.setattr(stream, "_PEEKED", 1)
    good = png(PIXELS[0])
    paths = [
        write_parquet(tmp_path / "a.parquet", image=[good, good], label=[0, 0]),
        write_parquet(tmp_path / "b.parquet", image=[good, image], label=[0, 0]),
    ]
    images = stream_parquet(paths, buffer=2)
    with pytest.raises(DataError, match=message):
        list(images.batches(2, seed=0, device="cpu").epoch(0))
    with pytest.raises(DataError, match=message):
        images.subset(4)


@pytest.mark.parametrize(
    ("label", "message"),
    [(-1, r"b\.parquet row 1: label -1, expected 0 or more"), (None, "row 1: no label")],
)
def test_bad_label_is_found_before_anything_is_decoded(
    tmp_path: Path, label: int | None, message: str
) -> None:
    good = png(PIXELS[0])
    write_parquet(tmp_path / "a.parquet", image=[good], label=[0])
    write_parquet(tmp_path / "b.parquet", image=[good, good], label=[0, label])
    with pytest.raises(DataError, match=message):
        stream_parquet([tmp_path / "a.parquet", tmp_path / "b.parquet"], buffer=2)


def test_files_that_are_no_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet files given"):
        stream_parquet([], buffer=2)
    with pytest.raises(DataError, match=r"set\.parquet: cannot be read as Parquet"):
        stream_parquet([tmp_path / "set.parquet"], buffer=2)


def network() -> nn.Module:
    return build_network(NetworkConfig(name="mlp", arguments={"hidden": 6}), (1, 4, 4), 3)


def trained(images: StreamedImages, epochs: int, state_path: Path | None = None) -> nn.Module:
    found = network()
    fit(
        found,
        images,
        Method(toy_targets(found)),
        TrainConfig(batch_size=8, schedule="constant"),
        epochs=epochs,
        learning_rate=0.05,
        seed=3,
        state_path=state_path,
    )
    return found


def test_training_streams_and_repeats(images: StreamedImages) -> None:
    first, again = trained(images, 2), trained(images, 2)
    for one, other, fresh in zip(
        first.parameters(), again.parameters(), network().parameters(), strict=True
    ):
        assert torch.equal(one, other)
        assert not torch.equal(one, fresh)


def test_accuracy_streams_the_same_answer_as_memory_gives(
    images: StreamedImages, shards: list[Path]
) -> None:
    found = trained(images, 1)
    assert accuracy(found, images, batch_size=7) == accuracy(found, read_parquet(shards))
    integer = finalised(found, images.subset(20))
    assert accuracy(integer, images) == accuracy(integer, read_parquet(shards))
