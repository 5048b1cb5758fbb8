import gzip
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
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
from trainers.data import catalog
from trainers.data.catalog import (
    EMBEDDED_DIGESTS,
    EMBEDDED_FILE,
    DataConfig,
    dataset_names,
    load_dataset,
)
from trainers.data.dataset import Dataset, ImageSet
from trainers.data.stream import StreamedImages


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def embedded(cache: str) -> Dataset:
    return load_dataset(DataConfig(cache=cache))


def png(shape: tuple[int, ...] = (4, 4), value: int = 0) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, labels: list[int], **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(value=label), "path": None} for label in labels]
    pq.write_table(pa.table({"image": rows, "label": labels, **columns}), path)


def write_mnist(folder: Path, joint: str = "-", packed: bool = True) -> None:
    for prefix, count in (("train", 4), ("t10k", 2)):
        labels = bytes(range(count))
        contents = {
            f"images{joint}idx3": struct.pack(">4I", 2051, count, 2, 2) + bytes(4 * count),
            f"labels{joint}idx1": struct.pack(">2I", 2049, count) + labels,
        }
        for name, content in contents.items():
            path = folder / f"{prefix}-{name}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


def write_cifar(folder: Path, names: list[str], label_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(names):
        (folder / name).write_bytes(bytes([value] * (label_bytes + 3072)))


def test_embedded_set_has_its_documented_size(embedded: Dataset) -> None:
    assert embedded.name == "fashion-mnist-12k"
    assert embedded.input_shape == (1, 28, 28)
    assert embedded.classes == 10
    assert (len(embedded.train), len(embedded.test)) == (10_000, 2_000)


def test_embedded_set_has_its_documented_pixels(embedded: Dataset) -> None:
    assert embedded.train.digest == EMBEDDED_DIGESTS["train"]
    assert embedded.test.digest == EMBEDDED_DIGESTS["test"]


def test_embedded_set_is_stratified(embedded: Dataset) -> None:
    assert embedded.train.labels.bincount().tolist() == [1_000] * 10
    assert embedded.test.labels.bincount().tolist() == [200] * 10


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_prefix_of_the_embedded_set_is_balanced(embedded: Dataset, split: str) -> None:
    images = getattr(embedded, split)
    counts = torch.nn.functional.one_hot(images.labels, 10).cumsum(0)
    assert int((counts.amax(1) - counts.amin(1)).max()) == 1


def test_embedded_order_within_a_turn_is_shuffled(embedded: Dataset) -> None:
    turns = embedded.train.labels.reshape(-1, 10)
    assert len({tuple(turn) for turn in turns.tolist()}) > 900


def test_embedded_set_that_was_altered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMBEDDED_DIGESTS, "test", "0" * 64)
    with pytest.raises(DataError, match=r"split test has SHA-256 .* expected 0000"):
        load_dataset(DataConfig(cache=str(tmp_path)))


def test_embedded_set_has_its_licence_beside_it() -> None:
    assert "Zalando SE" in EMBEDDED_FILE.with_name("LICENSE.fashion-mnist").read_text()


def test_counts_take_a_prefix_without_a_copy(cache: str, embedded: Dataset) -> None:
    part = load_dataset(DataConfig(cache=cache, train_count=100, test_count=30))
    assert (len(part.train), len(part.test)) == (100, 30)
    assert torch.equal(part.train.images, embedded.train.images[:100])
    assert part.test.labels.bincount().tolist() == [3] * 10


def test_classes_of_a_streamed_set_are_refused() -> None:
    with pytest.raises(DataError, match=r"classes is \[1, 2\], expected none with streaming"):
        DataConfig(classes=(1, 2), streaming=True)


def test_classes_are_chosen_before_images_are_counted(cache: str) -> None:
    part = load_dataset(DataConfig(cache=cache, classes=(7, 3), train_count=2000))
    assert part.classes == 2
    assert part.train.labels.bincount().tolist() == [1000, 1000]
    assert len(part.test) == 400


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_count": 10_001}, "train_count is 10001, but .*/train allows at most 10000"),
        ({"test_count": 2_001}, "test_count is 2001, but .*/test allows at most 2000"),
    ],
)
def test_counts_beyond_the_set_are_refused(
    cache: str, config: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(cache=cache, **config))  # type: ignore[arg-type]


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(DataError, match="train_count is 0, expected at least 1"):
        DataConfig(train_count=0)
    with pytest.raises(DataError, match="test_count is -1, expected at least 1"):
        DataConfig(test_count=-1)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'mnits', expected one of cifar10, .*, mnist, parquet"):
        load_dataset(DataConfig(name="mnits"))
    assert list(dataset_names()) == sorted(dataset_names())
    assert DataConfig().name in dataset_names()


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mnist: no path given"):
        load_dataset(DataConfig(name="mnist"))
    with pytest.raises(DataError, match="mnist: /absent does not exist"):
        load_dataset(DataConfig(name="mnist", path="/absent"))
    with pytest.raises(DataError, match=r"fashion-mnist-12k: path is '/tmp', but .* built in"):
        load_dataset(DataConfig(path="/tmp"))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize(("joint", "packed"), [("-", True), (".", False)])
def test_idx_sets_are_found(tmp_path: Path, name: str, joint: str, packed: bool) -> None:
    write_mnist(tmp_path, joint, packed)
    dataset = load_dataset(DataConfig(name=name, path=str(tmp_path), cache=str(tmp_path)))
    assert dataset.classes == 10
    assert dataset.train.name == f"{name}/train"
    assert (len(dataset.train), len(dataset.test)) == (4, 2)


def test_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte there, expected one of"):
        load_dataset(DataConfig(name="mnist", path=str(tmp_path)))


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10_binary_is_found(tmp_path: Path, folder: str) -> None:
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    write_cifar(tmp_path / folder, [*names, "test_batch.bin"], 1)
    dataset = load_dataset(DataConfig(name="cifar10", path=str(tmp_path), cache=str(tmp_path)))
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert dataset.test.labels.tolist() == [5]


def test_cifar100_binary_is_found(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], 2)
    dataset = load_dataset(DataConfig(name="cifar100", path=str(tmp_path), cache=str(tmp_path)))
    assert dataset.classes == 100
    assert dataset.input_shape == (3, 32, 32)


@pytest.mark.parametrize("folder", ["", "data"])
def test_cifar_parquet_shards_are_read_in_order(tmp_path: Path, folder: str) -> None:
    write_parquet(tmp_path / folder / "train-00001-of-00002.parquet", [2])
    write_parquet(tmp_path / folder / "train-00000-of-00002.parquet", [0, 1])
    write_parquet(tmp_path / folder / "test-00000-of-00001.parquet", [3])
    dataset = load_dataset(DataConfig(name="cifar10", path=str(tmp_path), cache=str(tmp_path)))
    assert dataset.train.labels.tolist() == [0, 1, 2]
    assert dataset.classes == 4


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-py"])
def test_cifar10_pickles_are_found(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for value, name in enumerate(names):
        table = {"data": np.full((2, 3072), value, np.uint8), "labels": [value, 9]}
        (place / name).write_bytes(pickle.dumps(table, 2))
    dataset = load_dataset(DataConfig(name="cifar10", path=str(tmp_path), cache=str(tmp_path)))
    assert sorted(dataset.train.subset(10).labels.tolist()) == [0, 1, 2, 3, 4, 9, 9, 9, 9, 9]
    assert len(dataset.test) == 2


def test_cifar100_pickles_are_found(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test"):
        table = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [99], "coarse_labels": [3]}
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(table))
    dataset = load_dataset(DataConfig(name="cifar100", path=str(tmp_path), cache=str(tmp_path)))
    assert dataset.classes == 100
    assert dataset.train.subset(1).labels.tolist() == [99]


def test_absent_cifar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CIFAR files there, expected train-\*\.parquet"):
        load_dataset(DataConfig(name="cifar100", path=str(tmp_path)))


@pytest.mark.parametrize("path", ["", "set.parquet"])
def test_parquet_with_a_split_column_is_read(tmp_path: Path, path: str) -> None:
    write_parquet(tmp_path / "set.parquet", [0, 1, 2], split=["train", "test", "train"])
    config = DataConfig(name="parquet", path=str(tmp_path / path), cache=str(tmp_path))
    dataset = load_dataset(config)
    assert dataset.train.labels.tolist() == [0, 2]
    assert dataset.classes == 3


def test_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Parquet files there, expected train\*\.parquet"):
        load_dataset(DataConfig(name="parquet", path=str(tmp_path)))


def test_image_folders_are_read(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "one.png").write_bytes(png((4, 4, 3)))
    config = DataConfig(name="image-folder", path=str(tmp_path), cache=str(tmp_path / "cache"))
    dataset = load_dataset(config)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1]
    streamed = load_dataset(replace(config, streaming=True, image_size=3))
    assert isinstance(streamed.test, StreamedImages)
    assert streamed.input_shape == (3, 3, 3)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "eel")
    with pytest.raises(DataError, match="classes in only one of train and test: dog, eel"):
        load_dataset(config)


def test_scaled_images_do_not_share_a_cache_file_with_others(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [0, 1])
    config = DataConfig(name="parquet", path=str(tmp_path), cache=str(tmp_path / "cache"))
    assert load_dataset(config).input_shape == (1, 4, 4)
    assert load_dataset(replace(config, image_size=7)).input_shape == (1, 7, 7)
    assert load_dataset(config).input_shape == (1, 4, 4)


def test_sets_of_plain_pixels_are_neither_scaled_nor_streamed(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    config = DataConfig(name="mnist", path=str(tmp_path), cache=str(tmp_path))
    with pytest.raises(DataError, match="mnist: image_size is 7, but its files hold plain pixels"):
        load_dataset(replace(config, image_size=7))
    with pytest.raises(DataError, match="mnist: streaming is true, but its files hold plain"):
        load_dataset(replace(config, streaming=True))
    with pytest.raises(DataError, match="image_size is 0, expected at least 1"):
        DataConfig(image_size=0)
    with pytest.raises(DataError, match="shuffle_buffer is 0, expected at least 1"):
        DataConfig(shuffle_buffer=0)


def test_streamed_set_is_the_one_in_memory(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1])
    write_parquet(tmp_path / "train-1.parquet", [1, 0, 0])
    write_parquet(tmp_path / "test-0.parquet", [2])
    config = DataConfig(name="cifar10", path=str(tmp_path), cache=str(tmp_path / "cache"))
    memory, streamed = load_dataset(config), load_dataset(replace(config, streaming=True))
    assert isinstance(streamed.train, StreamedImages)
    assert streamed.classes == memory.classes == 3
    assert streamed.input_shape == memory.input_shape
    for one, other in ((memory.train, streamed.train), (memory.test, streamed.test)):
        assert one.name == other.name
        assert one.subset(len(one)).digest == other.subset(len(other)).digest


def test_count_takes_images_of_a_streamed_set_into_memory(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [0, 0, 1, 1])
    config = DataConfig(name="parquet", path=str(tmp_path), streaming=True, train_count=2)
    dataset = load_dataset(config)
    assert dataset.train.subset(2).labels.tolist() == [0, 1]
    assert isinstance(dataset.train, ImageSet)
    assert isinstance(dataset.test, StreamedImages)
    with pytest.raises(DataError, match="test_count is 5, but parquet/test allows at most 4"):
        load_dataset(replace(config, test_count=5))


def test_importing_the_package_imports_no_decoder() -> None:
    code = "import sys, trainers.data; print({'pyarrow', 'PIL'} & set(sys.modules))"
    root = Path(catalog.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "set()", run.stderr
