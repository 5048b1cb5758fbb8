"""A user's own network, data, method, chip, ADC and space: `examples/own`, copied elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hwmodel.errors import ConfigError, DataError
from search.folder import StudyFolder
from search.study import Study
from trainers.data import DataConfig, load_dataset
from trainers.methods import method_entry

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
    assert "0 differ" in crossfront(folder, "verify", "out", "--images", "8")


@pytest.mark.ray
def test_all_of_ones_own_is_searched_by_workers(folder: Path) -> None:
    crossfront(folder, "search", "study.toml", "--quiet")
    study = Study.open(StudyFolder(folder / "studies", "own"))
    assert study.counts()["complete"] == 4
    methods = {trial.user_attrs["candidate"]["method"] for trial in study.ended()}
    assert "my_method:Gradual" in methods
    assert study.config.method_name == "my_method:Gradual"


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
        ("nowhere:Method", "method 'nowhere:Method' cannot be imported: No module named"),
        ("pathlib:Path", "allowed: a subclass of trainers.method.Method"),
        ("trainers.methods.plain:Dense", "has no attribute config"),
        ("math:pi", "is a float; allowed: a callable"),
    ],
)
def test_own_methods_that_cannot_be_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_entry(name)
