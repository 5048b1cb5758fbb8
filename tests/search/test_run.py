import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import ray

import search.run
from hwmodel.errors import ClusterError
from search.checkpoints import Checkpoints
from search.config import RayConfig, read_config
from search.exchange import Exchange
from search.inputs import own_modules
from search.ray_session import _only_on_loopback, start_ray
from search.run import run_study
from search.study import Study
from search.tracking import tracking_uri
from tests.search.fakes import DENSE_VALUES, Ladder, done, failed, new_study, price, try_one


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_run_that_ends_in_an_error_leaves_no_running_run(
    storage: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error

    study = new_study(storage)
    monkeypatch.setattr(search.run, "load_problem", lambda config: None)
    monkeypatch.setattr(search.run, "_ensure_dense", fail)
    with pytest.raises(error):
        run_study(study)
    client = mlflow.MlflowClient(tracking_uri(study))
    (parent,) = client.search_runs([client.get_experiment_by_name("crossfront").experiment_id])
    assert parent.info.status == "KILLED"


def test_only_the_front_and_running_trials_keep_their_checkpoints(study: Study) -> None:
    for evaluation in (done(0.8, 0.5), done(0.7, 0.6), failed()):
        number = try_one(study, evaluation)
        study.folder.checkpoint(number).mkdir(parents=True)
    running = study.propose(Ladder(), price, DENSE_VALUES)
    assert running is not None
    study.folder.checkpoint(running.number).mkdir()
    checkpoints = study.folder.path / "checkpoints"
    (checkpoints / "note.txt").touch()
    (checkpoints / ".trial-00001.training.77").touch()
    (checkpoints / ".trial-00002.77.part").mkdir()
    (checkpoints / "trial-00000.start.safetensors").touch()
    (checkpoints / f"trial-{running.number:05d}.start.safetensors").touch()
    (checkpoints / f".trial-{running.number:05d}.77.part").mkdir()
    Checkpoints(study, Exchange(None, study.folder)).tidy()
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        f".trial-{running.number:05d}.77.part",
        "note.txt",
        "trial-00000",
        f"trial-{running.number:05d}",
        f"trial-{running.number:05d}.start.safetensors",
    ]


def test_whoever_may_come_to_the_front_keeps_its_checkpoint_until_it_is_repeated(
    tmp_path: Path,
) -> None:
    study = new_study(tmp_path, {"fidelity": {"seeds": 2}}, trials=2)
    names = []
    for accuracy in (0.9, 0.8):
        number = try_one(study, replace(done(accuracy, 0.5), epochs=1))
        study.folder.checkpoint(number).mkdir(parents=True)
    for accuracy in (0.6, 0.8):  # the first one was lucky
        proposal = study.propose(Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        study.folder.checkpoint(proposal.number).mkdir()
        study.folder.training(proposal.number).touch()
        Checkpoints(study, Exchange(None, study.folder)).tidy()
        names.append(sorted(path.name for path in (study.folder.path / "checkpoints").iterdir()))
        study.finish(proposal.number, replace(done(accuracy, 0.5), epochs=1))
    both = ["trial-00000", "trial-00001"]
    assert names == [
        [*both, "trial-00002", "trial-00002.training"],
        [*both, "trial-00003", "trial-00003.training"],
    ]
    Checkpoints(study, Exchange(None, study.folder)).tidy()
    (kept,) = (study.folder.path / "checkpoints").iterdir()
    assert kept.name == "trial-00001"


def test_training_of_an_interrupted_repeat_is_kept(tmp_path: Path) -> None:
    study = new_study(tmp_path, {"fidelity": {"seeds": 2}}, trials=1)
    try_one(study, replace(done(0.9, 0.5), epochs=1))
    repeat = study.propose(Ladder(), price, DENSE_VALUES)
    assert repeat is not None
    state = study.folder.training(repeat.number)
    state.touch()
    study.requeue_interrupted()
    Checkpoints(study, Exchange(None, study.folder)).tidy()
    assert state.exists()


def test_cluster_that_nothing_answers_is_known_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"'{address}' cannot be joined: .*refused"):
            start_ray(RayConfig(address=address))


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"), [(1, 1.4, 2), (2, 1.2, 3), (2, 0.5, 2), (3, 2, 6)]
)
def test_local_ray_holds_every_worker(
    monkeypatch: pytest.MonkeyPatch, workers: int, cpus: float, expected: int
) -> None:
    asked: dict[str, Any] = {}

    def init(**options: Any) -> SimpleNamespace:
        asked.update(options)
        return SimpleNamespace(address_info={"session_dir": "/nowhere"})

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 9.0, "GPU": 1.0})
    start_ray(RayConfig(workers=workers, cpus_per_trial=cpus))
    assert asked["num_cpus"] == expected
    with pytest.raises(ClusterError, match=r"gpus_per_trial is 2; this machine has 1 GPUs"):
        start_ray(RayConfig(gpus_per_trial=2))


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n", b"", b"SSH"])
def test_server_that_is_not_ray_is_known_at_once(answer: bytes) -> None:
    def serve() -> None:
        with server.accept()[0] as connection:
            connection.recv(100)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        thread = Thread(target=serve)
        thread.start()
        with pytest.raises(ClusterError, match=rf"'{address}' cannot be joined: .* is not Ray$"):
            start_ray(RayConfig(address=address))
        thread.join()


@pytest.mark.parametrize("address", ["", "head", "head:", ":1", "head:0", "http://h:80"])
def test_address_of_another_form_names_those_that_are_allowed(address: str) -> None:
    with pytest.raises(ClusterError, match=f"'{address}' cannot be joined: allowed: auto, "):
        start_ray(RayConfig(address=address))


def test_cluster_that_asks_for_a_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        try:
            raise RuntimeError("RPC error: InvalidAuthToken: token is missing")
        except RuntimeError as cause:
            raise ConnectionError("Failed to connect to Ray cluster at h:1") from cause

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError, match=r"joined: it asks for a token; set RAY_AUTH_MODE=token"):
        start_ray(RayConfig(address="auto"))


def test_own_modules_are_sent_to_the_nodes_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").touch()
    settings = read_config({"network": {"name": "nets:build"}, "data": {"name": "installed:data"}})
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.init", lambda **options: seen.append(options))
    modules = own_modules(settings, tmp_path)
    assert start_ray(RayConfig(address="auto"), modules) is None
    start_ray(RayConfig(address="auto"))
    assert [options["runtime_env"] for options in seen] == [
        {"py_modules": [str(tmp_path / "nets.py")]},
        None,
    ]


def test_head_on_loopback_alone_is_told_from_one_on_every_interface() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        assert _only_on_loopback(f"127.0.0.1:{port}")
        assert _only_on_loopback(f"ray://localhost:{port}")
        with socket.create_server(("127.0.0.2", port)):
            assert not _only_on_loopback(f"127.0.0.1:{port}")
    assert not _only_on_loopback("auto")
    assert not _only_on_loopback("10.0.0.1:6379")


def test_cluster_of_other_versions_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: RayConfig) -> None:
        raise ClusterError("Version mismatch")

    monkeypatch.setattr("search.ray_session.check_answers", lambda address: None)
    monkeypatch.setattr("search.ray_session.start_ray", refuse)
    monkeypatch.setattr("search.run.train_dense", lambda *_: pytest.fail("trained"))
    study = new_study(tmp_path, {"ray": {"address": "10.0.0.1:6379"}}, dense=False)
    with pytest.raises(ClusterError, match="Version mismatch"):
        run_study(study)


def test_other_versions_of_a_cluster_are_both_named_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private.utils import check_version_info

    def init(**options: object) -> None:
        theirs = {"ray_version": "2.9.0", "python_version": "3.8.1"}
        check_version_info(theirs, "node 10.0.0.1:6379")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError, match=r"joined: Version mismatch: ") as caught:
        start_ray(RayConfig(address="auto"))
    text = str(caught.value)
    for version in ("2.9.0", "3.8.1", ray.__version__, platform.python_version()):
        assert version in text
    assert "\n" not in text


def test_as_many_trials_may_wait_for_resources_as_there_are_workers() -> None:
    """An autoscaler would add nodes one by one otherwise; Ray decides it by how Tune is called."""
    from ray.tune.execution.tune_controller import _get_max_pending_trials
    from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator

    limited = SearchGenerator(ConcurrencyLimiter(Searcher(), max_concurrent=8))
    assert _get_max_pending_trials(limited) == 8


@pytest.mark.ray
def test_worker_finds_what_the_study_names_beside_itself(tmp_path: Path) -> None:
    """A preset, like a data set, by a path relative to where the search was started."""
    (tmp_path / "mine.toml").write_text('base = "isaac-8bit-weights"\nname = "mine"\n')
    (tmp_path / "study.toml").write_text(
        """
[study]
name = "beside"
trials = 1
[network]
name = "mlp"
arguments = { hidden = 8 }
[hardware]
preset = "mine.toml"
[train]
dense_epochs = 0
epochs = 0
train_count = 100
[data]
test_count = 50
[ray]
workers = 1
"""
    )
    answer = subprocess.run(
        [sys.executable, "-m", "search.cli", "search", "study.toml", "--json", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert json.loads(answer.stdout)["trials"]["complete"] == 1
