"""What is installed: every package with its data, and nothing of the tests."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("the sources are no checkout")
    for name in tracked.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).exists():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", ".", *options]
    built = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_packages_data_types_and_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("hwmodel", "trainers", "spaces", "search"):
        sources = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert sources <= names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    licences = {Path(name).name for name in names if "dist-info/licenses" in name}
    assert {"LICENSE", "LICENSE.fashion-mnist"} <= licences


def test_wheel_runs_from_a_folder_of_its_own(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import sys, search.cli; sys.argv[0] = 'crossfront'; search.cli.main()"

    def run(*arguments: str) -> str:
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert run("--version").startswith("crossfront ")
    assert "isaac" in run("list", "presets")
    assert "mm2" in run("cost", "--preset", "isaac", "--peak")


def test_cost_model_needs_no_torch_and_no_ray(tmp_path: Path) -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "mlflow", "optuna", "onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from hwmodel import accelerator, adc, batch, compare, geometry, presets
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
