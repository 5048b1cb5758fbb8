import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hwmodel.errors import DataError
from trainers.data import cache
from trainers.data.cache import cache_folder, cached_dataset
from trainers.data.dataset import Dataset, ImageSet


class Source:
    """A source file and a decoder that counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "source"
        self.file.write_bytes(b"12345")
        self.folder = folder / "cache"
        self.calls = 0

    def decode(self) -> Dataset:
        self.calls += 1
        train, test = (
            ImageSet(
                name=f"toy/{split}",
                images=torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2),
                labels=torch.tensor([0, 1, 2, 1]),
                classes=5,
            )
            for split in ("train", "test")
        )
        return Dataset(name="toy", train=train, test=test)

    def load(self) -> Dataset:
        return cached_dataset("toy", [self.file], self.decode, folder=self.folder)

    def cached_file(self) -> Path:
        (path,) = self.folder.iterdir()
        return path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_second_load_comes_from_the_cache_unchanged(source: Source) -> None:
    first, second, decoded = source.load(), source.load(), source.decode()
    assert source.calls == 2
    for dataset in (first, second):
        assert dataset.train.digest == decoded.train.digest
        assert dataset.test.digest == decoded.test.digest
        assert dataset.classes == 5
        assert dataset.train.name == "toy/train"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_tensors_are_mapped_from_the_file(source: Source) -> None:
    dataset = source.load()
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(source.cached_file()) in line
    ]
    for images in (dataset.train, dataset.test):
        for tensor in (images.images, images.labels):
            assert any(start <= tensor.data_ptr() < stop for start, stop in ranges)


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(source: Source) -> None:
    digest = source.decode().train.digest
    source.load().train.images.zero_()
    assert source.load().train.digest == digest


def test_changed_source_is_decoded_again(source: Source) -> None:
    source.load()
    source.file.write_bytes(b"123456")
    source.load()
    os.utime(source.file, ns=(1, 1))
    source.load()
    assert source.calls == 3
    assert len(list(source.folder.iterdir())) == 3


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_cache_file_is_rebuilt(
    source: Source, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    digest = source.load().train.digest
    path = source.cached_file()
    whole = path.stat().st_size
    os.truncate(path, size % whole)
    assert source.load().train.digest == digest
    assert source.calls == 2
    assert "unreadable data cache, decoding again" in caplog.text
    assert path.stat().st_size == whole


def test_cache_file_of_another_make_is_rebuilt(source: Source) -> None:
    source.load()
    tensors = {"train_images": torch.zeros(1)}
    save_file(tensors, source.cached_file())
    source.load()
    save_file(tensors, source.cached_file(), metadata={"classes": "5"})
    source.load()
    assert source.calls == 3


def test_mapping_in_use_survives_a_rebuild(source: Source) -> None:
    held = source.load()
    path = source.cached_file()
    path.unlink()
    source.load()
    assert held.train.images.tolist() == source.decode().train.images.tolist()


def test_failed_write_leaves_nothing_and_still_gives_the_data(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "save_file", interrupted)
    assert source.load().train.digest == source.decode().train.digest
    assert list(source.folder.iterdir()) == []
    assert "cannot be written, decoding in memory: no space left" in caplog.text


def test_cache_folder_that_cannot_be_made_is_only_warned_about(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.folder = source.file / "below a file"
    with caplog.at_level(logging.WARNING):
        assert len(source.load().train) == 4
    assert "cannot be written" in caplog.text


SLOW_SOURCE = """
import sys, time
from pathlib import Path
import torch
from trainers.data.cache import cached_dataset
from trainers.data.dataset import Dataset, ImageSet

folder = Path(sys.argv[1])

def decode():
    with (folder / "decoded").open("a") as file:
        file.write("x")
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.05)
    time.sleep(0.5)
    train, test = (
        ImageSet(
            name="toy",
            images=torch.full((9, 1, 2, 2), 7, dtype=torch.uint8),
            labels=torch.zeros(9).long(),
            classes=2,
        )
        for _ in range(2)
    )
    return Dataset(name="toy", train=train, test=test)

(folder / f"ready-{sys.argv[2]}").touch()
dataset = cached_dataset("toy", [folder / "source"], decode, folder=folder / "cache")
print(int(dataset.train.images.sum()))
"""


def test_two_processes_decode_once(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    command = [sys.executable, "-c", SLOW_SOURCE, str(tmp_path)]
    workers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    answers = [worker.communicate(timeout=120)[0] for worker in workers]
    assert answers == ["252\n", "252\n"]
    assert (tmp_path / "decoded").read_text() == "x"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_lock_that_was_held_and_deleted_is_taken_anew(source: Source) -> None:
    """As by a process that waits while another one finishes."""
    lock = source.folder / "lock"
    with cache._alone(lock):
        lock.unlink()
        with cache._alone(lock):
            assert lock.exists()
    assert not lock.exists()


def old_files(folder: Path) -> list[Path]:
    """Three files of 400 bytes: not loaded for 9 days, for 8 days, for an hour."""
    folder.mkdir()
    found = []
    for hours in (9 * 24, 8 * 24, 1):
        found.append(folder / f"toy-{hours}.safetensors")
        found[-1].write_bytes(bytes(400))
        then = time.time() - 3600 * hours
        os.utime(found[-1], (then, then))
    return found


def test_longest_unused_file_goes_where_the_cache_is_full(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, older, young = old_files(source.folder)
    monkeypatch.setattr(cache, "_LIMIT_BYTES", 1100)
    source.load()
    assert not oldest.exists()
    assert older.exists()
    monkeypatch.setattr(cache, "_LIMIT_BYTES", 1)
    source.file.write_bytes(b"another")
    source.load()
    assert not older.exists()
    assert young.exists()
    assert len(list(source.folder.iterdir())) == 3


def test_unused_files_go_where_the_disk_is_full(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, older, young = old_files(source.folder)
    full = shutil._ntuple_diskusage(1000, 1000, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    source.load()
    assert (oldest.exists(), older.exists(), young.exists()) == (False, True, True)


def test_loading_keeps_a_file_young(source: Source) -> None:
    source.load()
    os.utime(source.cached_file(), (1, 1))
    source.load()
    assert time.time() - source.cached_file().stat().st_mtime < 60
    assert source.calls == 1


def test_missing_source_is_named(source: Source) -> None:
    source.file.unlink()
    with pytest.raises(DataError, match="source: cannot be read: No such file"):
        source.load()


def test_cache_folder_follows_argument_then_xdg_then_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("~/here") == tmp_path / "here"
    assert cache_folder() == Path("/xdg/crossfront")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "crossfront"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "crossfront"
