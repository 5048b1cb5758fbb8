"""What the base installation does, and what it says where an extra is missing."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hwmodel.extras import EXTRAS

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {packages!r} else find(name, path, target)
PathFinder.find_spec = find_others
"""
OPTIONAL = tuple(package for packages in EXTRAS.values() for package in packages)
STUDY = """
[study]
name = "bare"
trials = 1
[network]
name = "mlp"
[data]
train_count = 200
test_count = 50
[train]
epochs = 1
dense_epochs = 1
[ray]
workers = 1
"""


def without(
    packages: tuple[str, ...], code: str, folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Runs code in a process that has not got these packages."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(packages=packages) + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def crossfront(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    code = f"sys.argv = ['crossfront', *{arguments!r}]\nfrom search.cli import main\nmain()"
    return without(OPTIONAL, code, folder)


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        listed = [entry.split(">=")[0] for entry in project["optional-dependencies"][extra]]
        assert listed == list(packages)
        assert not [base for base in project["dependencies"] if base.split(">=")[0] in packages]


def test_layer_is_planned_and_priced_without_torch(tmp_path: Path) -> None:
    code = """
from hwmodel.components import load_preset
from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.geometry import LayerShape, plan_layer
preset = load_preset("isaac-8bit-weights")
shape = LayerShape(name="fc", rows=784, outputs=128)
model = CostModel(preset=preset, law=adc_law("sar_split"))
dense, pruned = (
    model.evaluate([plan_layer(shape, preset.crossbar, nonzeros=n)]).to_json()["totals"]
    for n in (None, 8)
)
print(dense["adc_power_w"] / pruned["adc_power_w"])
assert not {"torch", "ray", "optuna"} & set(sys.modules)
"""
    found = without(("torch", "ray", "optuna", *OPTIONAL), code, tmp_path)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ui", "s"), "crossfront ui needs mlflow: pip install 'crossfront[tracking]'"),
        (
            ("export", "s", "--to", "o", "--register", "m"),
            "--register needs mlflow: pip install 'crossfront[tracking]'",
        ),
        (
            ("search", "s.toml", "--tracking-uri", "http://127.0.0.1:1"),
            "tracking store http://127.0.0.1:1 needs mlflow: pip install 'crossfront[tracking]'",
        ),
        (
            ("adc", "--bits", "4", "--plot", "a.svg"),
            "picture a.svg needs matplotlib and plotly: pip install 'crossfront[report]'",
        ),
        (
            ("cost", "--plot", "a.svg"),
            "picture a.svg needs matplotlib and plotly: pip install 'crossfront[report]'",
        ),
        (
            ("verify", str(ROOT / "tests" / "golden" / "export-1")),
            "network.onnx needs onnx and onnxruntime and onnxscript: "
            "pip install 'crossfront[export]'",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_missing_extra_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    found = crossfront(tmp_path, *arguments)
    assert (found.returncode, found.stdout) == (2, ""), found.stderr
    assert found.stderr.startswith("crossfront: ")
    assert found.stderr.endswith(f"{message}\n")
    assert found.stderr.count("\n") == 1


@pytest.mark.ray
def test_base_installation_searches_exports_and_proves(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    searched = crossfront(tmp_path, "search", "s.toml")
    assert searched.returncode == 0, searched.stderr
    assert "runs are not mirrored to MLflow without mlflow: pip install" in searched.stderr
    assert "no report.html is written without matplotlib and plotly" in searched.stderr
    assert "report.html" not in searched.stdout
    exported = crossfront(tmp_path, "export", "bare", "--to", "out")
    assert exported.returncode == 0, exported.stderr
    assert "it has no ONNX graph: pip install 'crossfront[export]'" in exported.stderr
    assert not (tmp_path / "out" / "network.onnx").exists()
    verified = crossfront(tmp_path, "verify", "out")
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.splitlines()[-1].startswith("proven: ")
