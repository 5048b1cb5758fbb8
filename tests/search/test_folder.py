import subprocess
import sys
from pathlib import Path

import pytest

from hwmodel.errors import StudyError
from search.folder import StudyFolder, study_names
from tests.search.fakes import new_study

_HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_everything_of_a_study_lies_below_its_folder(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    paths = [
        folder.journal,
        folder.dense_weights,
        folder.dense_checkpoint,
        folder.ray_results,
        folder.checkpoint(3),
        folder.training(3),
        folder.drivers,
        folder.budget_lock,
    ]
    assert all(path.is_relative_to(tmp_path / "s") for path in paths)
    assert len(set(paths)) == len(paths)
    assert folder.checkpoint(3).name == "trial-00003"


def test_studies_share_one_database(tmp_path: Path) -> None:
    one, other = StudyFolder(tmp_path, "a"), StudyFolder(tmp_path, "b")
    assert one.tracking_uri == other.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert one.artifacts == other.artifacts == tmp_path / "mlartifacts"


def test_default_store_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(Path("studies"), "s")
    assert folder.tracking_uri == f"sqlite:///{tmp_path}/studies/mlflow.db"
    assert folder.artifacts.is_absolute()


def test_folder_exists_once_its_study_does(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "deep" / "er", "s")
    assert not folder.exists
    folder.make()
    folder.make()
    assert not folder.exists
    assert [path.name for path in folder.path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_storage_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    folder = StudyFolder(tmp_path / below, "s")
    assert not folder.exists
    with pytest.raises(StudyError, match=f"{below}' cannot be written .*--storage"):
        folder.make()


def test_studies_are_listed_by_name(tmp_path: Path) -> None:
    assert study_names(tmp_path / "nowhere") == []
    for name in ("b", "a.1"):
        new_study(tmp_path, name=name)
    (tmp_path / "mlartifacts").mkdir()
    assert study_names(tmp_path) == ["a.1", "b"]


def test_one_process_leads_until_it_is_gone(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.make()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder.path / "driver.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folder.take_the_lead() is None
        holder.kill()
    for _ in range(2):
        lead = folder.take_the_lead()
        assert lead is not None
        assert folder.take_the_lead() is None
        lead.close()


def test_two_studies_have_a_leader_each(tmp_path: Path) -> None:
    leads = []
    for name in ("a", "b"):
        folder = StudyFolder(tmp_path, name)
        folder.make()
        leads.append(folder.take_the_lead())
    for lead in leads:
        assert lead is not None
        lead.close()
