import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwmodel.errors import StudyError
from search.folder import study_names
from search.study import Study, status
from search.urls import shown
from tests.search.fakes import DENSE_VALUES, Ladder, done, evaluate_all, new_study, price
from tests.search.servers import new_database

# A process ends with its connections; a test does not.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


def test_study_lives_in_a_database(tmp_path: Path, postgres_url: str) -> None:
    database = new_database(postgres_url)
    study = new_study(tmp_path, trials=6, database=database)
    assert not study.folder.journal.exists()
    assert study_names(tmp_path) == ["tiny"]
    assert study.folder.database.stat().st_mode & 0o077 == 0
    evaluate_all(study)
    again = Study.open(study.folder)
    assert again.spent == 6
    assert [t.number for t in again.front()] == [t.number for t in study.front()]
    assert again.hypervolume() == study.hypervolume()


def test_drivers_share_a_database(tmp_path: Path, postgres_url: str) -> None:
    one = new_study(tmp_path, trials=5, database=new_database(postgres_url))
    one.join()
    lost = one.propose(Ladder(), price, DENSE_VALUES)
    assert lost is not None
    other = Study.open(one.folder)
    other.join()
    assert other.requeue_interrupted() == 0
    one.leave()
    found = other.propose(Ladder(), price, DENSE_VALUES)
    assert found is not None
    assert found.candidate == lost.candidate
    other.finish(found.number, done(0.8, 0.5))
    assert [status(t) for t in one.trials()] == ["interrupted", "complete"]
    other.leave()


def test_name_that_the_database_has_is_refused(tmp_path: Path, postgres_url: str) -> None:
    database = new_database(postgres_url)
    new_study(tmp_path / "a", database=database)
    with pytest.raises(StudyError, match="the database has a study 'tiny' already"):
        new_study(tmp_path / "b", database=database)
    assert study_names(tmp_path / "b") == []


@pytest.mark.parametrize(
    ("database", "named"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/none", "me:\\*\\*\\*@127.0.0.1:1"),
        ("nonsense", "'nonsense' cannot be used"),
        ("nosuch://here", "'nosuch://here' cannot be used"),
    ],
)
def test_database_that_cannot_be_used_is_named(tmp_path: Path, database: str, named: str) -> None:
    with pytest.raises(StudyError, match=named) as caught:
        new_study(tmp_path, database=database)
    assert "secret" not in str(caught.value)
    assert study_names(tmp_path) == []


def test_password_is_not_shown() -> None:
    assert shown("a://me:pw@host/x") == "a://me:***@host/x"
    assert shown("a://me@host/x") == "a://me@host/x"
