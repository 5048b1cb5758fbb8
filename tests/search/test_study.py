from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

import search.study
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, OutOfRangeError, StudyError
from search.evaluate import Evaluation
from search.folder import StudyFolder
from search.study import FORMAT, Study
from search.trials import candidate_of, is_feasible, status, values
from spaces import Candidate, JointSpace, SpaceConfig
from tests.search.fakes import (
    DENSE_VALUES,
    SHAPES,
    Ladder,
    done,
    evaluate_all,
    failed,
    new_study,
    price,
    study_config,
    try_one,
)


def reopened(study: Study) -> Study:
    """The study as a new process finds it."""
    return Study.open(study.folder)


def propose(study: Study) -> Any:
    proposal = study.propose(Ladder(), price, DENSE_VALUES)
    assert proposal is not None
    return proposal


def trial(study: Study, number: int) -> optuna.trial.FrozenTrial:
    return study.trials()[number]


# Creating and opening.


def test_created_study_opens_with_its_configuration(tmp_path: Path) -> None:
    made = new_study(tmp_path, {"space": {"layers": {"fc1": {"nonzeros": [1, 2]}}}}, seed=5)
    found = reopened(made)
    assert found.config == made.config
    assert found.dense == made.dense
    assert found.trials() == []


def test_study_is_not_created_twice(study: Study) -> None:
    with pytest.raises(StudyError, match=r"exists in .*resume tiny.*--name"):
        Study.create(study.folder, study.config)


def test_taken_name_says_which_settings_differ(study: Study) -> None:
    other = study_config({"space": {"wordlines": [32]}}, trials=99)
    with pytest.raises(StudyError) as error:
        Study.create(study.folder, other)
    message = str(error.value)
    assert "space.wordlines is [32, 64, 128, 256, 512] there, [32] here" in message
    assert "study.trials is 12 there, 99 here" in message
    assert "seed" not in message


def test_settings_of_another_version_are_refused(study: Study) -> None:
    tables = {**study.config.to_json(), "fidelity": {"rings": [1]}}
    study._handle.set_user_attr("crossfront", {"format": FORMAT, "config": tables})
    with pytest.raises(StudyError, match=r"'tiny' has settings that .*'rings'.*the version that"):
        reopened(study)


def test_another_space_is_refused_by_what_differs(study: Study) -> None:
    space = {"wordlines": [32, 64], "fc1.nonzeros": [1, 2]}
    study.check_space(space)
    reopened(study).check_space(space)
    with pytest.raises(StudyError) as error:
        reopened(study).check_space({"wordlines": [32, 128], "fc9.nonzeros": [1, 2]})
    message = str(error.value)
    assert "fc1.nonzeros is [1, 2] there, not set here" in message
    assert "fc9.nonzeros is not set there, [1, 2] here" in message
    assert "wordlines is [32, 64] there, [32, 128] here" in message


def test_dense_baseline_that_is_no_number_is_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path, dense=False)
    with pytest.raises(StudyError, match="the dense baseline's power is nan; allowed: a finite"):
        study.set_dense(done(0.9, 1.0, power=float("nan")))
    assert study.dense is None


def test_missing_study_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no study 'x' .*studies there: none"):
        Study.open(StudyFolder(tmp_path, "x"))
    new_study(tmp_path, name="one")
    new_study(tmp_path, name="two")
    with pytest.raises(StudyError, match="studies there: one, two"):
        Study.open(StudyFolder(tmp_path, "x"))


def test_study_below_a_file_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot be written"):
        new_study(tmp_path / "file")


@pytest.mark.parametrize("header", [{"format": FORMAT + 1}, {}])
def test_study_of_another_format_is_refused(study: Study, header: dict[str, int]) -> None:
    study._handle.set_user_attr("crossfront", header)
    with pytest.raises(StudyError, match=f"has format .*; this version reads {FORMAT}"):
        reopened(study)


def test_journal_of_another_study_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "x")
    folder.make()
    folder.journal.write_bytes(new_study(tmp_path).folder.journal.read_bytes())
    with pytest.raises(StudyError, match="holds no study 'x'"):
        Study.open(folder)


def test_journal_that_is_damaged_is_refused(study: Study) -> None:
    lines = study.folder.journal.read_bytes().splitlines(keepends=True)
    study.folder.journal.write_bytes(b"".join([*lines[:1], b"no journal\n", *lines[1:]]))
    with pytest.raises(StudyError):
        reopened(study)


def test_journal_whose_last_line_is_cut_off_opens(study: Study) -> None:
    """What a full disk or a killed driver leaves."""
    try_one(study, done(0.8, 0.5))
    with study.folder.journal.open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker')
    again = reopened(study)
    assert again.counts()["complete"] == 1
    try_one(again, done(0.7, 0.4))
    assert reopened(study).counts()["complete"] == 2


def test_reconfigured_settings_stay(study: Study) -> None:
    study.reconfigure({"study": {"trials": 99}, "ray": {"workers": 3}})
    for found in (study, reopened(study)):
        assert (found.config.study.trials, found.config.ray.workers) == (99, 3)
        assert found.config.study.name == "tiny"


def test_impossible_setting_changes_nothing(study: Study) -> None:
    with pytest.raises(ConfigError, match=r"study\.trials is 0"):
        study.reconfigure({"study": {"trials": 0}})
    assert study.config.study.trials == reopened(study).config.study.trials == 12


def test_notes_are_remembered(study: Study) -> None:
    study.note("run.1", "abc")
    study.note("run.1", {"again": [1]})
    assert reopened(study).notes() == {"run.1": {"again": [1]}}


# Proposing and finishing.


def test_complete_trial_keeps_all_that_was_found(study: Study) -> None:
    evaluation = done(0.8, 0.5, latency=7.0)
    proposal = propose(study)
    study.finish(proposal.number, evaluation)
    found = trial(reopened(study), proposal.number)
    assert status(found) == "complete"
    assert candidate_of(found) == proposal.candidate
    assert values(found) == evaluation.values
    assert found.values == [0.8, 0.5, 0.5]  # accuracy, area, power
    assert Evaluation.from_json(found.user_attrs["evaluation"]) == evaluation


def test_failed_trial_keeps_its_reason_and_counts(study: Study) -> None:
    number = try_one(study, failed("loss is nan"))
    found = trial(study, number)
    assert status(found) == "failed"
    assert found.user_attrs["reason"] == "loss is nan"
    assert study.spent == 1
    assert study.front() == []


def test_running_and_waiting_trials_say_so(study: Study) -> None:
    study.enqueue([{"x": 3}])
    assert [status(t) for t in study.trials()] == ["waiting"]
    propose(study)
    assert [status(t) for t in study.trials()] == ["running"]
    assert study.ended() == []
    assert study.counts() == {
        "complete": 0,
        "pruned": 0,
        "failed": 0,
        "infeasible": 0,
        "projected": 0,
    }


def test_budget_is_counted_on_the_study(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=3)
    try_one(study, done(0.8, 0.5))
    try_one(study, failed())
    again = reopened(study)
    assert again.spent == 2
    try_one(again, done(0.8, 0.5))
    assert again.propose(Ladder(), price, DENSE_VALUES) is None
    assert reopened(study).propose(Ladder(), price, DENSE_VALUES) is None
    assert len(again.trials()) == 3


def test_running_trials_count_against_the_budget(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=2)
    first = propose(study)
    propose(study)
    assert study.propose(Ladder(), price, DENSE_VALUES) is None
    study.finish(first.number, done(0.8, 0.5))
    assert study.propose(Ladder(), price, DENSE_VALUES) is None


def test_starts_come_first_and_once(study: Study) -> None:
    study.enqueue(Ladder().starts())
    study.enqueue(Ladder().starts())
    counts = [propose(study).candidate.layers["fc1"].nonzeros for _ in range(4)]
    assert counts[:2] == [100, 50]
    assert len(study.trials()) == 4


def test_infeasible_candidates_never_train_and_do_not_count(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=4, constraints=["area <= 0.3x"])
    study.enqueue([{"x": 100}, {"x": 31}, {"x": 30}])
    proposal = propose(study)
    assert proposal.number == 2  # exactly on the bound
    assert study.counts() == {
        "complete": 0,
        "pruned": 0,
        "failed": 0,
        "infeasible": 2,
        "projected": 0,
    }
    assert study.spent == 0
    for number in (0, 1):
        found = trial(study, number)
        assert status(found) == "infeasible"
        assert found.state == optuna.trial.TrialState.PRUNED
        assert found.user_attrs["reason"] == "breaks area <= 0.3x before training"
        assert not is_feasible(found)
    study.finish(proposal.number, done(0.8, 0.3))
    evaluate_all(study)
    assert study.counts()["complete"] == 4
    assert all((t.params["x"] <= 30) == (status(t) == "complete") for t in study.trials())


def test_bounds_on_accuracy_wait_for_the_training(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["accuracy >= 0.99"])
    assert propose(study).number == 0


def test_hundreds_of_infeasible_candidates_name_the_bound(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["area <= 1.5x", "power <= 0.005x"])
    with pytest.raises(
        StudyError, match=r"500 of 500 .* break 'power <= 0\.005x' .* nearest with 0\.01x; loosen"
    ):
        study.propose(Ladder(), price, DENSE_VALUES)
    assert study.counts()["infeasible"] == 500
    assert study.spent == 0


def test_bound_relative_to_dense_needs_the_baseline(tmp_path: Path) -> None:
    study = new_study(tmp_path, dense=False, constraints=["area <= 0.3x"])
    with pytest.raises(StudyError, match="'tiny' has no dense baseline yet"):
        _ = study.reference


def test_planned_costs_are_held_against_the_dense_plan(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["area <= 0.5x"])
    proposal = study.propose(Ladder(), price, {**DENSE_VALUES, "area": 2.0})
    assert proposal is not None
    assert study.counts()["infeasible"] == 0  # whatever it is, it is at most half of the plan
    study.finish(proposal.number, done(0.8, 0.9))  # measured: above half of what dense measured
    assert study.front() == []


def test_value_that_is_no_number_is_not_complete(study: Study) -> None:
    number = try_one(study, done(float("nan"), 0.5))
    assert trial(study, number).state == optuna.trial.TrialState.FAIL
    assert status(trial(study, number)) == "failed"


def test_every_trial_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds = [c.seed for c in evaluate_all(new_study(tmp_path / "a", seed=1))]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [c.seed for c in evaluate_all(new_study(tmp_path / "b", seed=1))]
    assert set(seeds).isdisjoint(c.seed for c in evaluate_all(new_study(tmp_path / "c", seed=2)))


def search_jointly(storage: Path, sampler: str, seed: int) -> list[Candidate]:
    """The candidates of a whole study over the real space, one worker, two bounds."""
    study = new_study(
        storage,
        name=f"{sampler}-{seed}",
        sampler=sampler,
        seed=seed,
        trials=20,
        constraints=["accuracy >= 0.3", "area <= 0.9x"],
    )
    space = JointSpace(SpaceConfig(), SHAPES, CrossbarSpec(), network="mlp", methods=["tinyadc"])
    study.enqueue(space.starts())

    def cost(candidate: Candidate) -> dict[str, float]:
        planned = candidate.planned(SHAPES)
        bits = sum(layer.adc_bits * layer.crossbars for layer in planned)
        return {"area": bits / 400, "power": sum(layer.nonzeros for layer in planned) / 2e5}

    found = []
    while (proposal := study.propose(space, cost, DENSE_VALUES)) is not None:
        costs = cost(proposal.candidate)
        area = costs["area"]
        ending = failed() if len(found) % 7 == 6 else done(min(area, 0.9), area, **costs)
        study.finish(proposal.number, ending)
        found.append(proposal.candidate)
    assert study.counts()["infeasible"] > 0
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_seeded_sampler_repeats_itself(tmp_path: Path, sampler: str) -> None:
    first = search_jointly(tmp_path / "a", sampler, seed=1)
    assert first == search_jointly(tmp_path / "b", sampler, seed=1)
    assert first != search_jointly(tmp_path / "c", sampler, seed=2)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_resumed_sampler_does_not_draw_the_same_again(tmp_path: Path, sampler: str) -> None:
    study = new_study(tmp_path, sampler=sampler, trials=6)
    before = [candidate.layers for candidate in evaluate_all(study)]
    study.reconfigure({"study": {"trials": 12}})
    after = [candidate.layers for candidate in evaluate_all(reopened(study))]
    assert before != after


def test_gp_sampler_proposes(tmp_path: Path) -> None:
    study = new_study(tmp_path, sampler="gp", trials=3)
    assert len(evaluate_all(study)) == 3


# The front.


def test_front_holds_what_no_complete_trial_dominates(study: Study) -> None:
    for accuracy, cost in ((0.8, 0.5), (0.7, 0.6), (0.9, 0.9), (0.8, 0.5)):
        try_one(study, done(accuracy, cost))
    try_one(study, failed())
    assert [found.number for found in study.front()] == [0, 2]


def test_front_keeps_to_bounds_on_what_was_measured(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["accuracy >= 0.6", "area <= 0.95x"])
    study.enqueue([{"x": 10}, {"x": 20}, {"x": 30}])
    low, large, good = (propose(study).number for _ in range(3))
    study.finish(low, done(0.59, 0.1))
    study.finish(large, done(0.99, 0.96))  # planned to be small enough, measured larger
    study.finish(good, done(0.6, 0.95))
    assert [found.number for found in study.front()] == [good]
    assert [is_feasible(found) for found in study.trials()] == [False, False, True]
    assert study.counts()["complete"] == 3


def test_reference_is_dense_cost_and_a_window_below_dense_accuracy(tmp_path: Path) -> None:
    study = new_study(tmp_path, accuracy_window=0.25, objectives=["accuracy", "energy"])
    assert study.reference == {"accuracy": pytest.approx(0.65), "energy": 1.0}
    study.set_dense(done(0.1, 2.0))
    assert study.reference == {"accuracy": 0.0, "energy": 2.0}


def test_hypervolume_grows_with_the_front(study: Study) -> None:
    volumes = [study.hypervolume()]
    for accuracy, cost in ((0.85, 0.9), (0.95, 0.5), (0.82, 0.95)):
        try_one(study, done(accuracy, cost))
        volumes.append(study.hypervolume())
    assert volumes[0] == 0.0
    assert 0 < volumes[1] < volumes[2] == volumes[3] < 1


def test_study_without_a_baseline_has_no_reference(tmp_path: Path) -> None:
    study = new_study(tmp_path, dense=False)
    assert study.dense is None
    assert study.hypervolume() == 0.0
    with pytest.raises(StudyError, match="no dense baseline yet"):
        _ = study.reference


# Interrupted trials.


def test_interrupted_trials_run_again_with_the_same_parameters_and_seed(study: Study) -> None:
    lost = [propose(study).candidate for _ in range(2)]
    again = reopened(study)
    assert again.requeue_interrupted() == 2
    assert [status(t) for t in again.trials()] == ["interrupted"] * 2 + ["waiting"] * 2
    assert again.spent == 0
    assert [propose(again).candidate for _ in range(2)] == lost
    assert propose(again).candidate not in lost


def test_interrupted_trial_is_queued_once(study: Study) -> None:
    propose(study)
    for _ in range(3):
        reopened(study).requeue_interrupted()
    assert [status(t) for t in study.trials()] == ["interrupted", "waiting"]


def test_driver_killed_while_it_queues_neither_loses_nor_doubles(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = propose(study).candidate
    driver = reopened(study)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver._handle, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        driver.requeue_interrupted()
    assert [status(t) for t in study.trials()] == ["running", "waiting"]
    again = reopened(study)
    assert again.requeue_interrupted() == 1
    assert [status(t) for t in again.trials()] == ["interrupted", "waiting"]
    assert propose(again).candidate == lost


def test_retry_that_is_interrupted_too_is_queued_again(study: Study) -> None:
    lost = propose(study).candidate
    for _ in range(2):
        study = reopened(study)
        study.requeue_interrupted()
        assert propose(study).candidate == lost
    assert [status(t) for t in study.trials()] == ["interrupted", "interrupted", "running"]


def killed_before_telling(storage: Path, evaluation: Evaluation) -> Study:
    """A study of one trial that was measured when its driver was killed, as it is found."""
    study = new_study(storage, constraints=["accuracy >= 0.1"])
    proposal = propose(study)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study._handle, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            study.finish(proposal.number, evaluation)
    return reopened(study)


@pytest.mark.filterwarnings("ignore:The constraint value is ignored")
@pytest.mark.parametrize("evaluation", [done(0.8, 0.5), failed()], ids=["complete", "failed"])
def test_measured_trial_that_was_not_told_is_ended_rather_than_run_again(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    again = killed_before_telling(tmp_path, evaluation)
    again.requeue_interrupted()
    (found,) = again.trials()
    assert status(found) == evaluation.status
    assert Evaluation.from_json(found.user_attrs["evaluation"]) == evaluation
    assert again.spent == 1
    assert len(again.front()) == (evaluation.status == "complete")
    assert again.requeue_interrupted() == 0


def test_ending_a_measured_trial_is_silent(tmp_path: Path) -> None:
    killed_before_telling(tmp_path, done(0.8, 0.5)).requeue_interrupted()


def test_requeued_trials_free_the_budget_that_they_held(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=1)
    propose(study)
    study.requeue_interrupted()
    assert propose(study).number == 1


def test_start_interrupted_before_its_suggestion_is_not_lost(study: Study) -> None:
    class Killed(Ladder):
        def suggest(self, trial: object, seed: int) -> Candidate:
            raise KeyboardInterrupt

    study.enqueue([{"x": 77}])
    with pytest.raises(KeyboardInterrupt):
        study.propose(Killed(), price, DENSE_VALUES)
    again = reopened(study)
    again.requeue_interrupted()
    assert propose(again).candidate.layers["fc1"].nonzeros == 77


def test_proposals_per_suggestion_bound_the_time_in_the_event_loop() -> None:
    assert search.study._PROPOSALS_PER_SUGGESTION == 500


# Rungs.

RUNGS = {"fidelity": {"projection": True, "rungs": [1]}, "train": {"epochs": 4}}


def measured(accuracy: float, cost: float, epochs: int) -> Evaluation:
    return replace(done(accuracy, cost), epochs=epochs)


def test_candidate_is_measured_on_one_rung_after_the_other(tmp_path: Path) -> None:
    study = new_study(tmp_path, {**RUNGS, "fidelity": {"rungs": [1, 2], "reduction": 2}}, trials=3)
    assert study.config.rungs == (1, 2, 4)
    first, second = propose(study), propose(study)
    assert (first.rung, second.rung) == (0, 0)
    study.finish(first.number, measured(0.8, 0.5, 1))
    assert status(trial(study, first.number)) == "running"  # nobody to compare it with
    study.finish(second.number, measured(0.7, 0.6, 1))
    assert status(trial(study, second.number)) == "pruned"
    again = propose(study)
    assert (again.number, again.rung, again.candidate) == (first.number, 1, first.candidate)
    assert study.counts() == {
        "complete": 0,
        "pruned": 1,
        "failed": 0,
        "infeasible": 0,
        "projected": 0,
    }
    assert [t.number for t in study.front()] == [second.number]


def test_last_candidates_do_not_wait_for_others(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS, trials=1)
    first = propose(study)
    for rung, epochs in enumerate((0, 1, 4)):
        study.finish(first.number, measured(0.8, 0.5, epochs))
        if rung < 2:
            assert propose(study).rung == rung + 1
    assert study.propose(Ladder(), price, DENSE_VALUES) is None
    assert study.over
    assert (study.spent, study.epochs, study.counts()["complete"]) == (1, 4, 1)


def test_projected_candidates_do_not_count(tmp_path: Path) -> None:
    study = new_study(tmp_path, {**RUNGS, "fidelity": {"projection": True, "reduction": 2}})
    proposals = [propose(study) for _ in range(4)]
    for proposal, cost in zip(proposals, (0.2, 0.3, 0.4, 0.5), strict=True):
        study.finish(proposal.number, measured(0.8, cost, 0))
    assert study.counts()["projected"] == 3  # all but the cheapest
    assert (study.spent, study.epochs) == (0, 0)
    again = propose(study)
    assert (again.number, again.rung) == (proposals[0].number, 1)


def spend(study: Study, space: Any = None) -> int:
    """Drives a study to its end; returns how many evaluations that took."""
    evaluations = 0
    while not study.over:
        proposal = study.propose(space or Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        cost = price(proposal.candidate)["area"]
        epochs = study.config.rungs[proposal.rung]
        accuracy = 0.9 - 0.09 * (1 - cost) ** 2 - 0.05 / (1 + epochs)
        study.finish(proposal.number, measured(accuracy, cost, epochs))
        evaluations += 1
    return evaluations


def test_budget_is_met_exactly_on_rungs_and_most_candidates_are_stopped(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS, trials=30)
    spend(study)
    assert study.spent == 30
    counts = study.counts()
    assert counts["complete"] <= 0.6 * 30
    assert counts["projected"] >= 30
    assert all(t.state.is_finished() for t in study.trials())


def test_candidates_of_a_rung_are_compared_with_its_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def goes_on(point: Any, mates: Any, *_: Any, gone_on: int) -> bool:
        asked.append(([mate["accuracy"] for mate in mates], gone_on))
        return point["accuracy"] > 0.55

    monkeypatch.setattr("search.study.goes_on", goes_on)
    monkeypatch.setattr("search.study.MATES", 3)
    study = new_study(tmp_path, RUNGS, trials=30)
    for accuracy in (0.1, 0.2, 0.6, 0.3, 0.4):
        proposal = study.propose(Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        while proposal.rung:  # what went on is measured later
            proposal = propose(study)
        study.finish(proposal.number, measured(accuracy, 0.5, 0))
    assert asked == [
        ([], 0),
        ([0.1], 0),
        ([0.1, 0.2], 0),
        ([0.1, 0.2, 0.6], 1),
        ([0.2, 0.6, 0.3], 1),
    ]


def test_interrupted_candidate_goes_on_from_its_rung_with_its_files(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS, trials=1)
    first = propose(study)
    study.finish(first.number, measured(0.7, 0.5, 0))
    assert propose(study).rung == 1
    again = reopened(study)
    assert again.requeue_interrupted() == 1
    found = propose(again)
    assert (found.rung, found.root, found.candidate) == (1, first.number, first.candidate)
    assert found.number != first.number
    assert again.checkpoint(trial(again, found.number)) == again.folder.checkpoint(first.number)
    again.finish(found.number, measured(0.75, 0.5, 1))
    third = reopened(again)
    third.requeue_interrupted()
    assert (propose(third).rung, propose_none(third)) == (2, None)


def test_bound_on_accuracy_stops_nobody_who_is_still_to_train(tmp_path: Path) -> None:
    tables = {**RUNGS, "fidelity": {"projection": True}}
    study = new_study(tmp_path, tables, trials=1, constraints=["accuracy >= 0.5", "area <= 0.9x"])
    first = propose(study)
    study.finish(first.number, measured(0.2, 0.5, 0))
    assert (propose(study).number, study.front()) == (first.number, [])
    study.finish(first.number, measured(0.8, 0.95, 4))
    assert study.counts()["complete"] == 1
    assert study.front() == []  # measured to be larger than allowed


def propose_none(study: Study) -> Any:
    return study.propose(Ladder(), price, DENSE_VALUES)


def test_two_drivers_share_one_budget_to_the_trial(tmp_path: Path) -> None:
    one = new_study(tmp_path, RUNGS, trials=11)
    one.join()
    other = reopened(one)
    other.join()
    drivers, ended = [one, other], 0
    while not all(driver.over for driver in drivers):
        ended += 1
        assert ended < 500
        driver = drivers[ended % 2]
        proposal = driver.propose(Ladder(), price, DENSE_VALUES)
        if proposal is not None:
            cost = price(proposal.candidate)["area"]
            epochs = driver.config.rungs[proposal.rung]
            driver.finish(proposal.number, measured(0.9 * cost**0.5, cost, epochs))
    assert one.spent == other.spent == 11
    one.leave()
    other.leave()
    assert "interrupted" not in {status(t) for t in one.trials()}


def test_driver_takes_nothing_from_one_that_lives(tmp_path: Path) -> None:
    one = new_study(tmp_path)
    one.join()
    lost = propose(one).candidate
    other = reopened(one)
    assert other.requeue_interrupted() == 0
    one.leave()
    assert propose(other).candidate == lost


def test_study_ends_by_its_epochs(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS, trials=100, epochs=20)
    spend(study)
    assert 20 <= study.epochs <= 24
    assert study.exhausted == "20 epochs of training are spent (more: --max-epochs)"


def test_study_ends_when_the_hypervolume_no_longer_grows(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=200, least_gain=0.01, gain_trials=5)
    evaluate_all(study)
    assert 5 < study.spent < 200
    assert "less than 0.01 of itself over 5 trials" in str(study.exhausted)


def test_scanned_candidates_are_projected_and_never_trained(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS, trials=1)
    study.enqueue([{"x": 10}, {"x": 90}], scan=True)
    for _ in range(2):
        study.finish(propose(study).number, measured(0.8, 0.5, 0))
    assert [status(t) for t in study.trials()] == ["projected"] * 2
    assert propose(study).rung == 0


# Repeats under further seeds.

SEEDS = {"fidelity": {"seeds": 3}, "train": {"epochs": 4}}


def repeating(storage: Path, *found: tuple[float, float], **study: Any) -> Study:
    """A study over three seeds whose budget is spent on these accuracies and costs."""
    made = new_study(storage, SEEDS, trials=len(found), **study)
    for accuracy, cost in found:
        try_one(made, measured(accuracy, cost, 4))
    return made


def test_members_of_the_front_are_repeated_under_other_seeds(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5), (0.7, 0.6), (0.85, 0.9))
    proposals = [propose(study) for _ in range(4)]
    found = [trial(study, p.number) for p in proposals]
    assert [(t.user_attrs["repeat_of"], t.user_attrs["repeat"]) for t in found] == [
        (0, 1),
        (2, 1),
        (0, 2),
        (2, 2),
    ]
    assert propose_none(study) is None
    assert not study.over
    for proposal, repeat in zip(proposals, found, strict=True):
        member = candidate_of(trial(study, repeat.user_attrs["repeat_of"]))
        assert proposal.candidate == replace(member, seed=proposal.candidate.seed)
        assert (proposal.rung, proposal.root) == (0, proposal.number)
    seeds = [candidate_of(t).seed for t in study.trials()]
    assert len(set(seeds)) == len(seeds)
    for number, accuracy in zip(
        [p.number for p in proposals], (0.78, 0.86, 0.79, 0.9), strict=True
    ):
        cost = study.means(trial(study, 0 if accuracy < 0.8 else 2))["area"]
        study.finish(number, measured(accuracy, cost, 4))
    assert study.over
    assert (study.spent, study.epochs, study.counts()["complete"]) == (3, 12, 3)
    assert [t.number for t in study.front()] == [0, 2]
    spread = study.spreads(trial(study, 0))["accuracy"]
    assert (spread.mean, spread.min, spread.max) == (pytest.approx(0.79), 0.78, 0.8)
    assert {status(t) for t in study.repeats(trial(study, 2))} == {"repeated"}


def test_lucky_member_leaves_and_who_takes_its_place_is_repeated(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.9, 0.5), (0.84, 0.5), (0.6, 0.6))
    before = study.hypervolume()
    assert [t.number for t in study.front()] == [0]
    for accuracy, front in ((0.74, [1]), (0.84, [1]), (0.83, [1])):
        study.finish(propose(study).number, measured(accuracy, 0.5, 4))
        assert [t.number for t in study.front()] == front
    assert study.over
    assert [t.user_attrs.get("repeat_of") for t in study.trials()] == [None] * 3 + [0, 1, 1]
    assert study.hypervolume() < before
    again = reopened(study)
    assert [t.number for t in again.front()] == [1]
    assert again.over


def test_member_leaves_whose_mean_breaks_a_bound(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.86, 0.5), constraints=["accuracy >= 0.85"])
    study.finish(propose(study).number, measured(0.8, 0.5, 4))
    assert study.front() == []
    assert study.over


def test_repeat_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5))
    study.finish(propose(study).number, failed())
    study.finish(propose(study).number, measured(0.7, 0.5, 4))
    assert study.over
    assert study.spent == 1
    assert [status(t) for t in study.repeats(trial(study, 0))] == ["failed", "repeated"]
    assert study.means(trial(study, 0))["accuracy"] == pytest.approx(0.75)


def test_untrained_members_are_not_repeated(tmp_path: Path) -> None:
    tables = {"fidelity": {"projection": True, "seeds": 2}, "train": {"epochs": 4}}
    study = new_study(tmp_path, tables, trials=1, constraints=["area <= 0.9x"])
    study.enqueue([{"x": 10}, {"x": 90}], scan=True)
    for _ in range(2):
        study.finish(propose(study).number, measured(0.8, 0.5, 0))
    first = propose(study)
    study.finish(first.number, measured(0.5, 0.4, 0))
    study.finish(propose(study).number, measured(0.7, 0.4, 4))
    assert [t.number for t in study.front()] == [0, first.number]
    repeat = propose(study)
    assert trial(study, repeat.number).user_attrs["repeat_of"] == first.number
    assert repeat.rung == 1  # the last
    study.finish(repeat.number, measured(0.7, 0.4, 4))
    assert study.over


def test_interrupted_repeat_goes_on_with_its_files(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5))
    lost = propose(study)
    again = reopened(study)
    assert again.requeue_interrupted() == 1
    assert [t.number for t in again.resumable()] == [lost.number]
    found = propose(again)
    assert (found.candidate, found.root) == (lost.candidate, lost.root)
    assert found.number != lost.number
    again.finish(found.number, measured(0.8, 0.5, 4))
    again.finish(propose(again).number, measured(0.8, 0.5, 4))
    assert again.over
    assert again.resumable() == []
    assert [status(t) for t in again.trials()] == ["complete", "interrupted", *["repeated"] * 2]


def test_repeat_of_a_dead_worker_runs_again_and_fails_in_the_end(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5))
    first = propose(study)
    study.give_back(first.number, "lost")
    second = propose(study)
    assert (second.candidate, second.root) == (first.candidate, first.number)
    study.give_back(second.number, "lost")
    assert [status(t) for t in study.trials()] == ["complete", "interrupted", "failed"]
    assert (study.spent, study.counts()["failed"]) == (1, 0)


def test_measured_repeat_that_was_not_told_is_ended(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5))
    repeat = propose(study)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study._handle, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            study.finish(repeat.number, measured(0.7, 0.5, 4))
    again = reopened(study)
    again.requeue_interrupted()
    assert status(trial(again, repeat.number)) == "repeated"
    assert again.means(trial(again, 0))["accuracy"] == pytest.approx(0.75)


def test_two_drivers_share_the_repeats(tmp_path: Path) -> None:
    one = new_study(tmp_path, SEEDS, trials=2)
    one.join()
    other = reopened(one)
    other.join()
    first, second = propose(one), propose(other)
    one.finish(first.number, measured(0.8, 0.4, 4))
    assert propose_none(one) is None  # the front may change yet
    assert not one.over
    other.finish(second.number, measured(0.85, 0.5, 4))
    proposals = [propose(driver) for driver in (one, other, one, other)]
    assert [propose_none(one), propose_none(other)] == [None, None]
    for driver, proposal in zip((one, other, one, other), proposals, strict=True):
        assert [one.over, other.over] == [False, False]
        driver.finish(proposal.number, measured(0.8, 0.4, 4))
    assert one.over
    assert other.over
    assert len(one.trials()) == 6


def test_more_trials_are_asked_for_after_repeats(tmp_path: Path) -> None:
    study = repeating(tmp_path, (0.8, 0.5))
    for _ in range(2):
        study.finish(propose(study).number, measured(0.7, 0.5, 4))
    study.reconfigure({"study": {"trials": 2}})
    assert not study.over
    study.finish(propose(study).number, measured(0.75, 0.5, 4))
    assert [t.number for t in study.front()] == [3]
    assert trial(study, propose(study).number).user_attrs["repeat_of"] == 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_drivers_that_start_together_draw_candidates_of_their_own(
    tmp_path: Path, sampler: str
) -> None:
    one = new_study(tmp_path, sampler=sampler, trials=40)
    other = reopened(one)
    one.join()
    other.join()
    drawn = [[propose(driver).candidate for _ in range(4)] for driver in (one, other)]
    assert drawn[0] != drawn[1]


def test_growth_is_judged_in_the_order_in_which_trials_ended(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=200, least_gain=0.01, gain_trials=4)
    slow = propose(study).number
    for step in range(7):
        try_one(study, done(0.8, 0.9 - 0.1 * step))
    study.finish(slow, done(0.89, 0.15))
    assert study.exhausted is None
    assert reopened(study).exhausted is None


def test_trial_that_diverges_on_a_later_rung_has_trained_all_the_same(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS)
    study.judge = lambda number: True
    first = propose(study)
    trained = study.config.rungs[0]
    study.finish(first.number, measured(0.8, 0.5, trained or 1))
    again = propose(study)
    assert again.number == first.number
    study.finish(again.number, failed())
    assert study.epochs == (trained or 1)


def test_driver_whose_mate_still_trains_is_not_done(tmp_path: Path) -> None:
    one = new_study(tmp_path, trials=100, epochs=4)
    one.join()
    other = reopened(one)
    other.join()
    first, second = propose(one), propose(other)
    one.finish(first.number, measured(0.8, 0.5, 4))
    assert one.exhausted is not None
    assert not one.over
    other.finish(second.number, measured(0.7, 0.4, 4))
    assert one.over


def test_trial_that_waited_when_its_driver_left_is_judged_by_the_next(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS)
    study.judge = lambda number: None
    waiting = propose(study)
    study.finish(waiting.number, measured(0.8, 0.5, study.config.rungs[0]))
    again = reopened(study)
    assert again.requeue_interrupted() == 1
    judged: list[int] = []

    def judge(number: int) -> bool:
        judged.append(number)
        return False

    again.judge = judge
    new = propose(again)
    assert judged == [1]
    assert status(trial(again, 1)) in {"pruned", "projected"}
    assert new.number == 2


def test_promotion_counts_for_every_driver_before_it_is_measured(tmp_path: Path) -> None:
    study = new_study(tmp_path, RUNGS)
    study.judge = lambda number: True
    first = propose(study)
    study.finish(first.number, measured(0.8, 0.5, study.config.rungs[0]))
    assert trial(reopened(study), first.number).user_attrs["gone_on"] == 1


def test_candidate_that_the_law_cannot_price_is_infeasible_and_the_search_goes_on(
    study: Study,
) -> None:
    def priced(candidate: Any) -> Any:
        if len(study.trials()) % 2:
            raise OutOfRangeError("ADC law table:mine.csv asked for 2 bits; allowed: 3, 4")
        return price(candidate)

    proposal = study.propose(Ladder(), priced, DENSE_VALUES)
    assert proposal is not None
    assert [status(t) for t in study.trials()] == ["infeasible", "running"]
    assert "cannot be priced: ADC law table:mine.csv" in trial(study, 0).user_attrs["reason"]

    def never(candidate: Any) -> Any:
        raise OutOfRangeError("asked for 2 bits")

    with pytest.raises(OutOfRangeError, match="asked for 2 bits"):
        study.propose(Ladder(), never, DENSE_VALUES)
