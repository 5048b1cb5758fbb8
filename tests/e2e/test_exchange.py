"""A search whose workers and driver share no folder, only an object store."""

import re
import shutil
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem

from tests.e2e.faults import Driver, open_study, outcomes, run, settle, write
from tests.search.servers import S3Server

pytestmark = pytest.mark.ray


def point_to(folder: Path, uri: str) -> None:
    """Gives the study of `write` a `storage_path`."""
    path = folder / "faults.toml"
    path.write_text(path.read_text().replace("[study]", f'[study]\nstorage_path = "{uri}"', 1))


def objects(uri: str) -> set[str]:
    files, root = FileSystem.from_uri(uri)
    found = files.get_file_info(FileSelector(root, recursive=True))
    return {Path(info.path).name for info in found if info.is_file}


def front_objects(folder: Path) -> set[str]:
    """What a store is left with: the front's checkpoints, and what they began from."""
    study = open_study(folder)
    return {f"{study.checkpoint(t).name}.zip" for t in study.front()} | {"dense.safetensors.zip"}


@pytest.mark.slow
def test_search_through_s3_is_killed_resumed_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "crossfront")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    server = S3Server()
    server.start()
    try:
        server.make_bucket("ours")
        uri = server.uri("ours/studies")
        write(tmp_path, 6)
        point_to(tmp_path, uri)
        driver = Driver(tmp_path, "search", "faults.toml")
        driver.wait_for("] trial", 2)
        driver.kill()
        settle()
        before = outcomes(open_study(tmp_path))
        study = open_study(tmp_path)
        assert not list((study.folder.path / "checkpoints").iterdir())
        study.folder.dense_weights.unlink()  # as on another machine
        run(tmp_path, "resume", "faults")
        study = open_study(tmp_path)
        assert study.spent == 6
        assert study.counts()["failed"] == 0
        assert {number: outcomes(study)[number] for number in before} == before
        assert objects(uri) == front_objects(tmp_path)
        for trial in study.front():
            assert (study.checkpoint(trial) / "manifest.json").exists()
        member = study.checkpoint(study.front()[0])
        shutil.rmtree(member)
        number = str(study.front()[0].number)
        run(tmp_path, "export", "faults", "--select", number, "--to", "out", "--samples", "20")
        assert (tmp_path / "out" / "manifest.json").exists()
        text = study.folder.journal.read_text()
        assert "not-to-be-shown" not in text
    finally:
        server.stop()


def test_store_that_goes_away_costs_no_trial(tmp_path: Path) -> None:
    """A file in the place of the folder, for some seconds."""
    place = tmp_path / "place"
    write(tmp_path, 5)
    point_to(tmp_path, place.as_uri())
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("] trial", 1)
    place.rename(tmp_path / "away")
    place.touch()
    settle()
    settle()
    place.unlink()
    (tmp_path / "away").rename(place)
    assert driver.end() == 0, "".join(driver.lines)
    study = open_study(tmp_path)
    assert (study.spent, study.counts()["failed"]) == (5, 0)
    kept = {study.folder.checkpoint(trial.number) for trial in study.front()}
    assert all((path / "manifest.json").exists() for path in kept)


def test_store_that_cannot_be_used_is_known_before_there_is_a_study(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write(tmp_path, 2)
    point_to(tmp_path, (tmp_path / "file" / "below").as_uri())
    driver = Driver(tmp_path, "search", "faults.toml")
    assert driver.end() == 2
    assert re.fullmatch(
        r".*study\.storage_path 'file://.*' cannot be written: .*\n", driver.lines[-1]
    )
    assert not list((tmp_path / "studies").glob("*/journal.log"))
