"""Optuna's samplers, kept from slowing down as a study grows.

TPE sorts all earlier trials for every parameter and a Gaussian process inverts a matrix of them. In
a long study both see the front's and the newest trials only; what is lost is what old trials off
the front would still say about the bad parts of the space. NSGA-II and III look at populations
anyway.
"""

import copy
from collections.abc import Callable, Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.config import StudyConfig

__all__ = ["MEMORY", "make_sampler"]

MEMORY = 250
"""Newest trials that TPE and GP learn from, beside as many of the front."""


def make_sampler(
    config: StudyConfig, seed: int, front: Callable[[], Sequence[FrozenTrial]]
) -> BaseSampler:
    """The configured sampler; TPE also where `search.surrogate` proposes instead.

    Args:
        config: of the study.
        seed: of the sampler's draws.
        front: the trials that are never forgotten.
    """
    name, trials = config.study.sampler, config.study.trials
    population = min(50, max(4, trials // 4))
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    if name == "nsga3":
        return optuna.samplers.NSGAIIISampler(seed=seed, population_size=population)
    if name == "gp":
        return _Forgetful(optuna.samplers.GPSampler(seed=seed), front)
    startup = min(10, max(4, trials // 3))
    return _Forgetful(optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup), front)


class _Forgetful(BaseSampler):
    """A sampler that sees a study's front and its newest trials.

    Args:
        sampler: any that reads trials only.
        front: the trials that are never forgotten.
    """

    def __init__(self, sampler: BaseSampler, front: Callable[[], Sequence[FrozenTrial]]) -> None:
        self._sampler = sampler
        self._front = front
        self._view: optuna.Study | None = None

    def reseed_rng(self) -> None:
        """Draws anew."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Called first for each trial: looks at the study."""
        view = copy.copy(study)
        view.__class__ = _Memory
        assert isinstance(view, _Memory)
        view.kept = frozenset(member.number for member in self._front()[-MEMORY:])
        self._view = view
        return self._sampler.infer_relative_search_space(view, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters that are sampled together."""
        return self._sampler.sample_relative(self._view or study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """One parameter."""
        return self._sampler.sample_independent(self._view or study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Before a trial's first parameter."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """After a trial has ended."""
        self._sampler.after_trial(study, trial, state, values)


class _Memory(optuna.Study):
    """A study without old trials off its front."""

    kept: frozenset[int]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        if len(trials) <= MEMORY:
            return trials
        old, new = trials[:-MEMORY], trials[-MEMORY:]
        return [trial for trial in old if trial.number in self.kept] + new
