"""What may go wrong in a search, and what is left of the study: trials counted before and after."""

import os
import random
import signal
import time
from pathlib import Path

import mlflow
import pytest

from search.study import Study
from tests.e2e.faults import SLEEPY, Driver, open_study, outcomes, run, settle, write

pytestmark = pytest.mark.ray

ENDED = ("complete", "pruned", "failed")


def check(study: Study, trials: int, before: dict[int, str] | None = None) -> None:
    """Nothing is lost, doubled or left open."""
    found = outcomes(study)
    assert study.spent == trials
    assert {number: found[number] for number in before or {}} == (before or {})
    assert not study.unended()
    settled = [t for t in study.ended() if outcomes(study)[t.number] in ENDED]
    roots = [trial.user_attrs.get("root", trial.number) for trial in settled]
    assert len(set(roots)) == len(roots) == trials
    runs = mlflow.MlflowClient(study.folder.tracking_uri).search_runs(["1"], max_results=5000)
    assert not [entry for entry in runs if entry.info.status == "RUNNING"]
    numbers = [entry.data.tags.get("crossfront.trial") for entry in runs]
    assert len(set(numbers)) == len(numbers)


def test_killed_worker_costs_no_trial(tmp_path: Path) -> None:
    write(tmp_path, 6)
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("] trial", 1)
    workers = driver.workers()
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    assert driver.end() == 0, "".join(driver.lines)
    study = open_study(tmp_path)
    check(study, 6)
    assert study.counts()["failed"] == 0


def test_two_drivers_end_at_exactly_the_budget(tmp_path: Path) -> None:
    write(tmp_path, 9)
    first = Driver(tmp_path, "search", "faults.toml")
    first.wait_for("starting Ray")
    second = Driver(tmp_path, "resume", "faults")
    assert [first.end(), second.end()] == [0, 0], "".join(first.lines + second.lines)
    assert any("joining it" in line for line in second.lines)
    study = open_study(tmp_path)
    check(study, 9)
    assert len({trial.user_attrs["driver"] for trial in study.trials()}) == 2


@pytest.mark.slow
def test_trial_that_hangs_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLEEPY)
    write(
        tmp_path,
        2,
        network="mine:sleepy",
        arguments="",
        ray="epoch_limit_s = 15\nretries = 0",
    )
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("starting Ray")
    (tmp_path / "hang").touch()
    assert driver.end() == 1
    study = open_study(tmp_path)
    assert study.counts()["failed"] == 2
    assert all("too long" in trial.user_attrs["reason"] for trial in study.ended())


@pytest.mark.slow
def test_driver_killed_at_twenty_random_moments_loses_nothing(tmp_path: Path) -> None:
    trials, draw = 60, random.Random(0)
    write(tmp_path, trials)
    run(tmp_path, "search", "faults.toml", "--time-budget", "1")
    before: dict[int, str] = {}
    for _ in range(20):
        driver = Driver(tmp_path, "resume", "faults")
        try:
            driver.wait_for("starting Ray")
        except AssertionError:
            break  # the budget is spent
        time.sleep(draw.uniform(4, 14))
        driver.kill()
        settle()
        study = open_study(tmp_path)
        found = outcomes(study)
        assert {number: found[number] for number in before} == before
        assert study.spent <= trials
        before = found
    run(tmp_path, "resume", "faults")
    check(open_study(tmp_path), trials, before)


@pytest.mark.slow
def test_journal_with_its_last_line_cut_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 4)
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("] trial", 2)
    driver.kill()
    settle()
    journal = open_study(tmp_path).folder.journal
    journal.write_bytes(journal.read_bytes()[:-9])
    run(tmp_path, "resume", "faults")
    check(open_study(tmp_path), 4)


@pytest.mark.slow
def test_cut_training_state_is_begun_anew(tmp_path: Path) -> None:
    write(tmp_path, 4)
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("] trial", 2)
    driver.kill()
    settle()
    for state in (open_study(tmp_path).folder.path / "checkpoints").glob("*.training"):
        state.write_bytes(state.read_bytes()[:100])
    run(tmp_path, "resume", "faults")
    study = open_study(tmp_path)
    check(study, 4)
    assert study.counts()["failed"] == 0
