"""The data sets that a configuration can name, and how each is found on disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hwmodel.errors import DataError
from trainers.data.cache import cache_folder, cached_dataset
from trainers.data.dataset import Dataset, ImageSet
from trainers.data.readers import (
    image_folder_files,
    read_cifar_binary,
    read_idx,
    read_image_folder,
    read_parquet,
)

__all__ = ["EMBEDDED_DIGESTS", "EMBEDDED_FILE", "DataConfig", "dataset_names", "load_dataset"]

EMBEDDED_FILE = Path(__file__).with_name("fashion_mnist_12k.parquet")
"""The embedded data set, built by `trainers.data.build_embedded`."""
EMBEDDED_DIGESTS = {
    "train": "e1298baa60a5d667acfd4658d5719848ec7a30ce487b07ad9134b2527dc6ae04",
    "test": "2e95b330c6fe9971c329291e6be9d39e472354184b0ef32b525e7d97cac4eb46",
}
"""`ImageSet.digest` of its splits: over decoded pixels, so that no PNG encoder matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which data set, and how much of it.

    Raises:
        DataError: if a count is below 1.
    """

    name: str = "fashion-mnist-12k"
    """One of `dataset_names()`."""
    path: str | None = None
    """File or folder of the set; the embedded set takes none."""
    train_count: int | None = None
    """Training images to use, balanced over the classes; None: all."""
    test_count: int | None = None
    """Test images to use, balanced over the classes; None: all."""
    classes: tuple[int, ...] | None = None
    """Classes to use, numbered anew in this order; None: all."""
    backbone_classes: tuple[int, ...] | None = None
    """Classes of the same set that a backbone is trained on first; candidates then start from it,
    with a new head, and learn `classes` (None: no such task before)."""
    cache: str | None = None
    """Cache folder; None: $XDG_CACHE_HOME/crossfront or ~/.cache/crossfront."""

    def __post_init__(self) -> None:
        for field in ("train_count", "test_count"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise DataError(f"{field} is {value}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The files of a data set and what reads its training and test set from them."""

    files: tuple[Path, ...]
    read: Callable[[], tuple[ImageSet, ImageSet]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One name of the catalog: how its files are found, and where if no path is given."""

    find: Callable[[Path], _Source]
    default_path: Path | None = None
    takes_path: bool = True


def dataset_names() -> tuple[str, ...]:
    """The names that `DataConfig.name` can take, sorted."""
    return tuple(sorted(_CATALOG))


def load_dataset(config: DataConfig) -> Dataset:
    """The data set that a configuration names, memory-mapped from the cache.

    Raises:
        DataError: if the name is unknown, the path is missing or holds something else, a file is
            damaged, a class is not in the set, or a count is larger than it.
    """
    if config.name not in _CATALOG:
        known = ", ".join(dataset_names())
        raise DataError(f"unknown data set {config.name!r}, expected one of {known}")
    source = _CATALOG[config.name].find(_path_of(config))

    def decode() -> Dataset:
        train, test = source.read()
        return _dataset(config.name, train, test)

    folder = cache_folder(config.cache)
    dataset = cached_dataset(config.name, source.files, decode, folder=folder)
    if config.classes is not None:
        dataset = dataset.of_classes(config.classes)
    train = _limited(dataset.train, config.train_count, "train_count")
    test = _limited(dataset.test, config.test_count, "test_count")
    return Dataset(name=config.name, train=train, test=test)


def _path_of(config: DataConfig) -> Path:
    entry = _CATALOG[config.name]
    if config.path is not None and not entry.takes_path:
        raise DataError(f"{config.name}: path is {config.path!r}, but this set is built in")
    path = entry.default_path if config.path is None else Path(config.path).expanduser()
    if path is None:
        raise DataError(f"{config.name}: no path given, expected the set's file or folder")
    if not path.exists():
        raise DataError(f"{config.name}: {path} does not exist, expected the set's file or folder")
    return path


def _dataset(name: str, train: ImageSet, test: ImageSet) -> Dataset:
    """Both splits under the set's name, with the classes of the one that has more of them."""
    classes = max(train.classes, test.classes)
    return Dataset(
        name=name,
        train=replace(train, name=f"{name}/train", classes=classes),
        test=replace(test, name=f"{name}/test", classes=classes),
    )


def _limited(images: ImageSet, count: int | None, field: str) -> ImageSet:
    if count is None:
        return images
    if count > len(images):
        raise DataError(f"{field} is {count}, but {images.name} allows at most {len(images)}")
    return images.subset(count)


def _find_embedded(path: Path) -> _Source:
    def read() -> tuple[ImageSet, ImageSet]:
        splits = [read_parquet([path], split) for split in EMBEDDED_DIGESTS]
        for images, (split, digest) in zip(splits, EMBEDDED_DIGESTS.items(), strict=True):
            if images.digest != digest:
                raise DataError(
                    f"{path}: split {split} has SHA-256 {images.digest}, expected {digest}"
                )
        return splits[0], splits[1]

    return _Source(files=(path,), read=read)


def _find_idx(path: Path) -> _Source:
    """MNIST's four files, packed or not, with either spelling of their names."""
    files = [
        _first_of(
            path, [f"{stem}{joint}{kind}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
        )
        for stem, kind in (
            ("train-images", "idx3"),
            ("train-labels", "idx1"),
            ("t10k-images", "idx3"),
            ("t10k-labels", "idx1"),
        )
    ]

    def read() -> tuple[ImageSet, ImageSet]:
        return read_idx(files[0], files[1], classes=10), read_idx(files[2], files[3], classes=10)

    return _Source(files=tuple(files), read=read)


def _first_of(folder: Path, names: list[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no {names[0]} there, expected one of {', '.join(names)}")


def _find_cifar10(path: Path) -> _Source:
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    return _find_cifar(path, "cifar-10-batches", batches, "test_batch", label_bytes=1)


def _find_cifar100(path: Path) -> _Source:
    return _find_cifar(path, "cifar-100", ["train"], "test", label_bytes=2)


def _find_cifar(
    path: Path, folder: str, train: list[str], test: str, *, label_bytes: int
) -> _Source:
    """Parquet shards or binary batches, in `path` or the sub-folder the archives unpack to."""
    if _shards(path, "train") and _shards(path, "test"):
        return _find_parquet(path)
    folders = [path, path / f"{folder}-bin", path / f"{folder}-binary"]
    for place in folders:
        files = [place / f"{stem}.bin" for stem in [*train, test]]
        if all(file.is_file() for file in files):
            return _cifar_binary(files, label_bytes)
    pickled = [path, path / f"{folder}-py", path / f"{folder}-python"]
    expected = f"train-*.parquet and test-*.parquet, or {train[0]}.bin ... {test}.bin"
    if any((place / test).is_file() for place in pickled):
        raise DataError(
            f"{path}: holds the pickled batches, which can run any code when opened; "
            f"expected the binary or the Parquet version: {expected}"
        )
    raise DataError(f"{path}: no CIFAR files there, expected {expected}")


def _cifar_binary(files: list[Path], label_bytes: int) -> _Source:
    """Binary batches, of which the last is the test set."""
    return _Source(
        files=tuple(files),
        read=lambda: (
            read_cifar_binary(files[:-1], label_bytes),
            read_cifar_binary(files[-1:], label_bytes),
        ),
    )


def _shards(path: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in `path` or, as on the Hugging Face hub, in `path`/data."""
    for folder in (path, path / "data"):
        files = sorted(folder.glob(f"{split}*.parquet"))
        if files:
            return files
    return []


def _find_parquet(path: Path) -> _Source:
    """Files named after their split, or files with a column `split`."""
    train, test = _shards(path, "train"), _shards(path, "test")
    if train and test:
        return _Source(
            files=(*train, *test), read=lambda: (read_parquet(train), read_parquet(test))
        )
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{path}: no Parquet files there, expected train*.parquet and test*.parquet, or files "
            "with a column 'split'"
        )
    return _Source(
        files=tuple(files),
        read=lambda: (read_parquet(files, "train"), read_parquet(files, "test")),
    )


def _find_image_folder(path: Path) -> _Source:
    """`path`/train and `path`/test, each with the same class folders."""
    train, test = image_folder_files(path / "train"), image_folder_files(path / "test")
    names, test_names = ([name for name, _ in folders] for folders in (train, test))
    if names != test_names:
        # Labels follow the sorted names: a class missing on one side would shift all after it.
        differing = ", ".join(sorted(set(names) ^ set(test_names)))
        raise DataError(f"{path}: classes in only one of train and test: {differing}")
    return _Source(
        files=tuple(file for _, files in [*train, *test] for file in files),
        read=lambda: (read_image_folder(path / "train"), read_image_folder(path / "test")),
    )


_CATALOG = {
    "cifar10": _Entry(find=_find_cifar10),
    "cifar100": _Entry(find=_find_cifar100),
    "fashion-mnist": _Entry(find=_find_idx, default_path=Path("/usr/share/datasets/fashion-mnist")),
    "fashion-mnist-12k": _Entry(find=_find_embedded, default_path=EMBEDDED_FILE, takes_path=False),
    "image-folder": _Entry(find=_find_image_folder),
    "mnist": _Entry(find=_find_idx),
    "parquet": _Entry(find=_find_parquet),
}
