"""Where a study's files lie."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hwmodel.errors import StudyError

__all__ = ["DEFAULT_STORAGE", "StudyFolder", "study_names"]

DEFAULT_STORAGE = Path("studies")
_JOURNAL = "journal.log"


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """One study below a storage folder, which all studies share with one MLflow database."""

    storage: Path
    name: str

    @property
    def path(self) -> Path:
        """The study's own folder."""
        return self.storage / self.name

    @property
    def journal(self) -> Path:
        """Optuna's journal: the study itself."""
        return self.path / _JOURNAL

    @property
    def database(self) -> Path:
        """Names the database that holds the study instead of a journal, if one does."""
        return self.path / "database"

    @property
    def dense_weights(self) -> Path:
        """Float weights of the dense baseline."""
        return self.path / "dense.safetensors"

    @property
    def dense_checkpoint(self) -> Path:
        """Integer network of the dense baseline."""
        return self.path / "dense"

    @property
    def ray_results(self) -> Path:
        """Scratch of Ray Tune."""
        return self.path / "ray"

    @property
    def tracking_uri(self) -> str:
        """The default MLflow store."""
        return f"sqlite:///{(self.storage / 'mlflow.db').resolve()}"

    @property
    def artifacts(self) -> Path:
        """Where the default MLflow store keeps artifacts."""
        return (self.storage / "mlartifacts").resolve()

    def checkpoint(self, number: int) -> Path:
        """Integer network of a trial."""
        return self.path / "checkpoints" / f"trial-{number:05d}"

    def training(self, number: int) -> Path:
        """State of a trial's training, while it is under way."""
        return self.path / "checkpoints" / f"trial-{number:05d}.training"

    @property
    def drivers(self) -> Path:
        """Files of the processes that drive the study."""
        return self.path / "drivers"

    @property
    def budget_lock(self) -> Path:
        """Held while a driver takes a trial out of the budget."""
        return self.path / "budget.lock"

    @property
    def exists(self) -> bool:
        """Whether the study has been created."""
        return self.journal.exists() or self.database.exists()

    def make(self) -> None:
        """Creates the folder.

        Raises:
            StudyError: it cannot be written.
        """
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StudyError(
                f"storage {str(self.storage)!r} cannot be written ({error.strerror}); "
                "choose another with --storage"
            ) from None

    def take_the_lead(self) -> IO[str] | None:
        """Makes this process the study's first driver: the one that prepares and mirrors it.

        Returns:
            What it holds for as long as it is that; None while another process is.
        """
        lock = (self.path / "driver.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return None
        return lock


def study_names(storage: Path) -> list[str]:
    """Names of the studies below a storage folder."""
    folders = (path for path in storage.glob("*/") if StudyFolder(storage, path.name).exists)
    return sorted(path.name for path in folders)
