import json
import logging
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

import search.tracking
from hwmodel.errors import TrackingError
from search.study import Study
from search.tracking import MlflowMirror, check_tracking, mirrored_runs, tracking_uri
from spaces import Candidate, Suggester
from tests.search.fakes import DENSE_VALUES, Ladder, done, failed, new_study, try_one

PARENT = "mlflow.parentRunId"


@pytest.fixture
def study(storage: Path) -> Study:
    """A study whose store costs no migrations."""
    return new_study(storage, constraints=["area <= 0.99x"])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was away is tried again at once."""
    monkeypatch.setattr(search.tracking, "_RETRY_S", 0.0)


def client_of(study: Study) -> Any:
    return mlflow.MlflowClient(tracking_uri=tracking_uri(study))


def runs_of(study: Study) -> list[Any]:
    """All runs of the study's experiment."""
    client = client_of(study)
    experiment = client.get_experiment_by_name(study.config.mlflow.experiment)
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def children_of(study: Study) -> dict[int, Any]:
    """Child runs by trial number; there is one for each."""
    found: dict[int, Any] = {}
    for run in runs_of(study):
        if PARENT in run.data.tags:
            number = int(run.data.tags["crossfront.trial"])
            assert number not in found, f"trial {number} has two runs"
            found[number] = run
    return found


def parents_of(study: Study) -> list[Any]:
    return [run for run in runs_of(study) if PARENT not in run.data.tags]


def pareto_of(study: Study) -> set[int]:
    runs = children_of(study)
    return {number for number, run in runs.items() if run.data.tags["pareto"] == "true"}


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def checkpoint(study: Study, number: int) -> None:
    folder = study.folder.checkpoint(number)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"trial": number}))


def artifacts_of(study: Study, number: int) -> list[str]:
    client = client_of(study)
    return [f.path for f in client.list_artifacts(mirrored_runs(study)[number], "checkpoint")]


def test_one_parent_and_a_child_for_each_ended_trial(study: Study) -> None:
    mirror = MlflowMirror(study)
    study.enqueue([{"x": 100}, {"x": 40}, {"x": 30}])
    assert try_one(study, done(0.8, 0.5)) == 1  # the first is infeasible
    try_one(study, failed("loss is nan"))
    assert mirror.sync()
    (parent,) = parents_of(study)
    assert parent.info.run_id == mirror.parent
    assert parent.info.run_name == "tiny"
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["crossfront.study"] == "tiny"
    children = children_of(study)
    assert {n: (r.info.status, r.data.tags["status"]) for n, r in children.items()} == {
        0: ("KILLED", "infeasible"),
        1: ("FINISHED", "complete"),
        2: ("FAILED", "failed"),
    }
    for number, run in children.items():
        assert run.data.tags[PARENT] == mirror.parent
        assert run.info.run_name == f"tiny-{number:04d}"
    assert children[0].data.tags["reason"] == "breaks area <= 0.99x before training"
    assert children[2].data.tags["reason"] == "loss is nan"


def test_child_carries_candidate_and_measurements(study: Study) -> None:
    mirror = MlflowMirror(study)
    study.enqueue([{"x": 40}])
    try_one(study, done(0.8, 0.5, latency=7.0))
    mirror.sync()
    run = children_of(study)[0]
    assert run.data.params == {
        "method": "tinyadc",
        "seed": str(study.trials()[0].user_attrs["candidate"]["seed"]),
        "cell_bits": "2",
        "dac_bits": "1",
        "wordlines": "128",
        "bitlines": "128",
        "fc1.nonzeros": "40",
        "fc1.kept_shapes": "1.0",
        "fc1.kept_filters": "1.0",
    }
    assert run.data.metrics == {
        "accuracy": 0.8,
        "adc_area_m2": 0.5,
        "adc_power_w": 0.5,
        "area_m2": 0.5,
        "power_w": 0.5,
        "energy_j": 0.5,
        "latency_s": 7.0,
        "max_adc_bits": 5.0,
        "seconds": 2.5,
    }


def test_running_trials_are_not_mirrored(study: Study) -> None:
    mirror = MlflowMirror(study)
    study.enqueue([{"x": 40}])
    assert mirror.sync()
    assert children_of(study) == {}


def test_nothing_is_sent_twice(study: Study) -> None:
    mirror = MlflowMirror(study)
    for _ in range(2):
        try_one(study, done(0.8, 0.5))
        for _ in range(2):
            assert mirror.sync()
    assert len(children_of(study)) == len(study.ended())


def test_run_ids_are_noted_in_the_study(study: Study) -> None:
    mirror = MlflowMirror(study)
    number = try_one(study, done(0.8, 0.5))
    mirror.sync()
    assert mirrored_runs(Study.open(study.folder))[number] == children_of(study)[number].info.run_id


def test_pareto_tag_moves_with_the_front(study: Study) -> None:
    mirror = MlflowMirror(study)
    study.enqueue([{"x": x} for x in range(10, 14)])
    for accuracy, cost, front in (
        (0.8, 0.5, {0}),
        (0.7, 0.3, {0, 1}),
        (0.85, 0.4, {1, 2}),
        (0.9, 0.2, {3}),
    ):
        try_one(study, done(accuracy, cost))
        mirror.sync()
        assert pareto_of(study) == front


def test_resumed_driver_goes_on_where_the_last_one_stopped(study: Study) -> None:
    study.enqueue([{"x": x} for x in range(10, 14)])
    first = MlflowMirror(study)
    try_one(study, done(0.8, 0.5))
    try_one(study, done(0.7, 0.3))
    first.sync()
    before = children_of(study)
    again = Study.open(study.folder)
    second = MlflowMirror(again)
    assert second.parent == first.parent
    try_one(again, done(0.9, 0.2))
    assert second.sync()
    after = children_of(study)
    assert {n: after[n].info.run_id for n in before} == {
        n: run.info.run_id for n, run in before.items()
    }
    assert set(after) == {0, 1, 2}
    assert pareto_of(study) == {2}
    assert len(parents_of(study)) == 1


def test_run_that_a_killed_driver_left_running_is_replaced(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = MlflowMirror(study)
    number = try_one(study, done(0.8, 0.5))
    monkeypatch.setattr(mirror._client, "log_batch", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        mirror.sync()
    left = children_of(study)[number]
    assert left.info.status == "RUNNING"
    assert MlflowMirror(Study.open(study.folder)).sync()
    replaced = children_of(study)[number]
    assert replaced.info.run_id != left.info.run_id
    assert replaced.info.status == "FINISHED"
    assert replaced.data.metrics["accuracy"] == 0.8


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "set_tag"])
def test_store_that_fails_loses_nothing_and_catches_up(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    mirror = MlflowMirror(study)
    numbers = {try_one(study, done(0.8, 0.5))}
    assert mirror.sync()
    with monkeypatch.context() as away, caplog.at_level(logging.WARNING, "search.tracking"):
        away.setattr(mirror._client, call, failing(OSError("no\nroute")))
        numbers.add(try_one(study, done(0.9, 0.4)))
        assert not mirror.sync()
        numbers.add(try_one(study, done(0.95, 0.3)))
        assert not mirror.sync()
        assert not mirror.finish({}, complete=False)
    assert "no route; the study keeps every result" in caplog.text
    assert study.counts()["complete"] == 3
    assert mirror.sync()
    finished = {
        int(run.data.tags["crossfront.trial"])
        for run in runs_of(study)
        if PARENT in run.data.tags and run.info.status == "FINISHED"
    }
    assert numbers <= finished


@pytest.mark.parametrize("call", ["log_batch", "set_terminated"])
def test_store_that_fails_half_way_leaves_no_second_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    mirror = MlflowMirror(study)
    try_one(study, done(0.9, 0.4))
    with monkeypatch.context() as away:
        away.setattr(mirror._client, call, failing(OSError("away")))
        mirror.sync()
    mirror.sync()
    children_of(study)


def test_store_that_is_away_is_left_alone_for_a_while(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search.tracking, "_RETRY_S", 3600.0)
    mirror = MlflowMirror(study)
    try_one(study, done(0.8, 0.5))
    with monkeypatch.context() as away:
        away.setattr(mirror._client, "create_run", failing(OSError("away")))
        assert not mirror.sync()
    assert not mirror.sync()
    assert children_of(study) == {}
    assert mirror.finish({}, complete=True)  # the end is worth another try
    assert set(children_of(study)) == {0}


def test_finish_closes_the_parent_with_summary_and_files(study: Study, tmp_path: Path) -> None:
    mirror = MlflowMirror(study)
    try_one(study, done(0.85, 0.5))
    report = tmp_path / "report.html"
    report.write_text("<html></html>")
    assert mirror.finish({"report": report}, complete=True)
    (parent,) = parents_of(study)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["dense_accuracy"] == 0.9
    assert parent.data.metrics["dense_area_m2"] == 1.0
    assert parent.data.metrics["hypervolume"] == pytest.approx(study.hypervolume())
    client = client_of(study)
    names = {file.path for file in client.list_artifacts(mirror.parent)}
    assert names == {"report.html", "config.toml", "environment.json"}
    text = Path(client.download_artifacts(mirror.parent, "config.toml")).read_text()
    assert text == study.config.to_toml()


def test_interrupted_study_leaves_a_killed_parent_that_resuming_revives(study: Study) -> None:
    MlflowMirror(study).finish({}, complete=False)
    assert parents_of(study)[0].info.status == "KILLED"
    mirror = MlflowMirror(Study.open(study.folder))
    assert [run.info.status for run in parents_of(study)] == ["RUNNING"]
    mirror.finish({}, complete=True)
    assert [run.info.status for run in parents_of(study)] == ["FINISHED"]


def test_front_members_carry_their_checkpoint_while_they_are_on_the_front(study: Study) -> None:
    mirror = MlflowMirror(study)
    for number, (accuracy, cost) in enumerate(((0.8, 0.5), (0.7, 0.6))):
        assert try_one(study, done(accuracy, cost)) == number
        checkpoint(study, number)
    mirror.finish({}, complete=False)
    assert artifacts_of(study, 0) == ["checkpoint/manifest.json"]
    assert artifacts_of(study, 1) == []
    again = Study.open(study.folder)
    mirror = MlflowMirror(again)
    try_one(again, done(0.9, 0.2))
    checkpoint(study, 2)
    mirror.finish({}, complete=True)
    assert artifacts_of(study, 0) == []
    assert artifacts_of(study, 2) == ["checkpoint/manifest.json"]


def test_parent_that_the_store_has_lost_is_made_anew(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = MlflowMirror(study)
    try_one(study, done(0.8, 0.5))
    mirror.sync()
    client_of(study).delete_run(mirror.parent)
    again = MlflowMirror(Study.open(study.folder))
    assert "has lost run" in caplog.text
    assert again.parent != mirror.parent
    assert again.sync()
    own = [r for r in runs_of(study) if r.data.tags.get(PARENT) == again.parent]
    assert [r.data.tags["crossfront.trial"] for r in own] == ["0"]


def test_two_studies_share_one_store(study: Study, storage: Path) -> None:
    other = new_study(storage, name="other")
    for each in (study, other):
        try_one(each, done(0.8, 0.5))
        assert MlflowMirror(each).sync()
    assert len(parents_of(study)) == 2
    names = {run.data.tags["crossfront.study"] for run in runs_of(study)}
    assert names == {"tiny", "other"}


def test_storage_may_have_any_name(tmp_path: Path, empty_database: Path) -> None:
    storage = tmp_path / "My Studies # 100% é"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    study = new_study(storage)
    mirror = MlflowMirror(study)
    try_one(study, done(0.8, 0.5))
    checkpoint(study, 0)
    assert mirror.finish({}, complete=True)
    assert artifacts_of(study, 0) == ["checkpoint/manifest.json"]


def test_many_layers_are_no_obstacle(study: Study) -> None:
    """MLflow takes 100 parameters at a time."""

    class Deep(Ladder):
        def suggest(self, trial: Suggester, seed: int) -> Candidate:
            plain = super().suggest(trial, seed)
            setting = plain.layers["fc1"]
            return replace(plain, layers={f"layer{i}.conv": setting for i in range(60)})

    mirror = MlflowMirror(study)
    proposal = study.propose(Deep(), lambda candidate: {}, DENSE_VALUES)
    assert proposal is not None
    study.finish(proposal.number, done(0.8, 0.5))
    assert mirror.sync()
    assert len(children_of(study)[0].data.params) == 186


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
    ],
)
def test_store_that_cannot_be_is_one_line(tmp_path: Path, uri: str) -> None:
    study = new_study(tmp_path, {"mlflow": {"tracking_uri": uri}})
    with pytest.raises(TrackingError) as caught:
        MlflowMirror(study)
    assert "\n" not in str(caught.value)


def test_local_database_needs_no_check() -> None:
    check_tracking(None)
