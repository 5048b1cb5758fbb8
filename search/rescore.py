"""A study under another ADC law: priced anew from what every trial stored, without training."""

from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from hwmodel.accelerator import CostModel
from hwmodel.errors import StudyError
from hwmodel.layers import layer_from_json
from search.evaluate import Evaluation
from search.front import hypervolume, nondominated
from search.objectives import COSTS, cost_values
from search.repeats import REPEATED, spreads
from search.study import Study
from search.trials import status
from trainers.progress import track

__all__ = ["Rescored", "rescore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """A study's front under a law that it was not searched with."""

    law: str
    dense: dict[str, float]
    """The dense network's objectives under the law."""
    reference: dict[str, float]
    """The hypervolume's reference point under the law."""
    hypervolume: float
    front: tuple[tuple[FrozenTrial, dict[str, float]], ...]
    """The members with their objectives under the law."""
    left: tuple[int, ...]
    """Trials of the study's own front that are not on this one."""
    joined: tuple[int, ...]
    """Trials of this front that are not on the study's own."""


def rescore(study: Study, law: str) -> Rescored:
    """The study's front if its ADCs had cost what another law says.

    Accuracy stays; costs, hard bounds and dominance are all taken anew. Every complete trial can
    join, not only members of the study's own front.

    Raises:
        ConfigError: an unknown law.
        OutOfRangeError: a law that refuses a resolution which some trial uses.
        StudyError: no dense baseline yet, or trials that did not store their layers.
    """
    if study.dense is None:
        raise StudyError(f"study {study.folder.name!r} has no dense baseline yet")
    model = replace(study.config.hardware, law=law).cost_model()
    dense = _values(study.dense, model, "the dense baseline")
    priced = []
    measured = study.measured()
    for trial in track(measured, f"pricing under {model.law.name}, trials", len(measured)):
        seeds = [trial, *(t for t in study.repeats(trial) if status(t) == REPEATED)]
        found = {n: s.mean for n, s in spreads([_priced(t, model) for t in seeds]).items()}
        if all(bound.violation(found, dense) <= 0 for bound in study.config.study.bounds):
            priced.append((trial, found))
    objectives = study.config.study.objectives
    kept = nondominated([found for _, found in priced], objectives)
    front = tuple(priced[index] for index in kept)
    reference = study.reference | {n: dense[n] for n in objectives if n in COSTS}
    before = {trial.number for trial in study.front()}
    after = {trial.number for trial, _ in front}
    return Rescored(
        law=model.law.name,
        dense=dense,
        reference=reference,
        hypervolume=hypervolume([found for _, found in front], reference),
        front=front,
        left=tuple(sorted(before - after)),
        joined=tuple(sorted(after - before)),
    )


def _priced(trial: FrozenTrial, model: CostModel) -> dict[str, float]:
    evaluation = Evaluation.from_json(trial.user_attrs["evaluation"])
    return _values(evaluation, model, f"trial {trial.number}")


def _values(evaluation: Evaluation, model: CostModel, whose: str) -> dict[str, float]:
    """The objectives of an evaluation under another cost model."""
    if not evaluation.layers:
        raise StudyError(f"{whose} stored no layers to price anew; it is of an older version")
    report = model.evaluate([layer_from_json(layer) for layer in evaluation.layers])
    kept = {name: value for name, value in evaluation.values.items() if name not in COSTS}
    return {**kept, **cost_values(report)}
