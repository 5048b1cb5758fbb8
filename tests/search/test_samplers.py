from pathlib import Path
from typing import Any

import optuna
import pytest

import search.samplers
from search.samplers import make_sampler
from tests.search.fakes import done, new_study, study_config, try_one


def test_sampler_of_a_small_study_has_few_random_starts() -> None:
    for trials in (1, 4, 30, 1000):
        sampler = make_sampler(study_config(sampler="nsga2", trials=trials), 0, list)
        assert isinstance(sampler, optuna.samplers.NSGAIISampler)
        assert 4 <= sampler.population_size <= 50


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_long_study_shows_its_sampler_the_front_and_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[list[int]] = []

    class Looking(optuna.samplers.RandomSampler):
        def __init__(self, **_: Any) -> None:
            super().__init__(seed=0)

        def sample_independent(self, study: optuna.Study, *rest: Any) -> Any:
            seen.append(
                [t.number for t in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
            )
            return super().sample_independent(study, *rest)

    monkeypatch.setattr(optuna.samplers, "TPESampler", Looking)
    monkeypatch.setattr(optuna.samplers, "GPSampler", Looking)
    monkeypatch.setattr(search.samplers, "MEMORY", 3)
    study = new_study(tmp_path, sampler=name, trials=12)
    best = try_one(study, done(0.89, 0.1))
    for _ in range(9):
        try_one(study, done(0.5, 0.9))
    assert seen[3] == [0, 1, 2]
    assert seen[-1] == [best, 6, 7, 8]
    assert len(study.ended()) == 10
