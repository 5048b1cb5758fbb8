"""Which dimensions of the space decide an objective, and what pruning one layer alone costs."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.objectives import ACCURACIES
from search.study import Study
from search.trials import INTERRUPTED, PROJECTED, RUNG, status, values
from trainers.progress import track

__all__ = ["Importances", "importances", "sensitivities"]

_FIRST = f"{RUNG}0"

_LEAST_TRIALS = 10
_TRUSTED_TRIALS = 200
"""Random candidates of LeNet-5's space whose shares rank the dimensions about as 1,000 of them do:
Spearman 0.6 to 0.7 over accuracy, area and power; 0.4 to 0.6 at 50 to 100 candidates, 0.0 to 0.4 at
20, 0.8 to 0.9 at 400 (medians of six draws)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importances:
    """What tells the best tenth of the candidates from the rest, in each objective."""

    candidates: int
    shares: Mapping[str, Mapping[str, float]]
    """Of each dimension of the space, by objective; they add up to 1."""

    @property
    def doubtful(self) -> bool:
        """Whether so few candidates rank the dimensions mostly by chance."""
        return self.candidates < _TRUSTED_TRIALS


def importances(study: Study) -> Importances | None:
    """Share of each dimension in what tells the best tenth from the rest, by objective.

    From the first rung, on which every candidate was measured alike. None below ten candidates.

    Source: PED-ANOVA (Watanabe et al., IJCAI 2023) as Optuna has it.
    """
    rows = [
        (trial, trial.user_attrs[_FIRST]["values"])
        for trial in study.trials()
        if _FIRST in trial.user_attrs
        and not trial.user_attrs.get("scan")
        and status(trial) != INTERRUPTED
        and trial.params  # a retry has none before it is taken
    ]
    if len(rows) < _LEAST_TRIALS:
        return None
    objectives = study.config.study.objectives
    signs = [-1.0 if name in ACCURACIES else 1.0 for name in objectives]
    found = {}
    with warnings.catch_warnings():
        # Of an evaluator that may change, of low targets being good, and of rare dimensions.
        warnings.simplefilter("ignore", UserWarning)
        copied = optuna.create_study(directions=["minimize"] * len(objectives))
        for trial, measured in track(rows, "importances, trials", len(rows)):
            losses = [sign * measured[name] for sign, name in zip(signs, objectives, strict=True)]
            copied.add_trial(_trial(trial, losses))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        for index, name in track(enumerate(objectives), "importances, objectives", len(objectives)):
            shares = optuna.importance.get_param_importances(
                copied,
                evaluator=evaluator,
                target=lambda trial, index=index: trial.values[index],  # type: ignore[misc]
            )
            found[name] = {parameter: float(share) for parameter, share in shares.items()}
    return Importances(candidates=len(rows), shares=found)


def sensitivities(study: Study) -> dict[str, dict[Any, float]]:
    """Accuracy lost by one choice of one dimension alone, by dimension and choice.

    From the scan's candidates, each against the mildest of its method and crossbar; of several
    crossbars the largest loss. Empty without a scan.
    """
    scanned = [
        trial
        for trial in study.ended()
        if trial.user_attrs.get("scan") and status(trial) == PROJECTED
    ]
    choices = study.choices
    found: dict[str, dict[Any, float]] = {}
    mildest: FrozenTrial | None = None
    for trial in scanned:
        changed = [] if mildest is None else _changed(mildest, trial)
        if mildest is None or len(changed) != 1 or "." not in changed[0]:
            mildest = trial  # the first of the next method or crossbar
            continue
        name = changed[0]
        lost = values(mildest)["accuracy"] - values(trial)["accuracy"]
        choice = choices[name][trial.params[name]]
        own = found.setdefault(name, {})
        own[choice] = max(own.get(choice, lost), lost)
    return found


def _changed(mildest: FrozenTrial, trial: FrozenTrial) -> list[str]:
    names = mildest.params.keys() | trial.params.keys()
    return [name for name in names if mildest.params.get(name) != trial.params.get(name)]


def _trial(trial: FrozenTrial, losses: list[float]) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE,
        params=trial.params,
        distributions=trial.distributions,
        values=losses,
    )
