import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

import search.tracking
from hwmodel.errors import TrackingError
from search.report import write_pictures
from search.study import Study
from search.tracking import MlflowMirror, mirrored_runs, tracking_uri
from spaces import Candidate, LayerSetting, Suggester
from tests.search.fakes import DENSE_VALUES, Ladder, done, failed, new_study, price, try_one
from tests.waiting import until
from trainers.progress import watched_by

PARENT = "mlflow.parentRunId"

Start = Callable[[Study], MlflowMirror]


@pytest.fixture
def study(storage: Path) -> Study:
    """A study whose store costs no migrations."""
    return new_study(storage, constraints=["area <= 0.99x"])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was away is tried again at once."""
    monkeypatch.setattr(search.tracking, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(search.tracking, "_LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes mirrors whose threads end with the test, as if their drivers had been killed."""
    mirrors: list[MlflowMirror] = []

    def mirror_of(study: Study) -> MlflowMirror:
        mirrors.append(MlflowMirror(study))
        return mirrors[-1]

    yield mirror_of
    for mirror in mirrors:
        kill(mirror)


def kill(mirror: MlflowMirror) -> None:
    """What remains of a driver's mirror once the driver is gone: nothing."""
    mirror._sender.stop(10.0)


def send(mirror: MlflowMirror) -> None:
    """Brings the store up to date."""
    mirror.sync()
    assert mirror.flush(30.0)


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


def test_one_parent_and_a_child_for_each_ended_trial(study: Study, start: Start) -> None:
    mirror = start(study)
    study.enqueue([{"x": 100}, {"x": 40}, {"x": 30}])
    assert try_one(study, done(0.8, 0.5)) == 1  # the first is infeasible
    try_one(study, failed("loss is nan"))
    send(mirror)
    (parent,) = parents_of(study)
    assert parent.info.run_id == mirror.parent
    assert parent.info.run_name == "tiny: lenet5 on fashion-mnist-12k"
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
        assert run.info.run_name.startswith(f"tiny-{number:04d} tinyadc 128x128 nonzeros ")
    assert children[0].data.tags["reason"] == "breaks area <= 0.99x before training"
    assert children[2].data.tags["reason"] == "loss is nan"


def test_child_carries_candidate_and_measurements(study: Study, start: Start) -> None:
    mirror = start(study)
    study.enqueue([{"x": 40}])
    try_one(study, done(0.8, 0.5, latency=7.0))
    send(mirror)
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
        "fc1.whole_crossbars": "True",
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


def test_running_trials_are_not_mirrored(study: Study, start: Start) -> None:
    mirror = start(study)
    study.enqueue([{"x": 40}])
    send(mirror)
    assert children_of(study) == {}


def test_nothing_is_sent_twice(study: Study, start: Start) -> None:
    mirror = start(study)
    for _ in range(2):
        try_one(study, done(0.8, 0.5))
        for _ in range(2):
            send(mirror)
    assert len(children_of(study)) == len(study.ended())


def test_run_ids_are_noted_in_the_study(study: Study, start: Start) -> None:
    mirror = start(study)
    number = try_one(study, done(0.8, 0.5))
    send(mirror)
    assert mirrored_runs(Study.open(study.folder))[number] == children_of(study)[number].info.run_id


def test_pareto_tag_moves_with_the_front(study: Study, start: Start) -> None:
    mirror = start(study)
    study.enqueue([{"x": x} for x in range(10, 14)])
    for accuracy, cost, front in (
        (0.8, 0.5, {0}),
        (0.7, 0.3, {0, 1}),
        (0.85, 0.4, {1, 2}),
        (0.9, 0.2, {3}),
    ):
        try_one(study, done(accuracy, cost))
        send(mirror)
        assert pareto_of(study) == front


def test_member_carries_what_it_came_to_over_its_seeds(storage: Path, start: Start) -> None:
    study = new_study(storage, {"fidelity": {"seeds": 3}}, trials=1)
    try_one(study, replace(done(0.8, 0.5), epochs=1))
    mirror = start(study)
    try_one(study, replace(done(0.7, 0.5), epochs=1))
    send(mirror)
    kill(mirror)
    try_one(study, failed())
    mirror = start(study)
    mirror.finish({}, complete=True)
    member, repeat, lost = (children_of(study)[number] for number in range(3))
    assert member.data.metrics["seeds"] == 2
    assert member.data.metrics["accuracy"] == 0.8
    found = [member.data.metrics[f"accuracy_{key}"] for key in ("mean", "min", "max")]
    assert found == [pytest.approx(0.75), 0.7, 0.8]
    assert (repeat.data.tags["repeat_of"], repeat.data.tags["status"]) == ("0", "repeated")
    assert (repeat.info.status, lost.info.status) == ("FINISHED", "FAILED")
    assert pareto_of(study) == {0}


def test_resumed_driver_goes_on_where_the_last_one_stopped(study: Study, start: Start) -> None:
    study.enqueue([{"x": x} for x in range(10, 14)])
    first = start(study)
    try_one(study, done(0.8, 0.5))
    try_one(study, done(0.7, 0.3))
    send(first)
    before = children_of(study)
    again = Study.open(study.folder)
    second = start(again)
    assert second.parent == first.parent
    try_one(again, done(0.9, 0.2))
    send(second)
    after = children_of(study)
    assert {n: after[n].info.run_id for n in before} == {
        n: run.info.run_id for n, run in before.items()
    }
    assert set(after) == {0, 1, 2}
    assert pareto_of(study) == {2}
    assert len(parents_of(study)) == 1


def test_run_that_a_killed_driver_left_running_is_completed(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = start(study)
    number = try_one(study, done(0.8, 0.5))
    monkeypatch.setattr(mirror._store._client, "log_batch", failing(OSError("away")))
    mirror.sync()
    until(lambda: children_of(study), 30.0, every=0.005)
    kill(mirror)
    left = children_of(study)[number]
    assert left.info.status == "RUNNING"
    send(start(Study.open(study.folder)))
    completed = children_of(study)[number]
    assert completed.info.run_id == left.info.run_id
    assert completed.info.status == "FINISHED"
    assert completed.data.metrics["accuracy"] == 0.8


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "set_tag"])
def test_store_that_fails_loses_nothing_and_catches_up(
    study: Study,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    mirror = start(study)
    numbers = {try_one(study, done(0.8, 0.5))}
    send(mirror)
    with monkeypatch.context() as away, caplog.at_level(logging.WARNING, "search.tracking"):
        away.setattr(mirror._store._client, call, failing(OSError("no\nroute")))
        away.setattr(search.tracking, "_PATIENCE_S", 0.1)
        for accuracy, cost in ((0.9, 0.4), (0.95, 0.3)):
            numbers.add(try_one(study, done(accuracy, cost)))
            mirror.sync()
        assert not mirror.flush(0.1)
        assert not mirror.finish({}, complete=True)
    assert "no route; the study keeps every result" in caplog.text
    assert "and the end of the study; 'crossfront resume tiny' sends it" in caplog.text
    assert study.counts()["complete"] == 3
    assert mirror.flush(30.0)
    assert {n for n, r in children_of(study).items() if r.info.status == "FINISHED"} == numbers
    assert pareto_of(study) == {trial.number for trial in study.front()}
    assert [run.info.status for run in parents_of(study)] == ["FINISHED"]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated"])
def test_answer_that_is_lost_makes_no_second_run(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    mirror = start(study)
    try_one(study, done(0.9, 0.4))
    honest, calls = getattr(mirror._store._client, call), []

    def deaf(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        answer = honest(*arguments, **named)
        if len(calls) == 1:
            raise TimeoutError("read timed out")
        return answer

    monkeypatch.setattr(mirror._store._client, call, deaf)
    send(mirror)
    assert children_of(study)[0].info.status == "FINISHED"
    assert len(calls) == (1 if call == "create_run" else 2)


def test_run_that_a_late_answer_doubled_is_deleted_at_the_end(study: Study, start: Start) -> None:
    mirror = start(study)
    number = try_one(study, done(0.9, 0.4))
    send(mirror)
    run = children_of(study)[number]
    client_of(study).create_run(
        run.info.experiment_id, tags={PARENT: mirror.parent, "crossfront.trial": str(number)}
    )
    assert mirror.finish({}, complete=True)
    assert children_of(study)[number].info.run_id == run.info.run_id


def test_what_the_store_refuses_stops_nothing_else(
    study: Study, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = start(study)
    study.enqueue([{"x": x} for x in range(10, 13)])
    number = try_one(study, done(0.8, 0.5))
    send(mirror)
    client_of(study).delete_run(children_of(study)[number].info.run_id)
    try_one(study, done(0.9, 0.4))  # takes the other's place on the front
    send(mirror)
    assert "left out" in caplog.text
    assert set(children_of(study)) == {1}


def test_driver_does_not_wait_for_a_store_that_hangs(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = start(study)
    answer = threading.Event()
    honest = mirror._store._client.create_run

    def hang(*arguments: Any, **named: Any) -> Any:
        answer.wait(30.0)
        return honest(*arguments, **named)

    monkeypatch.setattr(mirror._store._client, "create_run", hang)
    for _ in range(5):
        try_one(study, done(0.8, 0.5))
        mirror.sync()
    assert not mirror.flush(0.05)
    assert children_of(study) == {}  # nobody has waited for the answer
    answer.set()
    assert mirror.flush(30.0)
    assert len(children_of(study)) == len(study.ended())


def test_calls_for_a_trial_are_three_however_many_came_before(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = start(study)
    for cost in (0.5, 0.6, 0.7):
        try_one(study, done(0.8, cost))
    send(mirror)
    calls: list[str] = []
    store = mirror._store._client._tracking_client.store

    def count(name: str) -> Callable[..., Any]:
        honest = getattr(store, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return honest(*arguments, **named)

        return counted

    for name in ("create_run", "log_batch", "update_run_info", "set_tag", "get_run", "search_runs"):
        monkeypatch.setattr(store, name, count(name))
    try_one(study, done(0.7, 0.6))
    send(mirror)
    assert calls == ["create_run", "log_batch", "update_run_info"]


def test_only_trials_that_have_ended_since_are_read(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = start(study)
    read: list[int] = []
    honest = search.tracking._trial_run

    def reading(study: Study, trial: Any, *, pareto: bool) -> Any:
        read.append(trial.number)
        return honest(study, trial, pareto=pareto)

    monkeypatch.setattr(search.tracking, "_trial_run", reading)
    monkeypatch.setattr(study, "ended", failing(AssertionError("reads every trial")))
    study.enqueue([{"x": x} for x in (20, 21, 22, 23)])
    slow = study.propose(Ladder(), price, DENSE_VALUES)
    assert slow is not None
    for _ in range(2):
        try_one(study, done(0.8, 0.5))
        mirror.sync()
        mirror.sync()
    study.finish(slow.number, done(0.85, 0.4))
    send(mirror)
    assert read == [1, 2, 0]
    assert pareto_of(study) == {0}


def test_finish_closes_the_parent_with_summary_and_files(
    study: Study, start: Start, tmp_path: Path
) -> None:
    mirror = start(study)
    try_one(study, done(0.85, 0.5))
    report = tmp_path / "report.html"
    report.write_text("<html></html>")
    pictures = write_pictures(study)
    assert mirror.finish({"report": report}, pictures, complete=True)
    (parent,) = parents_of(study)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["dense_accuracy"] == 0.9
    assert parent.data.metrics["dense_area_m2"] == 1.0
    assert parent.data.metrics["hypervolume"] == pytest.approx(study.hypervolume())
    client = client_of(study)
    names = {file.path for file in client.list_artifacts(mirror.parent)}
    assert names == {"report.html", "config.toml", "environment.json", "figures"}
    figures = {file.path for file in client.list_artifacts(mirror.parent, "figures")}
    assert figures == {"figures/front.png", "figures/hypervolume.png"}
    text = Path(client.download_artifacts(mirror.parent, "config.toml")).read_text()
    assert text == study.config.to_toml()


def test_interrupted_study_leaves_a_killed_parent_that_resuming_revives(
    study: Study, start: Start
) -> None:
    start(study).finish({}, complete=False)
    assert parents_of(study)[0].info.status == "KILLED"
    mirror = start(Study.open(study.folder))
    assert [run.info.status for run in parents_of(study)] == ["RUNNING"]
    mirror.finish({}, complete=True)
    assert [run.info.status for run in parents_of(study)] == ["FINISHED"]


def test_front_members_carry_their_checkpoint_while_they_are_on_the_front(
    study: Study, start: Start
) -> None:
    mirror = start(study)
    for number, (accuracy, cost) in enumerate(((0.8, 0.5), (0.7, 0.6))):
        assert try_one(study, done(accuracy, cost)) == number
        checkpoint(study, number)
    mirror.finish({}, complete=False)
    assert artifacts_of(study, 0) == ["checkpoint/manifest.json"]
    assert artifacts_of(study, 1) == []
    again = Study.open(study.folder)
    mirror = start(again)
    try_one(again, done(0.9, 0.2))
    checkpoint(study, 2)
    mirror.finish({}, complete=True)
    assert artifacts_of(study, 0) == []
    assert artifacts_of(study, 2) == ["checkpoint/manifest.json"]


def test_checkpoint_that_a_killed_driver_sent_in_part_is_sent_again(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search.tracking, "_PATIENCE_S", 0.1)
    mirror = start(study)
    checkpoint(study, try_one(study, done(0.8, 0.5)))
    send(mirror)
    with monkeypatch.context() as dying:
        dying.setattr(mirror._store._client, "log_artifacts", failing(OSError("the driver dies")))
        assert not mirror.finish({}, complete=True)
        kill(mirror)
    assert artifacts_of(study, 0) == []
    monkeypatch.setattr(search.tracking, "_PATIENCE_S", 60.0)
    assert start(Study.open(study.folder)).finish({}, complete=True)
    assert artifacts_of(study, 0) == ["checkpoint/manifest.json"]


def test_parent_that_the_store_has_lost_is_made_anew(
    study: Study, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = start(study)
    try_one(study, done(0.8, 0.5))
    send(mirror)
    client_of(study).delete_run(mirror.parent)
    again = start(Study.open(study.folder))
    assert "has lost run" in caplog.text
    assert again.parent != mirror.parent
    send(again)
    own = [r for r in runs_of(study) if r.data.tags.get(PARENT) == again.parent]
    assert [r.data.tags["crossfront.trial"] for r in own] == ["0"]


def test_two_studies_share_one_store(study: Study, start: Start, storage: Path) -> None:
    other = new_study(storage, name="other")
    for each in (study, other):
        try_one(each, done(0.8, 0.5))
        send(start(each))
    assert len(parents_of(study)) == 2
    names = {run.data.tags["crossfront.study"] for run in runs_of(study)}
    assert names == {"tiny", "other"}


def test_storage_may_have_any_name(start: Start, tmp_path: Path, empty_database: Path) -> None:
    storage = tmp_path / "My Studies # 100% é"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    study = new_study(storage)
    mirror = start(study)
    try_one(study, done(0.8, 0.5))
    checkpoint(study, 0)
    assert mirror.finish({}, complete=True)
    assert artifacts_of(study, 0) == ["checkpoint/manifest.json"]


def test_many_layers_are_no_obstacle(study: Study, start: Start) -> None:
    """MLflow takes 100 parameters at a time."""

    class Deep(Ladder):
        def suggest(self, trial: Suggester, seed: int) -> Candidate:
            plain = super().suggest(trial, seed)
            setting = plain.layers["fc1"]
            return replace(plain, layers={f"layer{i}.conv": setting for i in range(60)})

    mirror = start(study)
    proposal = study.propose(Deep(), lambda candidate: {}, DENSE_VALUES)
    assert proposal is not None
    study.finish(proposal.number, done(0.8, 0.5))
    send(mirror)
    assert len(children_of(study)[0].data.params) == 246


def test_every_setting_of_a_layer_is_a_parameter(study: Study, start: Start) -> None:
    class Mixed(Ladder):
        def suggest(self, trial: Suggester, seed: int) -> Candidate:
            return replace(
                super().suggest(trial, seed),
                layers={"fc1": LayerSetting(adc_bits=4, kept_weights=0.5), "fc2": LayerSetting()},
            )

    mirror = start(study)
    proposal = study.propose(Mixed(), lambda candidate: {}, DENSE_VALUES)
    assert proposal is not None
    study.finish(proposal.number, done(0.8, 0.5))
    send(mirror)
    found = children_of(study)[0].data.params
    assert {name: value for name, value in found.items() if name.startswith("fc")} == {
        "fc1.adc_bits": "4",
        "fc1.kept_weights": "0.5",
        "fc1.kept_shapes": "1.0",
        "fc1.kept_filters": "1.0",
        "fc1.whole_crossbars": "True",
        "fc2.kept_shapes": "1.0",
        "fc2.kept_filters": "1.0",
        "fc2.whole_crossbars": "True",
    }


def test_closing_ends_what_was_not_finished(study: Study, start: Start) -> None:
    mirror = start(study)
    number = try_one(study, done(0.8, 0.5))
    mirror.sync()
    mirror.close()
    assert [run.info.status for run in parents_of(study)] == ["KILLED"]
    assert children_of(study)[number].info.status == "FINISHED"
    assert set(mirrored_runs(study)) == {number}
    assert not mirror._sender._thread.is_alive()


def test_closing_after_the_end_changes_nothing(study: Study, start: Start) -> None:
    mirror = start(study)
    assert mirror.finish({}, complete=True)
    mirror.close()
    assert [run.info.status for run in parents_of(study)] == ["FINISHED"]


def test_closing_a_store_that_is_away_says_what_is_missing(
    study: Study,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(search.tracking, "_CLOSING_S", 0.1)
    mirror = start(study)
    try_one(study, done(0.8, 0.5))
    monkeypatch.setattr(mirror._store._client, "create_run", failing(OSError("away")))
    mirror.sync()
    mirror.close()
    assert "still to be sent: 1 trials and the end of the study" in caplog.text


def test_killed_driver_leaves_a_parent_that_the_next_one_ends(study: Study, start: Start) -> None:
    first = start(study)
    kill(first)
    assert [run.info.status for run in parents_of(study)] == ["RUNNING"]
    second = start(Study.open(study.folder))
    assert second.parent == first.parent
    second.close()
    assert [run.info.status for run in parents_of(study)] == ["KILLED"]


def test_driver_killed_before_it_noted_its_parent_run_leaves_no_second_one(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = study.note

    def note(key: str, value: Any) -> None:
        if "run_id" in value:
            raise OSError("the driver dies")
        honest(key, value)

    monkeypatch.setattr(study, "note", note)
    with pytest.raises(TrackingError):
        start(study)
    (left,) = parents_of(study)
    assert start(Study.open(study.folder)).parent == left.info.run_id
    assert len(parents_of(study)) == 1


def test_end_that_was_not_waited_for_is_that_of_an_interrupted_study(
    study: Study, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a second Ctrl-C does while the mirror catches up."""
    mirror = start(study)
    entered, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        entered.set()
        go_on.wait(10)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror._store, "log_summary", slow)
    with monkeypatch.context() as patch:
        patch.setattr(mirror._sender, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mirror.finish({}, complete=True)
    assert entered.wait(10)
    threading.Timer(0.2, go_on.set).start()
    mirror.close()
    assert [run.info.status for run in parents_of(study)] == ["KILLED"]


_WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that half of what it writes reaches the file
database.execute("BEGIN EXCLUSIVE")
database.execute("UPDATE tags SET value = value || ?", ["half" * 1000])
print("writing", flush=True)
sys.stdin.read()
"""


def test_lock_and_half_a_write_of_a_killed_process_are_taken_back(
    study: Study, start: Start
) -> None:
    mirror = start(study)
    try_one(study, done(0.8, 0.5))
    send(mirror)
    database = Path(tracking_uri(study).removeprefix("sqlite:///"))
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.kill()
    assert database.with_name(f"{database.name}-journal").exists()
    try_one(study, done(0.7, 0.4))
    send(start(study))
    assert len(children_of(study)) == 2
    assert not any(
        "half" in value for run in children_of(study).values() for value in run.data.tags.values()
    )


def test_what_is_being_sent_is_counted(study: Study, start: Start) -> None:
    mirror = start(study)
    send(mirror)
    seen: list[tuple[str, int]] = []

    def watch(items: Iterable[Any], what: str, count: int) -> Iterator[Any]:
        for item in items:
            seen.append((what, count))
            yield item

    for _ in range(3):
        try_one(study, done(0.8, 0.5))
    held = threading.Event()
    mirror._sender.post(held.wait)  # nothing is sent before it is counted
    mirror.sync()
    threading.Timer(0.1, held.set).start()
    with watched_by(watch):
        assert mirror.flush(30.0)
    assert len(seen) > 3
    assert seen == [("sent to MLflow", len(seen))] * len(seen)
