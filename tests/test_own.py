"""A user's own network, data, method, chip, ADC and space: `examples/own`, copied elsewhere."""

import importlib
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import search.api
from hwmodel.errors import ConfigError, DataError
from search.folder import StudyFolder
from search.study import Study
from trainers.config import NetworkConfig
from trainers.data import DataConfig, load_dataset
from trainers.data.source import ImageSource
from trainers.methods import method_entry
from trainers.networks import build_network
from trainers.weights import load_weights

EXAMPLE = Path(__file__).parents[1] / "examples" / "own"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example that this process and its children work in."""
    copy = tmp_path / "own"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", "studies"))
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(str(copy))
    return copy


def crossfront(folder: Path, *arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_all_of_ones_own_is_compressed_and_verified(folder: Path) -> None:
    shown = crossfront(folder, "compress", "study.toml", "--to", "out")
    accuracy = float(shown.split("accuracy")[1].split()[0])
    assert accuracy > 0.5  # four classes
    assert "0 come out differently" in crossfront(folder, "verify", "out", "--images", "8")


@pytest.mark.ray
def test_all_of_ones_own_is_searched_by_workers(folder: Path) -> None:
    crossfront(folder, "search", "study.toml", "--quiet")
    study = Study.open(StudyFolder(folder / "studies", "own"))
    assert study.counts()["complete"] == 4
    methods = {trial.user_attrs["candidate"]["method"] for trial in study.ended()}
    assert "my_method:Gradual" in methods
    assert study.config.method_name == "my_method:Gradual"


def test_network_of_a_hub_is_compressed_and_verified(folder: Path) -> None:
    made = search.api.compress("hub.toml", "out", train={"dense_epochs": 1, "epochs": 1})
    assert made.ratio["adc_power"] > 1
    assert "0 come out differently" in crossfront(folder, "verify", "out", "--images", "4")


@pytest.fixture
def timm() -> Any:
    """The package, which may be missing, or beside a torchvision of another build than torch's."""
    try:
        return importlib.import_module("timm")
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")


def test_network_of_timm_is_compressed_and_verified(folder: Path, timm: Any) -> None:
    made = search.api.compress(
        "timm.toml",
        "out",
        data={"test_count": 40},
        network={"arguments": {"model": "test_resnet"}},
        train={"dense_epochs": 1, "epochs": 1, "train_count": 100, "calibration_count": 40},
    )
    assert made.ratio["adc_power"] > 1
    assert "0 come out differently" in crossfront(folder, "verify", "out", "--images", "4")


def test_weights_of_timm_are_written_as_the_network_reads_them(
    folder: Path, timm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = timm.create_model

    def create(model: str, pretrained: bool, **others: Any) -> nn.Module:
        """Constants in the place of weights that only a hub has."""
        network: nn.Module = fresh(model, pretrained=False, **others)
        if pretrained:
            for parameter in network.parameters():
                nn.init.constant_(parameter, 0.25)
        return network

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(sys, "argv", ["timm_network.py", "test_resnet", "weights.safetensors"])
    runpy.run_path("timm_network.py", run_name="__main__")
    config = NetworkConfig(name="timm_network:network", arguments={"model": "test_resnet"})
    network = build_network(config, (1, 28, 28), 10)
    load_weights(network, folder / "weights.safetensors")
    assert all((parameter == 0.25).all() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["parquet", "image-folder"])
def test_images_in_files_are_read_as_they_were_written(folder: Path, name: str) -> None:
    write_images(folder)
    path = str(folder / "images" / name.removeprefix("image-"))
    found = load_dataset(DataConfig(name=name, path=path, cache=str(folder / "cache")))
    pictures = load_dataset(DataConfig(name="my_data:bars"))
    assert (len(found.train), found.classes, found.input_shape) == (400, 4, (1, 16, 16))
    assert checksums(found.test) == checksums(pictures.test)


def test_images_in_files_are_compressed(folder: Path) -> None:
    write_images(folder)
    made = search.api.compress("images.toml", "out", data={"cache": str(folder / "cache")})
    assert made.values["accuracy"] > 0.5  # four classes
    assert made.ratio["adc_power"] > 1


def write_images(folder: Path) -> None:
    runpy.run_path(str(folder / "write_images.py"))["write"](folder / "images")


def checksums(images: ImageSource) -> set[tuple[int, int]]:
    """Label and sum of each image's pixels, in no order."""
    read, labels = next(iter(images.batches(len(images), seed=0, device="cpu").epoch(0)))
    sums = (read * 255).round().flatten(1).sum(1)
    return {(int(label), int(total)) for label, total in zip(labels, sums, strict=True)}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def sets(): return 1", "made a int, expected a pair"),
        ("def sets(): return [], []", "no item"),
        ("import torch\ndef sets(): return [(torch.ones(1, 4, 4) * 2, 0)], []", "row 0: image is"),
        ("import torch\ndef sets(): return [(torch.ones(4, 4), 0)], []", "expected 3 dimensions"),
        ("import torch\ndef sets(): return [(torch.ones(1, 4, 4), -1)], []", "label -1"),
        (
            "import torch\ndef sets(): return [(torch.ones(1, n, 4), 0) for n in (4, 5)], []",
            r"row 1: image has shape \(1, 5, 4\), expected \(1, 4, 4\)",
        ),
    ],
)
def test_own_data_that_cannot_be_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    name = f"own_data_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(name=f"{name}:sets"))


def test_own_data_are_read_as_they_are(folder: Path) -> None:
    found = load_dataset(DataConfig(name="my_data:bars", test_count=8, classes=(0, 2)))
    assert (len(found.test), found.classes, found.input_shape) == (8, 2, (1, 16, 16))
    images, labels = next(iter(found.test.batches(8, seed=0, device="cpu").epoch(0)))
    assert images.shape == (8, 1, 16, 16)
    assert torch.unique(labels).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Method", "method 'nowhere:Method' cannot be imported: no module 'nowhere' in"),
        ("pathlib:Path", "allowed: a subclass of trainers.method.Method"),
        ("trainers.methods.plain:Dense", "has no attribute config"),
        ("math:pi", "is a float; allowed: a callable"),
    ],
)
def test_own_methods_that_cannot_be_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_entry(name)


def test_module_that_lacks_another_is_told_from_one_that_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_lacking.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"imported: No module named 'nowhere_at_all'$"):
        build_network(NetworkConfig(name="own_lacking:net"), (1, 4, 4), 2)


def test_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_failing.py").write_text("raise RuntimeError('no such operator')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="'own_failing:net' cannot be imported: no such operator"):
        build_network(NetworkConfig(name="own_failing:net"), (1, 4, 4), 2)
