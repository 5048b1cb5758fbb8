import socket
from pathlib import Path

import pytest

from search.drivers import Driver
from search.folder import StudyFolder
from search.leftovers import note_session, remove_leftovers

DEAD = f"{socket.gethostname()}-77-0123abcd"


@pytest.fixture
def folder(storage: Path) -> StudyFolder:
    found = StudyFolder(storage, "s")
    found.make()
    found.drivers.mkdir()
    return found


def session(tmp_path: Path, name: str) -> Path:
    """What Ray makes for a driver."""
    path = tmp_path / "ray" / name
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "worker.err").touch()
    return path


def test_session_and_results_of_a_dead_driver_are_removed(
    folder: StudyFolder, tmp_path: Path
) -> None:
    path = session(tmp_path, "session_2026-01-01_00-00-00_000000_77")
    (folder.ray_results / DEAD / "tune").mkdir(parents=True)
    note_session(folder, DEAD, path)
    remove_leftovers(folder)
    assert not path.exists()
    assert not list(folder.ray_results.iterdir())
    assert not list(folder.drivers.iterdir())


def test_driver_that_lives_keeps_its_own(folder: StudyFolder, tmp_path: Path) -> None:
    driver = Driver(folder.drivers)
    process = driver.name.split("-")[-2]
    path = session(tmp_path, f"session_2026-01-01_00-00-00_000000_{process}")
    (folder.ray_results / driver.name).mkdir(parents=True)
    note_session(folder, driver.name, path)
    remove_leftovers(folder)
    assert path.exists()
    assert (folder.ray_results / driver.name).exists()
    driver.close()
    remove_leftovers(folder)
    assert not path.exists()


@pytest.mark.parametrize(
    "name",
    ["session_2026-01-01_00-00-00_000000_78", "other_77", "session_latest"],
    ids=["of another process", "no session", "of all"],
)
def test_folders_that_are_not_the_drivers_are_left_alone(
    folder: StudyFolder, tmp_path: Path, name: str
) -> None:
    path = session(tmp_path, name)
    note_session(folder, DEAD, path)
    remove_leftovers(folder)
    assert path.exists()


def test_link_to_a_session_is_left_alone(folder: StudyFolder, tmp_path: Path) -> None:
    path = session(tmp_path, "session_of_another")
    link = tmp_path / "session_2026-01-01_00-00-00_000000_77"
    link.symlink_to(path)
    note_session(folder, DEAD, link)
    remove_leftovers(folder)
    assert (path / "logs" / "worker.err").exists()


def test_other_machines_clean_up_after_themselves(folder: StudyFolder, tmp_path: Path) -> None:
    elsewhere = f"x{DEAD}"
    path = session(tmp_path, "session_2026-01-01_00-00-00_000000_77")
    note_session(folder, elsewhere, path)
    (folder.ray_results / elsewhere).mkdir(parents=True)
    remove_leftovers(folder)
    assert path.exists()
    assert (folder.ray_results / elsewhere).exists()
