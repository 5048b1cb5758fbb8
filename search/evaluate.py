"""From a candidate to its evaluation: cost first, then training, then the finalised truth."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwmodel.accelerator import CostModel
from hwmodel.crossbar import CrossbarPlan
from hwmodel.digital import AnyLayer, DigitalLayer
from hwmodel.errors import CrossfrontError
from hwmodel.geometry import LayerShape
from search.config import StudyConfig
from search.objectives import cost_values
from spaces.candidate import Candidate
from trainers.checkpoint import save_checkpoint
from trainers.data import Dataset, ImageSet, load_dataset
from trainers.finalise import finalise
from trainers.fit import accuracy, fit, resolve_device
from trainers.integer import integer_layers
from trainers.method import Method, dense_targets
from trainers.methods import build_method
from trainers.networks import build_network
from trainers.tracing import trace
from trainers.weights import load_weights, save_weights

__all__ = [
    "Evaluation",
    "Problem",
    "check_problem",
    "evaluate",
    "load_problem",
    "train_dense",
]

COMPLETE = "complete"
FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a trial found out."""

    status: str
    """`complete` or `failed`."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Every objective by name: accuracy of the finalised integer network, costs in SI units."""
    adc_bits: Mapping[str, int] = field(default_factory=dict)
    """Certified ADC resolution by layer."""
    layers: Sequence[Mapping[str, Any]] = ()
    """The layers as they are computed (`hwmodel.digital.AnyLayer`), for pricing anew."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """`train` and `total`, in the worker."""
    reason: str = ""
    """Why it failed."""

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_json` wrote."""
        return cls(**{**fields, "layers": tuple(fields.get("layers", ()))})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Everything that the evaluations of one study share, loaded once per process."""

    config: StudyConfig
    dataset: Dataset
    shapes: Mapping[str, LayerShape]
    digital: Sequence[DigitalLayer]
    """Layers that no crossbar holds."""
    cost_model: CostModel
    device: torch.device

    def network(self) -> nn.Module:
        """The network, freshly initialised, on its device."""
        config = self.config
        network = build_network(
            config.network, self.dataset.input_shape, self.dataset.classes, seed=config.study.seed
        )
        return network.to(self.device)

    def dense_plan(self) -> CrossbarPlan:
        """The preset's own crossbar for every layer: what the dense baseline lies on."""
        return CrossbarPlan(default=self.cost_model.preset.crossbar)

    def planned_dense(self) -> dict[str, float]:
        """Worst-case costs of the dense network on the preset's own crossbar."""
        dense = Candidate(network=self.config.network.name, method="dense", plan=self.dense_plan())
        return self.planned_costs(dense)

    def planned_costs(self, candidate: Candidate) -> dict[str, float]:
        """Worst-case costs of a candidate before any training, by objective."""
        layers: list[AnyLayer] = [*candidate.planned(self.shapes), *self.digital]
        return cost_values(self.cost_model.evaluate(layers))


def load_problem(config: StudyConfig) -> Problem:
    """Loads data, traces the network and prepares the cost model.

    Raises:
        CrossfrontError: whatever is wrong with data, network, device or hardware.
    """
    dataset = load_dataset(config.data)
    device = resolve_device(config.train.device)
    network = build_network(config.network, dataset.input_shape, dataset.classes)
    shapes, digital = trace(network, config.network, dataset.input_shape)
    return Problem(
        config=config,
        dataset=dataset,
        shapes=shapes,
        digital=digital,
        cost_model=config.hardware.cost_model(),
        device=device,
    )


def check_problem(problem: Problem) -> None:
    """Finds out what would only fail later: the checkpoint to start from.

    Raises:
        CheckpointError: a checkpoint that is not there, or of another network.
    """
    checkpoint = problem.config.network.checkpoint
    if checkpoint is not None:
        load_weights(problem.network(), Path(checkpoint))


def train_dense(problem: Problem, weights: Path, checkpoint: Path) -> Evaluation:
    """Trains, or loads, the dense baseline that every trial starts from, and prices it.

    Args:
        problem: the study's problem.
        weights: where its float weights go.
        checkpoint: folder for its integer network.
    """
    config, started = problem.config, time.perf_counter()
    network = problem.network()
    targets = dense_targets(network, problem.dense_plan())
    method = Method(targets)
    if config.network.checkpoint is not None:
        load_weights(network, Path(config.network.checkpoint))
        method.attach(network, epochs=0, steps_per_epoch=1)
        train_s = 0.0
    else:
        result = fit(
            network,
            _training_images(problem),
            method,
            replace(config.train, distillation=0.0),  # it is the teacher
            epochs=config.train.dense_epochs,
            learning_rate=config.train.learning_rate,
            seed=config.study.seed,
            state_path=weights.with_suffix(".training"),
        )
        train_s = result.seconds
    save_weights(network, weights)
    facts = {"candidate": None, "method": method.name}
    evaluation = _finish(problem, network, method, checkpoint, facts, started, train_s)
    weights.with_suffix(".training").unlink(missing_ok=True)
    return evaluation


def evaluate(problem: Problem, candidate: Candidate, weights: Path, checkpoint: Path) -> Evaluation:
    """Trains one candidate from the dense weights and finalises it.

    A mistake that belongs to the candidate (a loss that is not finite, a constraint that cannot be
    met) becomes a failed evaluation with its reason, so that the study goes on.

    Args:
        problem: the study's problem.
        candidate: what to try.
        weights: float weights of the dense baseline.
        checkpoint: folder for the integer network.
    """
    config, started = problem.config, time.perf_counter()
    try:
        network = problem.network()
        load_weights(network, weights)
        settings = config.method_config(candidate.method)
        method = build_method(candidate.method, settings, candidate.targets(problem.shapes))
        teacher = _teacher(problem, weights)
        result = fit(
            network,
            _training_images(problem),
            method,
            config.train,
            epochs=config.train.epochs,
            learning_rate=config.train.prune_learning_rate,
            seed=candidate.seed,
            teacher=teacher,
        )
        facts = {"candidate": candidate.to_json(), "method": candidate.method}
        dense = teacher if config.train.reconstruct else None
        return _finish(problem, network, method, checkpoint, facts, started, result.seconds, dense)
    except CrossfrontError as error:
        seconds = {"total": time.perf_counter() - started}
        return Evaluation(status=FAILED, reason=str(error), seconds=seconds)


def _finish(
    problem: Problem,
    network: nn.Module,
    method: Method,
    checkpoint: Path,
    facts: Mapping[str, Any],
    started: float,
    train_s: float,
    dense: nn.Module | None = None,
) -> Evaluation:
    """Finalises, measures, prices and saves a trained network."""
    calibration = _training_images(problem)
    count = min(problem.config.train.calibration_count, len(calibration))
    integer = finalise(network, method, problem.shapes, calibration.subset(count), dense=dense)
    stored = integer_layers(integer)
    mapped = [layer.mapped(problem.shapes[name]) for name, layer in stored.items()]
    layers: list[AnyLayer] = [*mapped, *problem.digital]
    report = problem.cost_model.evaluate(layers)
    values = {"accuracy": accuracy(integer, problem.dataset.test), **cost_values(report)}
    save_checkpoint(
        checkpoint,
        integer,
        problem.config.network,
        input_shape=problem.dataset.input_shape,
        classes=problem.dataset.classes,
        facts={
            **facts,
            "accuracy": values["accuracy"],
            "dataset": {
                "name": problem.dataset.name,
                "test_images": len(problem.dataset.test),
                "test_digest": problem.dataset.test.digest,
            },
            "cost": json.loads(json.dumps(report.to_json())),
            "config": problem.config.to_json(),
        },
    )
    return Evaluation(
        status=COMPLETE,
        values=values,
        adc_bits={name: layer.certify().adc_bits for name, layer in stored.items()},
        layers=[layer.to_json() for layer in layers],
        seconds={"train": train_s, "total": time.perf_counter() - started},
    )


def _teacher(problem: Problem, weights: Path) -> nn.Module | None:
    """The dense network that candidates learn from or are held against, where they are."""
    if problem.config.train.distillation == 0 and not problem.config.train.reconstruct:
        return None
    teacher = problem.network()
    load_weights(teacher, weights)
    return teacher.eval()


def _training_images(problem: Problem) -> ImageSet:
    count = problem.config.train.train_count
    train = problem.dataset.train
    return train if count is None else train.subset(count)
