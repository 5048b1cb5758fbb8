import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hwmodel.errors import StudyError
from search.folder import StudyFolder, study_names
from search.study import Study
from search.trials import candidate_of, status
from search.urls import shown
from tests.search.fakes import (
    DENSE_VALUES,
    Ladder,
    done,
    evaluate_all,
    failed,
    new_study,
    price,
    try_one,
)
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


def test_ended_trials_share_what_they_have_in_common(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=6)
    evaluate_all(study)
    for opened in (study, Study.open(study.folder)):
        first, *others = opened.trials()
        assert first.distributions
        for trial in others:
            assert trial.distributions == first.distributions
            for name, distribution in first.distributions.items():
                assert trial.distributions[name] is distribution


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], r"holds no study; delete .*tiny to search anew"),
        (lambda lines: lines[3:], "its first records are missing; take it from a copy"),
        (lambda lines: [*lines[:5], "x\n", *lines[5:]], r"line 6 is damaged; .* sed -i '6,\$d' "),
        (lambda lines: [*lines[:5], "[1]\n", *lines[5:]], "line 6 is damaged; "),
        (lambda lines: ["\0\1\n", *lines], "damaged, or written by another Optuna"),
        (lambda lines: [*lines, '{"op_code": 99, "worker_id": ""}\n'], "another Optuna"),
    ],
)
def test_damaged_journal_says_where_and_how_to_mend_it(
    tmp_path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    study = new_study(tmp_path)
    try_one(study, done(0.8, 0.5))
    lines = study.folder.journal.read_text(encoding="utf-8").splitlines(keepends=True)
    study.folder.journal.write_text("".join(change(lines)), encoding="utf-8")
    with pytest.raises(StudyError, match=message) as caught:
        Study.open(study.folder)
    assert "\n" not in str(caught.value)


def test_renamed_folder_says_whose_it_is(tmp_path: Path) -> None:
    new_study(tmp_path).folder.path.rename(tmp_path / "other")
    with pytest.raises(StudyError, match=r"holds no study 'other' but 'tiny'; .*rename the folder"):
        Study.open(StudyFolder(tmp_path, "other"))


def test_journal_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "s" / "journal.log").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"s: cannot be read \(Is a directory\)"):
        Study.open(StudyFolder(tmp_path, "s"))


def test_trial_without_its_records_is_said(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    try_one(study, done(0.8, 0.5))
    lines = study.folder.journal.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"user_attr":{"candidate"' not in line]
    study.folder.journal.write_text("".join(kept), encoding="utf-8")
    with pytest.raises(StudyError, match=r"trial 0 has no candidate: records .* missing; take"):
        candidate_of(Study.open(study.folder).front()[0])


def test_journal_lists_what_optuna_itself_lists(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=30)
    other = Study.open(study.folder)
    plain = optuna.load_study(
        study_name=study.folder.name,
        storage=JournalStorage(JournalFileBackend(str(study.folder.journal))),
    )
    random, seen = Random(0), set()
    some = [TrialState.WAITING], [TrialState.RUNNING], [TrialState.COMPLETE, TrialState.FAIL]
    for _ in range(25):
        driver = random.choice([study, other])
        proposal = driver.propose(Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        if random.random() < 0.6:
            driver.finish(proposal.number, random.choice([done(0.8, 0.5), failed()]))
        elif random.random() < 0.3:
            driver.enqueue([{"x": random.randint(1, 100)}])
        for states in (None, *some):
            expected = plain.get_trials(states=states)
            seen |= {trial.state for trial in expected}
            for handle in (study, other):
                assert handle._handle.get_trials(states=states) == expected
                assert handle._handle.get_trials(states=states, deepcopy=False) == expected
    assert seen == {state for states in some for state in states}


def test_list_of_trials_is_the_callers_own(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    try_one(study, done(0.8, 0.5))
    study.trials().clear()
    assert len(study.trials()) == 1
