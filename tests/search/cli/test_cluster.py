import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwmodel.errors import ClusterError
from search import jobs
from search.cli import main
from search.jobs import Job, Shipment

JOB = Job(
    id="s-1",
    status="RUNNING",
    message="",
    exit_code=None,
    study="s",
    storage="/shared",
    started="2026-01-01T00:00:00+00:00",
    ended=None,
)
AT = ("--storage", "/shared", "--address", "auto")
Run = Callable[..., tuple[int, str, str]]


class FakeCluster:
    """Takes every job, and keeps what it was given."""

    seen: dict[str, Any]
    job_: Job = JOB
    difference: str | None = None

    def __init__(self, address: str) -> None:
        type(self).seen = {"address": address}
        self.address = address

    def differences(self) -> str | None:
        return self.difference

    def submit(self, command: list[str], **options: Any) -> str:
        self.seen.update(command=command, **options)
        return "s-1"

    def jobs(self) -> list[Job]:
        return [self.job_]

    def job(self, job: str) -> Job:
        if job != self.job_.id:
            raise ClusterError(f"no job {job!r}")
        return self.job_

    def logs(self, job: str) -> str:
        return "one\ntwo\n"

    def follow(self, job: str, show: Callable[[str], None]) -> Job:
        show("one\n")
        return self.job_

    def stop(self, job: str) -> tuple[Job, bool]:
        return self.job_, True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[FakeCluster]:
    fake = type("Fake", (FakeCluster,), {})
    monkeypatch.setattr(jobs, "Cluster", fake)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return fake


@pytest.fixture
def run(
    cluster: type[FakeCluster],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Runs `crossfront` in a folder with the study `s` in study.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "study.toml").write_text('[study]\nname = "s"\n')

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crossfront", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def become(cluster: type[FakeCluster], status: str, exit_code: int) -> None:
    cluster.job_ = dataclasses.replace(JOB, status=status, exit_code=exit_code)


def test_submit_sends_the_configuration_and_the_options(
    run: Run, cluster: Any, tmp_path: Path
) -> None:
    code, out, err = run("submit", "study.toml", "--storage", "/shared", "--workers", 8)
    assert (code, out) == (0, "")
    assert err == "study s is job s-1; see it with: crossfront logs s-1 --follow\n"
    assert cluster.seen == {
        "address": "http://127.0.0.1:8265",
        "command": ["crossfront", "search", "study.toml", *AT, "--workers", "8", "--name", "s"],
        "study": "s",
        "storage": "/shared",
        "shipment": Shipment(tmp_path.resolve() / "study.toml", ("study.toml",)),
        "gpus": 0.0,
    }


def test_submit_hands_every_limit_on(run: Run, cluster: Any) -> None:
    limits = ("--max-trials", 9, "--max-epochs", 30, "--least-gain", 0.01, "--time-budget", 60.0)
    more = ("--seeds", 3, "--tracking-uri", "http://h:5000")
    assert run("submit", "study.toml", "--storage", "/shared", *limits, *more)[0] == 0
    command = " ".join(cluster.seen["command"])
    for option, value in zip((*limits, *more)[::2], (*limits, *more)[1::2], strict=True):
        assert f"{option} {value}" in command


def test_submit_for_programs(run: Run) -> None:
    options = ("--storage", "/shared", "--address", "http://h:1", "--name", "other", "--json")
    code, out, err = run("submit", "study.toml", *options)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "job": "s-1",
        "study": "other",
        "storage": "/shared",
        "address": "http://h:1",
    }


def test_quiet_submit_prints_the_job_alone(run: Run, cluster: Any) -> None:
    cluster.difference = "the cluster has Ray 1"
    assert run("submit", "s", "--resume", *AT, "--quiet") == (0, "s-1\n", "")
    assert run("stop", "s-1", "--address", "auto", "-q")[1:] == ("", "")


def test_resume_needs_no_file(run: Run, cluster: Any) -> None:
    assert run("submit", "old", "--resume", "--storage", "/shared", "--max-trials", 9)[0] == 0
    assert cluster.seen["command"] == ["crossfront", "resume", "old", *AT, "--max-trials", "9"]
    assert (cluster.seen["study"], cluster.seen["shipment"]) == ("old", None)


def test_shared_configuration_is_not_sent(run: Run, cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    assert run("submit", path, "--no-ship", "--storage", "/shared")[0] == 0
    assert cluster.seen["command"][2] == str(path)
    assert cluster.seen["shipment"] is None


def test_other_versions_are_noted(run: Run, cluster: Any) -> None:
    cluster.difference = "Ray 1"
    assert "note: Ray 1\n" in run("submit", "study.toml", "--storage", "/shared")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study.toml", "--storage", "studies"], "--storage is 'studies'; allowed: the absolute"),
        (["none.toml", "--storage", "/shared"], "config 'none.toml' cannot be read"),
        (["study.toml", "--storage", "/shared", "--no-ship"], "CONFIG is 'study.toml'; allowed:"),
        (["study.toml", "--storage", "/shared", "--name", "a/b"], "study.name is 'a/b'"),
        (["a b", "--storage", "/shared", "--resume"], "study.name is 'a b'"),
        (["s", "--storage", "/shared", "--resume", "--name", "t"], "neither --name"),
        (["s", "--storage", "/shared", "--resume", "--workers", "0"], "ray.workers is 0"),
        (["study.toml", "--storage", "/shared", "--max-trials", "0"], "study.trials is 0"),
        (["study.toml", "--storage", "/shared", "--driver-gpus", "-1"], "--driver-gpus is -1.0"),
    ],
)
def test_mistake_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run("submit", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_status(run: Run, cluster: Any) -> None:
    line = "s-1  RUNNING  study s in /shared  2026-01-01T00:00:00+00:00\n"
    assert run("status") == run("status", "s-1") == (0, line, "")
    assert json.loads(run("status", "s-1", "--json")[1])["status"] == "RUNNING"
    assert json.loads(run("status", "--json")[1])[0]["id"] == "s-1"
    assert run("status", "nope") == (2, "", "crossfront: no job 'nope'\n")


def test_status_of_a_failed_job(run: Run, cluster: Any) -> None:
    become(cluster, "FAILED", 127)
    code, out, _ = run("status", "s-1")
    assert code == 1
    assert out.endswith("exit code 127 (the cluster has no command crossfront)\n")
    assert run("status")[0] == 0


def test_logs(run: Run, cluster: Any) -> None:
    assert run("logs", "s-1") == (0, "one\ntwo\n", "")
    become(cluster, "SUCCEEDED", 0)
    assert run("logs", "s-1", "--follow") == (0, "one\n", "")
    become(cluster, "FAILED", 1)
    assert run("logs", "s-1", "--follow") == (1, "one\n", "")


def test_stop(run: Run, cluster: Any) -> None:
    assert run("stop", "s-1")[0] == 1  # it still runs
    become(cluster, "STOPPED", -15)
    code, out, err = run("stop", "s-1")
    assert (code, out) == (0, "")
    assert err.endswith("go on with: crossfront submit s --resume --storage /shared\n")
    assert json.loads(run("stop", "s-1", "--json")[1])["was_running"]
