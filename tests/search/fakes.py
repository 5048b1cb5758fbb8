"""Studies without Ray, data or training: one dimension, and evaluations made by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwmodel.crossbar import CrossbarPlan
from hwmodel.geometry import LayerShape
from search.config import StudyConfig, read_config
from search.evaluate import COMPLETE, FAILED, Evaluation
from search.folder import StudyFolder
from search.objectives import COSTS
from search.study import Study
from spaces import Candidate, LayerSetting, Suggester

__all__ = [
    "SHAPES",
    "Ladder",
    "done",
    "evaluate_all",
    "failed",
    "new_study",
    "price",
    "study_config",
    "try_one",
]

SHAPES = {
    name: LayerShape(name=name, rows=rows, outputs=outputs)
    for name, rows, outputs in (("fc1", 784, 128), ("fc2", 128, 64), ("fc3", 64, 10))
}


class Ladder:
    """1 to 100 non-zeros in the layer `fc1`."""

    def suggest(self, trial: Suggester, seed: int) -> Candidate:
        count = trial.suggest_int("x", 1, 100)
        return Candidate(
            network="mlp",
            method="tinyadc",
            plan=CrossbarPlan(),
            layers={"fc1": LayerSetting(nonzeros=count)},
            seed=seed,
        )

    def starts(self) -> list[dict[str, Any]]:
        return [{"x": 100}, {"x": 50}]


DENSE_VALUES = {"accuracy": 0.9, **dict.fromkeys(COSTS, 1.0)}
"""What the dense baseline of `new_study` measured, and its plan costs."""


def price(candidate: Candidate) -> dict[str, float]:
    """Every cost of a candidate of the ladder: its share of the highest rung."""
    return dict.fromkeys(COSTS, (candidate.layers["fc1"].nonzeros or 0) / 100)


def done(accuracy: float, cost: float, **values: float) -> Evaluation:
    """A complete evaluation with the same value for every cost but those given."""
    return Evaluation(
        status=COMPLETE,
        values={"accuracy": accuracy, **dict.fromkeys(COSTS, cost), **values},
        adc_bits={"fc1": 5, "fc2": 3},
        seconds={"train": 1.0, "total": 2.5},
    )


def failed(reason: str = "loss is nan") -> Evaluation:
    return Evaluation(status=FAILED, reason=reason, seconds={"total": 1.0})


def study_config(tables: Mapping[str, Any] | None = None, **study: Any) -> StudyConfig:
    plain = {"name": "tiny", "trials": 12, "sampler": "random"}
    return read_config({"study": {**plain, **study}, **(tables or {})})


def new_study(
    storage: Path, tables: Mapping[str, Any] | None = None, *, dense: bool = True, **study: Any
) -> Study:
    """A study below `storage`; its dense baseline has accuracy 0.9 and costs of 1."""
    config = study_config(tables, **study)
    created = Study.create(StudyFolder(storage, config.study.name), config)
    if dense:
        created.set_dense(done(0.9, 1.0))
    return created


def try_one(study: Study, evaluation: Evaluation) -> int:
    """Proposes one candidate and ends it so; returns its number."""
    proposal = study.propose(Ladder(), price, DENSE_VALUES)
    assert proposal is not None
    study.finish(proposal.number, evaluation)
    return proposal.number


def evaluate_all(study: Study) -> list[Candidate]:
    """Spends the budget: accuracy grows with the square root of the cost."""
    found = []
    while (proposal := study.propose(Ladder(), price, DENSE_VALUES)) is not None:
        cost = price(proposal.candidate)["area"]
        study.finish(proposal.number, done(0.9 * cost**0.5, cost))
        found.append(proposal.candidate)
    return found
