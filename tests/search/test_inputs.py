import os
import shutil
import time
from pathlib import Path

import pytest

from search import inputs
from search.config import read_config
from search.exchange import Exchange
from search.folder import StudyFolder
from search.inputs import find_inputs, send_inputs

PRESET = 'base = "isaac-8bit-weights"\nname = "mine"\n'


class Nodes:
    """A driver with files of its own, and a worker without them."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        (self.files / "data" / "cats").mkdir(parents=True)
        (self.files / "data" / "cats" / "1.png").write_bytes(b"pixels")
        (self.files / "mine.toml").write_text(PRESET)
        (self.files / "law.csv").write_text("bits,energy_j,area_m2\n")
        (self.files / "start.safetensors").touch()
        place = (folder / "place").as_uri()
        self.driver = Exchange(place, StudyFolder(folder / "one", "tiny"))
        self.worker = Exchange(place, StudyFolder(folder / "two", "tiny"))
        self.tables = {
            "study": {"trials": 3},
            "data": {"path": str(self.files / "data"), "cache": str(self.files / "cache")},
            "network": {"checkpoint": str(self.files / "start.safetensors")},
            "hardware": {
                "preset": str(self.files / "mine.toml"),
                "law": f"table:{self.files / 'law.csv'}",
            },
        }


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Nodes(tmp_path)


def test_node_without_the_files_gets_them(nodes: Nodes) -> None:
    names = send_inputs(nodes.driver, nodes.tables)
    assert {Path(path).name for path in names} == {"data", "mine.toml", "law.csv"}
    shutil.rmtree(nodes.files)
    for _ in range(2):
        found = find_inputs(nodes.worker, nodes.tables, names)
        assert (Path(found["data"]["path"]) / "cats" / "1.png").read_bytes() == b"pixels"
        law = found["hardware"]["law"].removeprefix("table:")
        assert Path(law).read_text().startswith("bits,")
        assert found["hardware"]["preset"].endswith("mine.toml")
        assert (found["study"], found["network"]) == (
            nodes.tables["study"],
            nodes.tables["network"],
        )
        assert found["data"]["cache"] == nodes.tables["data"]["cache"]
    assert read_config({"hardware": {"preset": found["hardware"]["preset"]}}).hardware.load_preset()


def test_node_with_the_files_uses_its_own(nodes: Nodes) -> None:
    names = send_inputs(nodes.driver, nodes.tables)
    assert find_inputs(nodes.worker, nodes.tables, names) == nodes.tables


def test_changed_file_is_sent_again(nodes: Nodes) -> None:
    first = send_inputs(nodes.driver, nodes.tables)
    preset = nodes.files / "mine.toml"
    preset.write_text(PRESET + "# changed\n")
    second = send_inputs(nodes.driver, nodes.tables)
    assert {path for path in first if first[path] != second[path]} == {str(preset)}
    shutil.rmtree(nodes.files)
    found = find_inputs(nodes.worker, nodes.tables, second)
    assert Path(found["hardware"]["preset"]).read_text().endswith("# changed\n")


def test_file_that_is_too_large_stays(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_LIMIT_BYTES", 10)
    names = send_inputs(nodes.driver, nodes.tables)
    assert {Path(path).name for path in names} == {"data"}


def test_shared_folder_needs_nothing_sent(nodes: Nodes, tmp_path: Path) -> None:
    exchange = Exchange(None, StudyFolder(tmp_path / "one", "tiny"))
    assert send_inputs(exchange, nodes.tables) == {}
    assert find_inputs(exchange, nodes.tables, {}) == nodes.tables


def test_files_that_nobody_used_for_a_week_go(nodes: Nodes, tmp_path: Path) -> None:
    names = send_inputs(nodes.driver, nodes.tables)
    shutil.rmtree(nodes.files)
    base = tmp_path / "cache" / "crossfront" / "inputs"
    (base / "old").mkdir(parents=True)
    then = time.time() - 8 * 86_400
    os.utime(base / "old", (then, then))
    find_inputs(nodes.worker, nodes.tables, names)
    assert {path.name for path in base.iterdir()} == {
        ".lock",
        *(name.rpartition("/")[2] for name in names.values()),
    }
