"""Where a study's records lie: in a journal file beside its networks, or in a database.

The journal needs nothing and is the faster of the two. A database, PostgreSQL for instance, is for
drivers on several machines whose shared file system is not to be trusted with a journal.
"""

import os

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hwmodel.errors import StudyError
from search.folder import StudyFolder
from search.urls import shown

__all__ = ["make_storage", "open_storage"]


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


def open_storage(folder: StudyFolder) -> BaseStorage:
    """The storage of a study that exists.

    Raises:
        StudyError: a database that cannot be reached.
    """
    if folder.database.exists():
        return _connect(folder.database.read_text(encoding="utf-8").strip())
    return _journal(folder)


def _journal(folder: StudyFolder) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(folder.journal)))


def _connect(database: str) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return RDBStorage(database, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:  # every database's driver has its own
        reason = shown(" ".join(str(error).split()))[:300]
        raise StudyError(f"database {shown(database)!r} cannot be used: {reason}") from None
