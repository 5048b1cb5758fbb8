"""What drivers leave behind on this machine, and who removes it.

A driver removes Ray Tune's results at its end; the session of a Ray of its own, with its logs,
stays for whoever looks for what a worker has printed. The study's next driver removes both of every
driver that is no more: its lock says so, so that what others use is never touched.
"""

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from search.drivers import is_alive
from search.folder import StudyFolder

__all__ = ["note_session", "remove_leftovers"]

_NOTE = ".session"


def note_session(folder: StudyFolder, driver: str, session: Path) -> None:
    """Notes the folder of a driver's own Ray, for a later driver to remove."""
    (folder.drivers / f"{driver}{_NOTE}").write_text(str(session), encoding="utf-8")


def remove_leftovers(folder: StudyFolder) -> None:
    """Removes what the study's former drivers have left on this machine."""
    for results in folder.ray_results.glob("*"):
        if _is_over(folder, results.name):
            shutil.rmtree(results, ignore_errors=True)
    for note in folder.drivers.glob(f"*{_NOTE}"):
        driver = note.name.removesuffix(_NOTE)
        if not _is_over(folder, driver):
            continue
        with suppress(OSError):  # another driver is at it
            session = Path(note.read_text(encoding="utf-8"))
            if _is_session_of(session, driver):
                shutil.rmtree(session, ignore_errors=True)
            note.unlink()


def _is_over(folder: StudyFolder, driver: str) -> bool:
    """Whether this is the name of a driver of this machine that does not run."""
    host, *rest = driver.rsplit("-", 2)
    return host == socket.gethostname() and len(rest) == 2 and not is_alive(folder.drivers, driver)


def _is_session_of(session: Path, driver: str) -> bool:
    """Whether a folder is what Ray makes for that driver: ours, and named after the process."""
    process = driver.rsplit("-", 2)[1]
    named = session.name.startswith("session_") and session.name.endswith(f"_{process}")
    return (
        named
        and session.is_absolute()
        and not session.is_symlink()
        and session.is_dir()
        and session.stat().st_uid == os.getuid()
    )
