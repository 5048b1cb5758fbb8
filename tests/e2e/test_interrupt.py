"""Ctrl-C in mid-search, once and twice: what is left of the processes and of the study."""

import time
from pathlib import Path

import mlflow
import pytest

from tests.e2e.faults import Driver, open_study, outcomes, run, write
from tests.e2e.test_faults import check

pytestmark = pytest.mark.ray

TRIALS = 6
GO_ON = "go on with: crossfront resume faults\n"


def start(folder: Path) -> Driver:
    """A search with trials done and trials under way."""
    write(folder, TRIALS)
    driver = Driver(folder, "search", "faults.toml")
    driver.wait_for("] trial", 2)
    assert driver.workers()
    return driver


def assert_ended(processes: list[int], patience_s: float = 10.0) -> None:
    """Fails for processes that outlive their driver."""
    deadline = time.monotonic() + patience_s
    while left := [pid for pid in processes if lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def lives(process: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def check_interrupted(folder: Path) -> dict[int, str]:
    """No trial and no MLflow run is under way; returns what has ended."""
    study = open_study(folder)
    found = outcomes(study)
    assert "running" not in found.values()
    assert 2 <= study.spent < TRIALS
    client = mlflow.MlflowClient(study.folder.tracking_uri)
    assert not [run for run in client.search_runs(["1"]) if run.info.status == "RUNNING"]
    return found


@pytest.mark.slow
def test_first_interrupt_ends_the_search_cleanly(tmp_path: Path) -> None:
    driver = start(tmp_path)
    family = driver.family()
    driver.interrupt()
    assert driver.end() == 1, "".join(driver.lines)
    assert driver.lines[-1].startswith("interrupted after ")
    assert driver.lines[-1].endswith(GO_ON)
    assert_ended(family)
    before = check_interrupted(tmp_path)
    assert (open_study(tmp_path).folder.path / "report.html").exists()
    run(tmp_path, "resume", "faults")
    check(open_study(tmp_path), TRIALS, before)


def test_second_interrupt_ends_the_search_at_once(tmp_path: Path) -> None:
    driver = start(tmp_path)
    family = driver.family()
    driver.interrupt()
    time.sleep(0.3)  # Ray is being shut down
    driver.interrupt()
    assert driver.end() == 130, "".join(driver.lines)
    assert driver.lines[-1].startswith("ended at once; ")
    assert driver.lines[-1].endswith(GO_ON)
    assert "Traceback" not in "".join(driver.lines)
    assert_ended(family, patience_s=2.0)
    before = check_interrupted(tmp_path)
    run(tmp_path, "resume", "faults")
    check(open_study(tmp_path), TRIALS, before)
