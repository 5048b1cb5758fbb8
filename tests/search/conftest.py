import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from search.study import Study
from tests.search.fakes import new_study
from tests.search.servers import running_postgres

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's study need not survive a power cut; the disk is most of its time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An empty study of the budget 12 with its dense baseline."""
    return new_study(tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without an experiment of ours: its migrations take seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path) -> Path:
    """A storage folder whose MLflow database is there already."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL server; `new_database(postgres_url)` is a database of one's own."""
    with running_postgres() as url:
        yield url
