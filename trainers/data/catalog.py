"""The data sets that a configuration can name, and how each is found on disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hwmodel.errors import DataError
from trainers.data.cache import cache_folder, cached_dataset
from trainers.data.dataset import Dataset, ImageSet
from trainers.data.encoded import image_folder_files, read_image_folder
from trainers.data.own import load_own_dataset
from trainers.data.parquet import read_parquet
from trainers.data.readers import read_cifar_binary, read_cifar_pickled, read_idx
from trainers.data.source import ImageSource
from trainers.data.stream import StreamedImages, stream_folder, stream_parquet
from trainers.own import is_own

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
        DataError: if a count, `image_size` or `shuffle_buffer` is below 1.
    """

    name: str = "fashion-mnist-12k"
    """A name of `crossfront list datasets`, or `module:factory` of your own, which returns a
    training and a test set."""
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
    image_size: int | None = None
    """Side in pixels that encoded images (Parquet, image folders) are scaled to, the largest
    centred square of each; None: as stored, all of one size."""
    streaming: bool = False
    """Whether encoded images (Parquet, image folders) are read and decoded anew in every epoch, for
    sets that do not fit in memory; a `train_count` or `test_count` takes its images into memory all
    the same."""
    shuffle_buffer: int = 2048
    """Encoded images in memory at a time, from which a streamed epoch draws."""
    cache: str | None = None
    """Cache folder; None: $XDG_CACHE_HOME/crossfront or ~/.cache/crossfront."""

    def __post_init__(self) -> None:
        for field in ("train_count", "test_count", "image_size", "shuffle_buffer"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise DataError(f"{field} is {value}, expected at least 1")
        if self.streaming and self.classes is not None:
            raise DataError(f"classes is {list(self.classes)}, expected none with streaming")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The files of a data set and what reads its training and test set from them."""

    files: tuple[Path, ...]
    read: Callable[[int | None], tuple[ImageSet, ImageSet]]
    """Takes the side that images are scaled to."""
    stream: Callable[[int | None, int], tuple[StreamedImages, StreamedImages]] | None = None
    """Takes that side and the encoded images in memory; None for plain pixels, which are neither
    scaled nor streamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One name of the catalog: how its files are found, and where if no path is given."""

    find: Callable[[Path], _Source]
    default_path: Path | None = None
    takes_path: bool = True


def dataset_names() -> tuple[str, ...]:
    """The names that `DataConfig.name` can take, sorted."""
    return tuple(sorted(_CATALOG))


def load_dataset(config: DataConfig) -> Dataset[ImageSource]:
    """The data set that a configuration names, memory-mapped from the cache or streamed.

    Raises:
        DataError: if the name is unknown, the path is missing or holds something else, a file is
            damaged, a class is not in the set, a count is larger than it, or it cannot be scaled
            or streamed.
    """
    if is_own(config.name):
        splits = _own(config)
    elif config.name in _CATALOG:
        splits = _found(config)
    else:
        known = ", ".join(dataset_names())
        raise DataError(
            f"unknown data set {config.name!r}, expected one of {known}, or module:factory"
        )
    counts = {"train_count": config.train_count, "test_count": config.test_count}
    train, test = (
        images if count is None else _limited(images, count, field)
        for images, (field, count) in zip(splits, counts.items(), strict=True)
    )
    return Dataset(name=config.name, train=train, test=test)


def _own(config: DataConfig) -> tuple[ImageSource, ImageSource]:
    for field in ("path", "image_size", "streaming"):
        value = getattr(config, field)
        if value:
            raise DataError(f"{config.name}: {field} is {value!r}, expected none with own data")
    return _chosen(config, load_own_dataset(config.name))


def _found(config: DataConfig) -> tuple[ImageSource, ImageSource]:
    source = _CATALOG[config.name].find(_path_of(config))
    if config.image_size is not None and source.stream is None:
        raise DataError(
            f"{config.name}: image_size is {config.image_size}, but its files hold plain pixels, "
            "expected none"
        )
    return _streamed(config, source) if config.streaming else _in_memory(config, source)


def _in_memory(config: DataConfig, source: _Source) -> tuple[ImageSource, ImageSource]:
    def decode() -> Dataset[ImageSet]:
        train, test = source.read(config.image_size)
        classes = max(train.classes, test.classes)
        return Dataset(
            name=config.name,
            train=replace(train, name=f"{config.name}/train", classes=classes),
            test=replace(test, name=f"{config.name}/test", classes=classes),
        )

    # What is scaled to another size is another set to the cache.
    scaled = "" if config.image_size is None else f"-{config.image_size}px"
    folder = cache_folder(config.cache)
    return _chosen(
        config, cached_dataset(f"{config.name}{scaled}", source.files, decode, folder=folder)
    )


def _chosen(config: DataConfig, dataset: Dataset[ImageSet]) -> tuple[ImageSource, ImageSource]:
    """The classes that are asked for."""
    if config.classes is None:
        return dataset.train, dataset.test
    return dataset.train.of_classes(config.classes), dataset.test.of_classes(config.classes)


def _streamed(config: DataConfig, source: _Source) -> tuple[ImageSource, ImageSource]:
    if source.stream is None:
        raise DataError(
            f"{config.name}: streaming is true, but its files hold plain pixels, expected false"
        )
    train, test = source.stream(config.image_size, config.shuffle_buffer)
    classes = max(train.classes, test.classes)
    return (
        replace(train, name=f"{config.name}/train", classes=classes),
        replace(test, name=f"{config.name}/test", classes=classes),
    )


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


def _limited(images: ImageSource, count: int, field: str) -> ImageSet:
    if count > len(images):
        raise DataError(f"{field} is {count}, but {images.name} allows at most {len(images)}")
    return images.subset(count)


def _find_embedded(path: Path) -> _Source:
    def read(_image_size: int | None) -> tuple[ImageSet, ImageSet]:
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

    def read(_image_size: int | None) -> tuple[ImageSet, ImageSet]:
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
    """Parquet shards, or batches in `path` or the sub-folder that the archives unpack to."""
    if _shards(path, "train") and _shards(path, "test"):
        return _find_parquet(path)
    versions = (
        (".bin", ("bin", "binary"), read_cifar_binary),
        ("", ("py", "python"), read_cifar_pickled),
    )
    for suffix, endings, read in versions:
        for place in (path, *(path / f"{folder}-{ending}" for ending in endings)):
            files = [place / f"{stem}{suffix}" for stem in [*train, test]]
            if all(file.is_file() for file in files):
                return _cifar(files, label_bytes, read)
    raise DataError(
        f"{path}: no CIFAR files there, expected train-*.parquet and test-*.parquet, or "
        f"{train[0]}.bin ... {test}.bin, or {train[0]} ... {test}"
    )


def _cifar(
    files: list[Path], label_bytes: int, read: Callable[[list[Path], int], ImageSet]
) -> _Source:
    """Batches, of which the last is the test set."""
    return _Source(
        files=tuple(files),
        read=lambda _: (read(files[:-1], label_bytes), read(files[-1:], label_bytes)),
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
        return _parquet((train, None), (test, None))
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{path}: no Parquet files there, expected train*.parquet and test*.parquet, or files "
            "with a column 'split'"
        )
    return _parquet((files, "train"), (files, "test"))


def _parquet(train: tuple[list[Path], str | None], test: tuple[list[Path], str | None]) -> _Source:
    """Two sets, each of files or of the rows of one split in them."""

    def read(image_size: int | None) -> tuple[ImageSet, ImageSet]:
        return (
            read_parquet(*train, image_size=image_size),
            read_parquet(*test, image_size=image_size),
        )

    def stream(image_size: int | None, buffer: int) -> tuple[StreamedImages, StreamedImages]:
        return (
            stream_parquet(*train, image_size=image_size, buffer=buffer),
            stream_parquet(*test, image_size=image_size, buffer=buffer),
        )

    return _Source(files=tuple(dict.fromkeys([*train[0], *test[0]])), read=read, stream=stream)


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
        read=lambda image_size: (
            read_image_folder(path / "train", image_size=image_size),
            read_image_folder(path / "test", image_size=image_size),
        ),
        stream=lambda image_size, buffer: (
            stream_folder(path / "train", image_size=image_size, buffer=buffer),
            stream_folder(path / "test", image_size=image_size, buffer=buffer),
        ),
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
