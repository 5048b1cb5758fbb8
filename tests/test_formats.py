"""What older versions wrote still loads. The export was written by format 1 of version 0.1.0."""

import json
import shutil
from pathlib import Path

import pytest

from hwmodel.errors import CheckpointError
from search.config import read_config
from trainers.checkpoint import read_manifest
from trainers.verify import verify_folder

OLD = Path(__file__).parent / "golden" / "export-1"


def test_export_of_format_1_is_verified_from_its_files() -> None:
    found = verify_folder(OLD, images=8)
    assert found.ok


def test_settings_of_an_older_study_are_read() -> None:
    config = read_config(read_manifest(OLD)["config"])
    assert config.network.arguments == {"hidden": 4}
    assert not config.train.reconstruct


def test_export_of_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(OLD, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(CheckpointError, match="format 2; this version reads 1"):
        read_manifest(folder)
