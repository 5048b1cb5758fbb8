"""Which processes drive a study, and which of them still live.

Every driver holds a lock on a file of its own. The lock dies with the process, however it ends, so
a trial whose driver's lock is free is an orphan. On file systems whose locks do not reach from one
machine to another, the file's time stands for it, renewed while the driver lives.
"""

import fcntl
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["Driver", "exclusive", "has_company", "is_alive"]

HEARTBEAT_S = 10.0
STALE_S = 60.0
"""A driver on another machine that has not been heard of for so long is gone."""


class Driver:
    """This process among a study's drivers, from its making until `close`.

    Args:
        folder: where drivers leave their files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = folder / self.name
        self._lock = self._path.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._closed = threading.Event()
        self._beat = threading.Thread(target=self._renew, daemon=True)
        self._beat.start()

    def close(self) -> None:
        """Ends this driver; what it has not released is up for others."""
        self._closed.set()
        self._beat.join()
        self._path.unlink(missing_ok=True)
        self._lock.close()

    def _renew(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            try:
                os.utime(self._path)
            except OSError:  # a full or absent disk: the lock speaks for this driver
                continue


def is_alive(folder: Path, name: str) -> bool:
    """Whether a driver still runs."""
    path = folder / name
    try:
        with path.open("r+") as file:
            if _try_lock(file):
                other_machine = not name.startswith(f"{socket.gethostname()}-")
                return other_machine and _now(folder) - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False
    return True


def _now(folder: Path) -> float:
    """The time by the clock that the times of a folder's files are from: its server's."""
    with tempfile.TemporaryFile(prefix=f"{socket.gethostname()}-clock-", dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


def has_company(folder: Path, name: str) -> bool:
    """Whether a driver runs beside that one."""
    return any(path.name != name and is_alive(folder, path.name) for path in folder.iterdir())


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keeps every other process, and thread, out of the same section until this one leaves it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
