import json
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from hwmodel.errors import StorageError, StudyError
from search.searcher import ForgetEnded, StudySearcher
from search.study import Study
from search.trials import status
from spaces import Candidate
from tests.search.fakes import DENSE_VALUES, Ladder, done, failed, new_study, price


def searcher_of(study: Study) -> StudySearcher:
    problem: Any = SimpleNamespace(planned_costs=price, planned_dense=lambda: DENSE_VALUES)
    changes: list[int] = []
    found = StudySearcher(study, Ladder(), problem, lambda: changes.append(study.spent))
    found.changes = changes
    return found


def result_of(evaluation: Any) -> dict[str, Any]:
    """What a trainable reports, among Tune's own keys."""
    return {"evaluation": json.dumps(evaluation.to_json()), "done": True, "trial_id": "t"}


def test_suggestion_carries_number_and_candidate(study: Study) -> None:
    searcher = searcher_of(study)
    config = searcher.suggest("t1")
    assert isinstance(config, dict)
    assert set(config) == {"number", "candidate", "rung", "root"}
    assert json.loads(json.dumps(config)) == config
    assert Candidate.from_json(json.loads(config["candidate"])).layers["fc1"].nonzeros
    assert searcher.numbers == {"t1": config["number"]}


def test_complete_trial_ends_in_the_study(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    searcher.on_trial_result("t1", result_of(done(0.8, 0.5)))
    assert [status(t) for t in study.trials()] == ["running"]
    searcher.on_trial_complete("t1", result_of(done(0.8, 0.5)))
    assert [status(t) for t in study.trials()] == ["complete"]
    assert searcher.changes == [1]
    assert searcher.numbers == {}


def test_trials_may_end_in_any_order(study: Study) -> None:
    searcher = searcher_of(study)
    for name in ("t1", "t2", "t3"):
        searcher.suggest(name)
    searcher.on_trial_complete("t3", result_of(done(0.3, 0.3)))
    searcher.on_trial_complete("t1", result_of(done(0.1, 0.1)))
    assert [status(t) for t in study.trials()] == ["complete", "running", "complete"]
    assert [t.values[0] for t in study.trials() if t.values] == [0.1, 0.3]


def test_trial_that_a_worker_could_not_hand_over_is_queued_again(study: Study) -> None:
    searcher = searcher_of(study)
    for name, found in (("t1", ["interrupted", "waiting"]), ("t2", ["interrupted", "failed"])):
        searcher.suggest(name)
        searcher.on_trial_complete(name, {"lost": "the store is away", "done": True})
        assert [status(t) for t in study.trials()] == found
    assert study.trials()[1].user_attrs["reason"] == "the store is away"


def test_failed_evaluation_fails_with_its_reason(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    searcher.on_trial_complete("t1", result_of(failed("too steep")))
    (found,) = study.trials()
    assert (status(found), found.user_attrs["reason"]) == ("failed", "too steep")


def test_trial_of_a_dead_worker_runs_again_and_fails_in_the_end(study: Study) -> None:
    searcher = searcher_of(study)
    first = searcher.suggest("t1")
    searcher.on_trial_complete("t1", None, error=True)
    again = searcher.suggest("t2")
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert (again["candidate"], again["root"]) == (first["candidate"], first["number"])
    assert study.spent == 0
    searcher.on_trial_complete("t2", None, error=True)
    lost, found = study.trials()
    assert (status(lost), status(found)) == ("interrupted", "failed")
    assert "worker process died" in found.user_attrs["reason"]
    assert study.spent == 1


def test_trials_of_a_run_that_broke_off_are_given_back(study: Study) -> None:
    searcher = searcher_of(study)
    for _ in range(2):
        for name in ("t1", "t2"):
            searcher.suggest(name)
        searcher.give_back_all("out of memory")
        assert searcher.numbers == {}
    assert [status(t) for t in study.trials()] == ["interrupted"] * 2 + ["failed"] * 2
    assert study.trials()[-1].user_attrs["reason"] == "out of memory"


def test_stopped_searcher_records_no_more(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    searcher.stop()
    late = threading.Thread(
        target=searcher.on_trial_complete, args=("t1", result_of(done(0.8, 0.5))), daemon=True
    )
    late.start()
    late.join(0.5)
    assert late.is_alive()
    assert [status(t) for t in study.trials()] == ["running"]


def test_worker_that_cannot_write_ends_the_search_and_no_trial(study: Study) -> None:
    searcher = searcher_of(study)
    for name in ("t1", "t2"):
        searcher.suggest(name)
    searcher.on_trial_complete("t1", {"storage": "x: cannot be written (No space left)"})
    assert str(searcher.error) == "x: cannot be written (No space left)"
    assert searcher.suggest("t3") == Searcher.FINISHED
    searcher.on_trial_complete("t2", result_of(done(0.8, 0.5)))
    assert [status(t) for t in study.trials()] == ["running", "complete"]


def test_journal_that_cannot_be_written_ends_the_search(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    searcher = searcher_of(study)
    searcher.suggest("t1")
    with monkeypatch.context() as patch:
        patch.setattr(Study, "finish", full)
        searcher.on_trial_complete("t1", result_of(done(0.8, 0.5)))
    assert "cannot be written (No space left on device)" in str(searcher.error)
    assert searcher.suggest("t2") == Searcher.FINISHED
    assert [status(t) for t in study.trials()] == ["running"]
    other = searcher_of(study)
    monkeypatch.setattr(Study, "propose", full)
    assert other.suggest("t3") == Searcher.FINISHED
    assert isinstance(other.error, StorageError)


def test_trial_stopped_from_outside_stays_open_and_runs_again(study: Study) -> None:
    searcher = searcher_of(study)
    config = searcher.suggest("t1")
    searcher.on_trial_complete("t1", None, error=False)
    assert [status(t) for t in study.trials()] == ["running"]
    again = Study.open(study.folder)
    again.requeue_interrupted()
    retried = searcher_of(again).suggest("t2")
    assert isinstance(retried, dict)
    assert isinstance(config, dict)
    assert retried["candidate"] == config["candidate"]


def test_spent_budget_finishes_the_search(tmp_path: Path) -> None:
    searcher = searcher_of(new_study(tmp_path, trials=1))
    searcher.suggest("t1")
    assert searcher.suggest("t2") is None  # another may come in its place, should it be projected
    searcher.on_trial_complete("t1", result_of(done(0.8, 0.5)))
    assert searcher.suggest("t2") == Searcher.FINISHED
    assert searcher.error is None


def test_space_without_feasible_candidates_finishes_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study._PROPOSALS_PER_SUGGESTION", 25)
    searcher = searcher_of(new_study(tmp_path, constraints=["area <= 0.001x"]))
    told: list[str] = []
    searcher.say = told.append
    while searcher.suggest("t1") != Searcher.FINISHED:  # sampling has a thread of its own
        pass
    assert len(told) == 1
    assert "25 of 25 candidates in a row break 'area <= 0.001x'" in str(searcher.error)
    assert searcher.numbers == {}


def test_time_of_the_driver_is_counted(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    before = searcher.seconds
    searcher.on_trial_complete("t1", result_of(done(0.8, 0.5)))
    assert 0 < before < searcher.seconds


def test_pickle_holds_nothing_of_the_study(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    pickled = pickle.dumps(searcher)
    assert str(study.folder.storage).encode() not in pickled
    copy = pickle.loads(pickled)
    assert isinstance(copy, StudySearcher)
    assert not hasattr(copy, "study")


def test_snapshot_names_the_study_and_restores_nothing(study: Study, tmp_path: Path) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    path = tmp_path / "searcher.json"
    searcher.save(str(path))
    assert json.loads(path.read_text()) == {"study": "tiny"}
    other = searcher_of(study)
    other.restore(str(path))
    assert other.numbers == {}


def test_tune_limits_the_trials_at_a_time(study: Study) -> None:
    assert searcher_of(study).set_max_concurrency(2) is False


def test_worker_that_cannot_begin_ends_the_search_and_fails_no_candidate(study: Study) -> None:
    searcher = searcher_of(study)
    searcher.suggest("t1")
    searcher.on_trial_complete("t1", {"broken": "a worker on far: no data", "done": True})
    assert [status(t) for t in study.trials()] == ["interrupted", "waiting"]
    assert searcher.suggest("t2") == Searcher.FINISHED
    assert str(searcher.error) == "a worker on far: no data"


def test_search_that_ends_while_a_candidate_is_sampled_gives_it_back(study: Study) -> None:
    searcher, begun, go_on = searcher_of(study), threading.Event(), threading.Event()
    planned = searcher.problem.planned_costs

    def slow(candidate: Candidate) -> dict[str, float]:
        begun.set()
        go_on.wait()
        return dict(planned(candidate))

    searcher.problem.planned_costs = slow
    study.join()
    assert searcher.suggest("t1") is None
    assert begun.wait(10)
    threading.Timer(0.2, go_on.set).start()
    searcher.stop()
    study.leave()
    assert [status(t) for t in study.trials()] == ["interrupted", "waiting"]
    assert searcher.error is None


def test_tune_keeps_no_result_of_a_trial_that_has_ended() -> None:
    result = {"evaluation": "{}", "done": True, "time_total_s": 1.0}
    trial = Trial("none", stub=True)
    trial.update_last_result(result)
    assert trial.metric_analysis
    ForgetEnded().on_trial_complete(1, [trial], trial)
    assert "evaluation" not in trial.last_result
    assert not trial.metric_analysis
    assert not trial.metric_n_steps


def test_mistake_found_while_judging_ends_the_search_in_one_line(tmp_path: Path) -> None:
    study = new_study(tmp_path, {"fidelity": {"projection": True}})

    def judge(number: int) -> bool:
        raise StudyError("records are missing")

    study.judge = judge
    searcher = searcher_of(study)
    assert isinstance(searcher.suggest("t1"), dict)
    searcher.on_trial_complete("t1", result_of(done(0.8, 0.5)))
    assert str(searcher.error) == "records are missing"
    assert searcher.suggest("t2") == Searcher.FINISHED
