"""The decoded form of a data set on disk: written once, memory-mapped by every process of a node.

A cache file is a safetensors file with the four tensors of a `Dataset`. Loading maps it privately
into memory without a copy, so that all trials of a node share the pages. The file's name is a
digest of what it was decoded from; a changed source gets a new file. Writing goes through a
temporary file and `os.replace`: a reader sees a whole file or none, and a mapping that is in use
keeps its old file. Of processes that find no file at the same time one decodes and the others wait.
Files that were not loaded for a week make room for new ones.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hwmodel.errors import DataError
from trainers.data.dataset import Dataset, ImageSet

__all__ = ["cache_folder", "cached_dataset"]

_LOG = logging.getLogger(__name__)

_FORMAT = "1"
"""Part of every key: raise it when the readers decode the same files differently."""
_SPLITS = ("train", "test")
_LIMIT_BYTES = 32 << 30
"""Above this size files that were not loaded for `_KEPT_S` go."""
_KEPT_S = 7 * 86_400.0
"""Another node may map a younger file, whose deletion an NFS would not outlast."""


def cache_folder(override: str | None = None) -> Path:
    """The folder of the cache: `override`, $XDG_CACHE_HOME/crossfront or ~/.cache/crossfront."""
    if override is not None:
        return Path(override).expanduser()
    # The XDG specification has relative paths ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "crossfront"


def cached_dataset(
    name: str, files: Sequence[Path], decode: Callable[[], Dataset[ImageSet]], *, folder: Path
) -> Dataset[ImageSet]:
    """The data set that `decode` gives, memory-mapped from the cache; decoded if it is not there.

    A cache file that is truncated or otherwise unreadable is decoded and written again. If the
    cache cannot be written, the set stays in this process's own memory and a warning is logged.

    Args:
        name: name of the data set; sets of other names never share a cache file.
        files: what `decode` reads; a changed path, size or modification time makes a new key.
        decode: reads the set from its source.
        folder: the cache folder; created if missing.

    Raises:
        DataError: if a source file is missing, or whatever `decode` raises.
    """
    path = folder / f"{name}-{_key(name, files)}.safetensors"
    cached = _load(name, path)
    if cached is not None:
        return cached
    with _alone(path.with_name(f".{path.name}.lock")):
        cached = _load(name, path)
        if cached is not None:
            return cached
        dataset = decode()
        try:
            _write(dataset, path)
        except (OSError, SafetensorError) as error:
            _LOG.warning("%s: data cache cannot be written, decoding in memory: %s", path, error)
            return dataset
    return _load(name, path) or dataset


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keeps other processes out until this one leaves; where files cannot be locked, nobody."""
    file = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = lock.open("a")
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # whoever held it before has deleted it
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    break
            file.close()
    except OSError as error:
        _LOG.warning("%s: cannot be locked, others may decode the same: %s", lock, error)
    try:
        yield
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)
            file.close()


def _key(name: str, files: Sequence[Path]) -> str:
    """Digest, 24 hex digits, of the format, the name and the source files' identities."""
    content = hashlib.sha256(f"{_FORMAT}\0{name}".encode())
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
        identity = f"\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        content.update(os.fsencode(identity))
    return content.hexdigest()[:24]


def _load(name: str, path: Path) -> Dataset[ImageSet] | None:
    """The data set in a cache file, mapped without a copy; None if there is no sound one."""
    try:
        with suppress(PermissionError):
            os.utime(path)
        with safe_open(path, framework="pt") as file:
            classes = int(file.metadata()["classes"])
            train, test = (
                ImageSet(
                    name=f"{name}/{split}",
                    images=file.get_tensor(f"{split}_images"),
                    labels=file.get_tensor(f"{split}_labels"),
                    classes=classes,
                )
                for split in _SPLITS
            )
        return Dataset(name=name, train=train, test=test)
    except FileNotFoundError:
        return None
    except (SafetensorError, DataError, OSError, KeyError, TypeError, ValueError) as error:
        _LOG.warning("%s: unreadable data cache, decoding again: %s", path, error)
        return None


def _write(dataset: Dataset[ImageSet], path: Path) -> None:
    """Puts a cache file in place in one step."""
    tensors: dict[str, torch.Tensor] = {}
    for split, images in zip(_SPLITS, (dataset.train, dataset.test), strict=True):
        tensors[f"{split}_images"] = images.images.contiguous()
        tensors[f"{split}_labels"] = images.labels.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parent, sum(tensor.nbytes for tensor in tensors.values()))
    # A name of its own for each writer, on the same file system, as os.replace needs.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary, metadata={"classes": str(dataset.classes)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_room(folder: Path, size: int) -> None:
    """Deletes files that nobody wants any more until so many bytes fit in, oldest first."""
    found = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
    total = sum(status.st_size for _, status in found) + size
    free = shutil.disk_usage(folder).free
    for path, status in sorted(found, key=lambda entry: entry[1].st_mtime):
        fits = total <= _LIMIT_BYTES and size <= free
        if fits or time.time() - status.st_mtime < _KEPT_S:
            return
        path.unlink(missing_ok=True)
        total, free = total - status.st_size, free + status.st_size
