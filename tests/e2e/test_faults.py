"""What may go wrong in a search, and what is left of the study: trials counted before and after."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from search.study import Study
from search.trials import status
from tests.e2e.faults import (
    HUNGRY,
    Cluster,
    Driver,
    drivers,
    fill,
    memory,
    open_study,
    outcomes,
    run,
    settle,
    write,
    write_sleepy,
)
from tests.waiting import until
from trainers.checkpoint import load_checkpoint

pytestmark = pytest.mark.ray

ENDED = ("complete", "pruned", "failed")


def check(study: Study, trials: int, before: dict[int, str] | None = None) -> None:
    """Nothing is lost, doubled or left open."""
    found = outcomes(study)
    assert study.spent == trials
    assert {number: found[number] for number in before or {}} == (before or {})
    assert "running" not in {status(trial) for trial in study.unended()}
    settled = [t for t in study.ended() if outcomes(study)[t.number] in ENDED]
    roots = [trial.user_attrs.get("root", trial.number) for trial in settled]
    assert len(set(roots)) == len(roots) == trials
    runs = mlflow.MlflowClient(study.folder.tracking_uri).search_runs(["1"], max_results=5000)
    assert not [entry for entry in runs if entry.info.status == "RUNNING"]
    numbers = [entry.data.tags.get("crossfront.trial") for entry in runs]
    assert len(set(numbers)) == len(numbers)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of all studies as a file system of 64 MB of its own."""
    folder = tmp_path / "studies"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    started = Cluster()
    yield started
    started.close()


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
    write_sleepy(tmp_path, 9)
    first = Driver(tmp_path, "search", "faults.toml")
    first.wait_for("starting Ray")
    (tmp_path / "hang").touch()  # or the first may be through before the second has joined
    second = Driver(tmp_path, "resume", "faults")
    second.wait_for("starting Ray")
    until(lambda: len(drivers(tmp_path)) == 2)
    (tmp_path / "hang").unlink()
    assert [first.end(), second.end()] == [0, 0], "".join(first.lines + second.lines)
    assert any("joining it" in line for line in second.lines)
    check(open_study(tmp_path), 9)


@pytest.mark.slow
def test_trial_that_hangs_is_given_up(tmp_path: Path) -> None:
    write_sleepy(tmp_path, 2, ray="epoch_limit_s = 15\nretries = 0")
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("starting Ray")
    (tmp_path / "hang").touch()
    assert driver.end() == 1
    study = open_study(tmp_path)
    assert study.counts()["failed"] == 2
    assert all("too long" in trial.user_attrs["reason"] for trial in study.ended())


@pytest.mark.slow
def test_driver_killed_at_twenty_random_moments_loses_nothing(tmp_path: Path) -> None:
    trials, draw = 120, random.Random(0)
    write(tmp_path, trials)
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("starting Ray")
    driver.kill()
    settle()
    before: dict[int, str] = {}
    for _ in range(20):
        driver = Driver(tmp_path, "resume", "faults")
        try:
            driver.wait_for("starting Ray")
        except AssertionError:
            driver.end()
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


@pytest.mark.slow
def test_trial_without_memory_fails_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HUNGRY)
    write(tmp_path, 6, network="mine:hungry", arguments='arguments = { how = "at once" }')
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("starting Ray")
    (tmp_path / "hungry").touch()
    driver.wait_for("failed", 1)
    (tmp_path / "hungry").unlink()
    assert driver.end() == 0, "".join(driver.lines)
    study = open_study(tmp_path)
    check(study, 6)
    reasons = [t.user_attrs["reason"] for t in study.ended() if status(t) == "failed"]
    assert 1 <= len(reasons) < 6
    assert all(reason.startswith("out of memory: ") for reason in reasons)


@pytest.mark.slow
def test_worker_that_ray_ends_for_its_memory_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HUNGRY)
    write(
        tmp_path,
        3,
        network="mine:hungry",
        arguments='arguments = { how = "bit by bit" }',
        ray="retries = 0",
    )
    total, used = memory()
    limit = (used + 3 * 2**30) / total
    driver = Driver(
        tmp_path,
        "search",
        "faults.toml",
        "--workers",
        "1",
        RAY_memory_usage_threshold=f"{limit:.4f}",
        RAY_memory_monitor_refresh_ms="100",
    )
    driver.wait_for("starting Ray")
    (tmp_path / "hungry").touch()
    driver.wait_for("failed", 1)
    (tmp_path / "hungry").unlink()
    assert driver.end() == 0, "".join(driver.lines)
    study = open_study(tmp_path)
    check(study, 3)
    reasons = [t.user_attrs["reason"] for t in study.ended() if status(t) == "failed"]
    assert reasons
    assert all("out of memory: Ray ended a worker" in reason for reason in reasons)


@pytest.mark.slow
def test_full_disk_ends_the_search_in_one_line_and_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    write(tmp_path, 8)
    driver = Driver(tmp_path, "search", "faults.toml")
    driver.wait_for("] trial", 2)
    fill(small_disk / "ballast")
    assert driver.end() == 2, "".join(driver.lines)
    assert "Traceback" not in "".join(driver.lines)
    assert "No space left on device" in driver.lines[-1]
    assert driver.lines[-1].endswith("go on with: crossfront resume faults\n")
    study = open_study(tmp_path)
    before = outcomes(study)
    assert 2 <= study.spent < 8
    assert "failed" not in before.values()
    (small_disk / "ballast").unlink()
    run(tmp_path, "resume", "faults")
    check(open_study(tmp_path), 8, before)
    for trial in open_study(tmp_path).front():
        load_checkpoint(open_study(tmp_path).checkpoint(trial))


@pytest.mark.slow
def test_lost_head_ends_the_search_in_one_line_and_loses_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    write(tmp_path, 12)
    where = ("--address", cluster.address)
    driver = Driver(tmp_path, "search", "faults.toml", *where, **cluster.environment)
    driver.wait_for("] trial", 2)
    cluster.kill_head()
    assert driver.end() == 2, "".join(driver.lines)
    assert "Traceback" not in "".join(driver.lines)
    assert f"Ray cluster '{cluster.address}': its head has not answered" in driver.lines[-1]
    study = open_study(tmp_path)
    before = outcomes(study)
    assert 2 <= study.spent < 12
    assert "running" not in {status(trial) for trial in study.trials()}
    run(tmp_path, "resume", "faults", "--address", "local")
    check(open_study(tmp_path), 12, before)


@pytest.mark.slow
def test_node_that_is_lost_and_one_that_joins(tmp_path: Path, cluster: Cluster) -> None:
    write(tmp_path, 60)
    where = ("--address", cluster.address)
    driver = Driver(tmp_path, "search", "faults.toml", *where, **cluster.environment)
    driver.wait_for("] trial", 2)
    before = cluster.nodes_at_work()
    assert len(before) == 2
    cluster.remove()
    cluster.add()
    joined: set[int] = set()
    while not joined and driver.process.poll() is None:
        joined = cluster.nodes_at_work() - before
        time.sleep(0.2)
    assert joined
    assert driver.end() == 0, "".join(driver.lines)
    study = open_study(tmp_path)
    check(study, 60)
    assert study.counts()["failed"] == 0
