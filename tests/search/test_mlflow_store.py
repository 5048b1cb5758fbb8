import socket
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from hwmodel.errors import TrackingError
from search.mlflow_store import check_tracking, reason
from search.tracking import MlflowMirror
from search.urls import shown
from tests.search.fakes import new_study


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_server_that_is_down_is_one_line_before_mlflow_tries_and_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "MlflowClient", failing(AssertionError("not to be reached")))
    uri = f"http://127.0.0.1:{closed_port()}"
    study = new_study(tmp_path, {"mlflow": {"tracking_uri": uri}})
    for start in (lambda: MlflowMirror(study), lambda: check_tracking(uri)):
        with pytest.raises(TrackingError, match=f"{uri} cannot be reached") as caught:
            start()
        assert "\n" not in str(caught.value)


def test_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def urlopen(url: str, timeout: float) -> None:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(TrackingError, match="timed out"):
        check_tracking("http://127.0.0.1:1")
    assert asked == [5]


@pytest.mark.parametrize(
    "uri",
    [
        "foo://bar",
        "http://",
        "sqlite:////proc/no/x.db",
        "http://[",
        "postgresql+psycopg://127.0.0.1:1/x",
    ],
)
def test_store_that_cannot_be_is_one_line(tmp_path: Path, uri: str) -> None:
    study = new_study(tmp_path, {"mlflow": {"tracking_uri": uri}})
    with pytest.raises(TrackingError) as caught:
        MlflowMirror(study)
    assert "\n" not in str(caught.value)


def test_local_database_needs_no_check() -> None:
    check_tracking(None)


def test_database_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'psycopg2'")
    monkeypatch.setattr("sqlalchemy.create_engine", failing(missing))
    with pytest.raises(TrackingError, match=r"psycopg2.*install crossfront\[postgres\]"):
        check_tracking("postgresql://127.0.0.1/x")


def test_messages_have_one_line_and_no_password() -> None:
    assert reason(OSError("no\n  route")) == "no route"
    assert reason(OSError()) == "OSError"
    assert shown("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
    assert shown("http://host:5000/a@b") == "http://host:5000/a@b"
