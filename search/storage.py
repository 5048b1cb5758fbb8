"""Where a study's records lie: in a journal file beside its networks, or in a database.

The journal needs nothing and is the faster of the two. A database, PostgreSQL for instance, is for
drivers on several machines whose shared file system is not to be trusted with a journal.
"""

import copy
import errno
import json
import os
import shlex
import sys
from collections.abc import Container, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import (
    BaseJournalBackend,
    JournalFileBackend,
    JournalFileSymlinkLock,
)
from optuna.trial import FrozenTrial, TrialState

from hwmodel.errors import StorageError, StudyError
from search.folder import StudyFolder
from search.urls import shown

__all__ = ["disk_errors", "load_study", "make_storage"]

_FROM_A_COPY = "take it from a copy, or search anew under another name"
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def make_storage(folder: StudyFolder, database: str | None) -> BaseStorage:
    """The storage of a new study.

    Args:
        folder: made already.
        database: an SQLAlchemy URL; None for a journal file.

    Raises:
        StudyError: a database that cannot be reached.
    """
    if database is None:
        return _journal(folder)
    storage = _connect(database)
    descriptor = os.open(folder.database, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # it may hold a password
        file.write(database)
    return storage


def load_study(folder: StudyFolder) -> optuna.Study:
    """The study of a folder.

    Raises:
        StudyError: records that cannot be read, or a database that cannot be reached.
    """
    try:
        if folder.database.exists():
            storage = _connect(folder.database.read_text(encoding="utf-8").strip())
        else:
            storage = _journal(folder)
        names = [found.study_name for found in storage.get_all_studies()]
        if folder.name in names:
            return optuna.load_study(study_name=folder.name, storage=storage)
    except OSError as error:
        raise StudyError(f"{folder.path}: cannot be read ({error.strerror or error})") from None
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise _damage(folder, error) from None
    if not names and folder.journal.exists() and folder.journal.stat().st_size:
        raise StudyError(f"{folder.journal}: its first records are missing", _FROM_A_COPY)
    if not names:
        raise StudyError(
            f"{folder.journal}: holds no study",
            f"delete {folder.path} to search anew under that name",
        )
    raise StudyError(
        f"{folder.path}: holds no study {folder.name!r} but {', '.join(map(repr, names))}",
        "a study goes by the name that it was made with: rename the folder",
    )


def _damage(folder: StudyFolder, error: Exception) -> StudyError:
    """Which line of a journal cannot be read, and how to keep what comes before."""
    journal = folder.journal
    for number, line in enumerate(journal.read_bytes().splitlines(), 1):
        if _is_record(line):
            continue
        if number == 1:  # nothing of it can be kept
            break
        return StudyError(
            f"{journal}: line {number} is damaged",
            f"keep a copy, and cut the file off there, which loses what was recorded later: "
            f"sed -i '{number},$d' {shlex.quote(str(journal))}",
        )
    return StudyError(
        f"{journal}: damaged, or written by another Optuna ({type(error).__name__}: {error})",
        _FROM_A_COPY,
    )


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


@contextmanager
def disk_errors(folder: StudyFolder) -> Iterator[None]:
    """Says in one line that the disk is full, or refuses to be written.

    Raises:
        StorageError: what it says.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StorageError(
            f"storage {str(folder.storage)!r} cannot be written ({error.strerror})"
        ) from None


def _journal(folder: StudyFolder) -> BaseStorage:
    journal = str(folder.journal)
    return _Journal(_JournalFile(journal, _JournalLock(journal)))


class _Journal(JournalStorage):
    """Optuna's journal, which lists a study's trials without going through those that have ended.

    A study is listed several times for each trial that it asks for, and Optuna looks at every trial
    each time. A trial that has ended never changes, so a list of them is kept for each study.

    Args:
        backend: the journal's file.
    """

    def __init__(self, backend: BaseJournalBackend) -> None:
        super().__init__(backend)
        self._listed: dict[int, list[FrozenTrial]] = {}
        self._unended: dict[int, list[int]] = {}
        """Places in the list of trials that may have changed since."""
        self._distributions: dict[BaseDistribution, BaseDistribution] = {}
        """One of each for all trials that have ended; Optuna makes one per parameter and trial."""

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """All trials of a study, or those in some states, oldest first.

        Raises:
            KeyError: no such study.
        """
        with self._thread_lock:
            self._sync_with_backend()
            self._replay_result.get_study(study_id)
            listed = self._list(study_id)
            if states is None:
                found = listed.copy()
            elif any(state in states for state in TrialState if state.is_finished()):
                found = [trial for trial in listed if trial.state in states]
            else:
                unended = (listed[place] for place in self._unended[study_id])
                found = [trial for trial in unended if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _list(self, study_id: int) -> list[FrozenTrial]:
        """The list that is kept, brought up to date."""
        ids = self._replay_result._study_id_to_trial_ids[study_id]
        listed = self._listed.setdefault(study_id, [])
        unended = self._unended.get(study_id, [])
        for place in unended:
            listed[place] = self._replay_result.get_trial(ids[place])
        places = [*unended, *range(len(listed), len(ids))]
        listed += map(self._replay_result.get_trial, ids[len(listed) :])
        self._unended[study_id] = []
        for place in places:
            trial = listed[place]
            if trial.state.is_finished():
                trial.distributions = {n: self._shared(d) for n, d in trial.distributions.items()}
            else:
                self._unended[study_id].append(place)
        return listed

    def _shared(self, distribution: BaseDistribution) -> BaseDistribution:
        return self._distributions.setdefault(distribution, distribution)


class _JournalFile(JournalFileBackend):
    """A journal that is read with little memory, however long it has become.

    Its records share the names that every trial repeats, and only the place of its end is
    remembered, which is where the next reading begins.
    """

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from one on, oldest first."""
        for record in super().read_logs(log_number_from):
            if "user_attr" in record:
                record["user_attr"] = _shared_keys(record["user_attr"])
            if "param_name" in record:
                record["param_name"] = sys.intern(record["param_name"])
            yield record
        end = max(self._log_number_offset)
        self._log_number_offset = {0: 0, end: self._log_number_offset[end]}


def _shared_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {sys.intern(key): _shared_keys(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_shared_keys(found) for found in value]
    return value


class _JournalLock(JournalFileSymlinkLock):
    """Before its holder writes, it cuts off the line that a writer left unfinished.

    Optuna reads past such a line at the journal's end, but would append the next one to it.

    Args:
        journal: the file.
    """

    def __init__(self, journal: str) -> None:
        super().__init__(journal)
        self._journal = journal

    def acquire(self) -> bool:
        """Waits for the lock."""
        held = super().acquire()
        try:
            _cut_unfinished_line(self._journal)
        except BaseException:
            self.release()
            raise
        return held


def _cut_unfinished_line(journal: str) -> None:
    with open(journal, "r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _connect(database: str) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return RDBStorage(database, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:  # every database's driver has its own
        reason = shown(" ".join(str(error).split()))[:300]
        raise StudyError(f"database {shown(database)!r} cannot be used: {reason}") from None
