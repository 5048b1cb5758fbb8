"""The mirror against a real `mlflow server`, behind a login and over PostgreSQL."""

import base64
import importlib.util
import json
import logging
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from hwmodel.crossbar import SignEncoding
from hwmodel.errors import TrackingError
from search.mlflow_store import check_tracking
from search.study import Study
from search.tracking import MlflowMirror, mirrored_runs, register_member
from tests.search.fakes import done, new_study, try_one
from tests.search.servers import MlflowServer, new_database
from tests.trainers.test_export import save
from tests.trainers.toys import MLP, toy_images
from trainers.checkpoint import load_checkpoint
from trainers.data import Dataset

pytestmark = pytest.mark.slow

ADMIN = ("admin", "long-enough-for-admin")
USER = ("worker", "long-enough-for-worker")


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def create_user(uri: str) -> None:
    login = base64.b64encode(":".join(ADMIN).encode()).decode()
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/users/create",
        json.dumps({"username": USER[0], "password": USER[1]}).encode(),
        {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


@pytest.fixture(scope="module")
def server(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server with an administrator and a user without any rights of their own."""
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("mlflow[auth] is not installed")
    folder = tmp_path_factory.mktemp("server")
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = MlflowServer(
        folder,
        new_database(postgres_url),
        ("--app-name", "basic-auth"),
        {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"},
    )
    try:
        server.start()
        create_user(server.uri)
        yield server
    finally:
        server.stop()


@pytest.fixture
def study(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study that the server's user mirrors there, in an experiment of the test's own."""
    log_in(monkeypatch, *USER)
    mlflow_table = {"tracking_uri": server.uri, "experiment": tmp_path.name}
    return new_study(tmp_path, {"mlflow": mlflow_table}, trials=30)


def runs_of(study: Study) -> tuple[Any, dict[int, Any]]:
    """The study's parent run, and its children by trial; there is one of each."""
    client = mlflow.MlflowClient(tracking_uri=study.config.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(study.config.mlflow.experiment)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    found = {int(run.data.tags["crossfront.trial"]): run for run in children}
    assert len(found) == len(children)
    return parent, found


def test_study_is_mirrored_over_postgresql_with_a_login(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    check_tracking(study.config.mlflow.tracking_uri)
    mirror = MlflowMirror(study)
    for accuracy, cost in ((0.8, 0.5), (0.7, 0.6), (0.9, 0.7)):
        number = try_one(study, done(accuracy, cost))
        study.folder.checkpoint(number).mkdir(parents=True)
        (study.folder.checkpoint(number) / "manifest.json").write_text("{}")
        mirror.sync()
    assert mirror.finish({}, complete=False)
    mirror.close()
    again = Study.open(study.folder)
    mirror = MlflowMirror(again)
    last = try_one(again, done(0.95, 0.4))  # takes everyone's place on the front
    assert mirror.finish({}, complete=True)
    mirror.close()
    assert capsys.readouterr().out == ""  # MLflow would print links there
    parent, children = runs_of(study)
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert {n for n, run in children.items() if run.data.tags["pareto"] == "true"} == {last}
    assert {n: run.info.run_id for n, run in children.items()} == mirrored_runs(again)
    client = mlflow.MlflowClient(tracking_uri=study.config.mlflow.tracking_uri)
    files = {n: client.list_artifacts(run.info.run_id) for n, run in children.items()}
    assert not any(files[n] for n in children if n != last)


def test_registered_model_lies_on_the_server_and_loads_there(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = try_one(study, done(0.8, 0.5))
    save(study.folder.checkpoint(number), MLP, SignEncoding.DIFFERENTIAL)
    images = toy_images(8)
    dataset: Dataset[Any] = Dataset(name="toys", train=images, test=images)
    mirror = MlflowMirror(study)
    assert mirror.finish({}, complete=True, dataset=dataset)
    mirror.close()
    (member,) = study.front()
    assert [register_member(study, member, "toy") for _ in range(2)] == [1, 1]
    uri = study.config.mlflow.tracking_uri
    version = mlflow.MlflowClient(tracking_uri=uri).get_model_version("toy", "1")
    assert version.run_id == mirrored_runs(study)[number]
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", uri)
    pixels = images.images.float().div(255)
    found = mlflow.pyfunc.load_model("models:/toy/1").predict(pixels.numpy())
    with torch.no_grad():
        expected = load_checkpoint(study.checkpoint(member)).network(pixels)
    assert torch.allclose(torch.from_numpy(found), expected)


def test_wrong_password_is_one_line(
    study: Study, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, USER[0], "not-the-password")
    for start in (lambda: check_tracking(server.uri), lambda: MlflowMirror(study)):
        with pytest.raises(
            TrackingError, match="refuses the login of user 'worker'; set"
        ) as caught:
            start()
        assert "\n" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(TrackingError, match="refuses a request without login"):
        check_tracking(server.uri)


def test_server_that_is_stopped_in_mid_study_costs_nothing_but_delay(
    study: Study, server: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = MlflowMirror(study)

    def spend(trials: int) -> None:
        for _ in range(trials):
            number = len(study.trials())
            started = time.monotonic()
            try_one(study, done(0.5 + number / 200, 0.3 + number / 200))
            mirror.sync()
            assert time.monotonic() - started < 5.0

    spend(2)
    assert mirror.flush(60.0)
    spend(5)
    with caplog.at_level(logging.WARNING, "search.tracking"):
        server.stop()  # while runs are being written
        spend(5)
        assert not mirror.flush(3.0)
    assert "the study keeps every result and sends it later" in caplog.text
    server.start()
    spend(2)
    assert mirror.finish({}, complete=True)
    mirror.close()
    parent, children = runs_of(study)
    assert parent.info.status == "FINISHED"
    assert set(children) == {trial.number for trial in study.ended()}
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert {n for n, run in children.items() if run.data.tags["pareto"] == "true"} == {
        trial.number for trial in study.front()
    }


def test_database_needs_no_server(tmp_path: Path, postgres_url: str) -> None:
    uri = new_database(postgres_url)
    study = new_study(tmp_path, {"mlflow": {"tracking_uri": uri}})
    mirror = MlflowMirror(study)
    try_one(study, done(0.8, 0.5))
    assert mirror.finish({}, complete=True)
    mirror.close()
    parent, children = runs_of(study)
    assert [parent.info.status, children[0].info.status] == ["FINISHED", "FINISHED"]
    assert parent.info.artifact_uri.startswith(study.folder.artifacts.as_uri())
