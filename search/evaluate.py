"""From a candidate to its evaluation: cost first, then training, then the finalised truth."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwmodel.accelerator import CostModel
from hwmodel.crossbar import CrossbarPlan
from hwmodel.errors import (
    CheckpointError,
    ConfigError,
    CrossfrontError,
    OutOfRangeError,
    StorageError,
)
from hwmodel.geometry import LayerShape, MappedLayer
from hwmodel.layers import AnyLayer, DigitalLayer
from search.baseline import check_price, dense_training
from search.break_even import paying_targets
from search.config import StudyConfig
from search.objectives import COSTS, cost_values
from spaces.candidate import Candidate
from trainers.checkpoint import save_checkpoint
from trainers.data import Dataset, ImageSet, ImageSource, load_dataset
from trainers.devices import resolve_device
from trainers.finalise import finalise
from trainers.fit import EpochReport, accuracy, fit
from trainers.integer import integer_layers
from trainers.method import Method, dense_targets
from trainers.methods import AdmmNnConfig, build_method
from trainers.networks import build_network
from trainers.reconstruct import reconstruct
from trainers.robustness import Robustness, robust_accuracy
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
    epochs: int = 0
    """Epochs that it has been trained for since the dense weights."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """`train` and `total`, in the worker; of a candidate on several rungs, of the last."""
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
    dataset: Dataset[ImageSource]
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

    def dense_layers(self) -> list[MappedLayer]:
        """The layers of the dense network on crossbars, at their worst case."""
        dense = Candidate(network=self.config.network.name, method="dense", plan=self.dense_plan())
        return dense.planned(self.shapes)

    def planned_dense(self) -> dict[str, float]:
        """Worst-case costs of the dense network, as far as bounds compare plans with them.

        Raises:
            OutOfRangeError: an ADC that the law refuses.
        """
        compared = {bound.objective for bound in self.config.study.bounds if bound.relative}
        if not compared & set(COSTS):  # its trained weights may need smaller ADCs than the law has
            return {}
        return cost_values(self.cost_model.evaluate([*self.dense_layers(), *self.digital]))

    def planned_costs(self, candidate: Candidate) -> dict[str, float]:
        """Worst-case costs of a candidate before any training, by objective."""
        layers: list[AnyLayer] = [*candidate.planned(self.shapes), *self.digital]
        return cost_values(self.cost_model.evaluate(layers))


def load_problem(config: StudyConfig) -> Problem:
    """Loads data, traces the network and prepares the cost model.

    Raises:
        CrossfrontError: whatever is wrong with data, network, device or hardware.
    """
    if config.data.backbone_classes is not None and config.train.distillation > 0:
        raise ConfigError(
            f"train.distillation is {config.train.distillation}; allowed with "
            "data.backbone_classes: 0, since no dense network knows the task"
        )
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


def check_problem(problem: Problem) -> str | None:
    """Finds out what would only fail later: the checkpoint to start from, the baseline's price.

    Returns:
        A note of `check_price`, if it has one.

    Raises:
        CheckpointError: a checkpoint that is not there, or of another network.
        OutOfRangeError: a dense network that the ADC law certainly cannot price.
    """
    _load_pretrained(problem, problem.network())
    return check_price(problem)


def train_dense(problem: Problem, weights: Path, checkpoint: Path) -> Evaluation:
    """Trains, or loads, the dense baseline that every trial starts from, and prices it.

    Where the data name `backbone_classes`, trials start from a backbone that has learnt those, and
    the dense baseline is what trials stand against: all of it trained on as long as they are.

    Args:
        problem: the study's problem.
        weights: where the float weights go that trials start from; if they are there, they are
            not trained again.
        checkpoint: folder for the baseline's integer network.

    Raises:
        CrossfrontError: whatever is wrong with the checkpoint or the backbone's classes, or a
            resolution that the ADC law refuses.
    """
    started = time.perf_counter()
    network = problem.network()
    method = Method(dense_targets(network, problem.dense_plan()))
    train_s = _start_dense(problem, network, method, weights)
    if problem.config.data.backbone_classes is not None:
        epochs, rate = problem.config.train.epochs, problem.config.train.prune_learning_rate
        train_s += _fit_dense(problem, network, method, weights, epochs, rate)
    else:
        method.attach(network, epochs=0, steps_per_epoch=1)
    facts = {"candidate": None, "method": method.name}
    try:
        evaluation = _finish(problem, network, method, checkpoint, facts, started, train_s)
    except OutOfRangeError as error:
        raise OutOfRangeError(
            f"the dense baseline has no price: {error}; once the law answers, do the same again: "
            "what is trained is kept"
        ) from None
    weights.with_suffix(".training").unlink(missing_ok=True)
    return evaluation


def _start_dense(problem: Problem, network: nn.Module, method: Method, weights: Path) -> float:
    """Gives a network the dense weights that trials start from, and keeps them.

    Returns:
        Seconds of training.
    """
    config, train_s = problem.config, 0.0
    if weights.exists():
        load_weights(network, weights)
        return train_s
    _load_pretrained(problem, network)
    loaded = config.network.checkpoint is not None
    if config.data.backbone_classes is not None:
        train_s = 0.0 if loaded else _train_backbone(problem, network, weights)
    elif not loaded or config.network.reset_head:
        epochs, rate = config.train.dense_epochs, config.train.learning_rate
        train_s = _fit_dense(problem, network, method, weights, epochs, rate)
    save_weights(network, weights)
    return train_s


def _train_backbone(problem: Problem, network: nn.Module, weights: Path) -> float:
    """Gives a task's network the backbone that has learnt `data.backbone_classes`; in seconds."""
    config = problem.config
    data = replace(config.data, classes=config.data.backbone_classes, backbone_classes=None)
    before = load_problem(replace(config, data=data))
    backbone = before.network()
    method = Method(dense_targets(backbone, problem.dense_plan()))
    file = weights.with_name(f"backbone.{weights.name}")
    epochs, rate = config.train.dense_epochs, config.train.learning_rate
    train_s = _fit_dense(before, backbone, method, file, epochs, rate)
    save_weights(backbone, file)
    load_weights(network, file, reset_head=True)
    file.with_suffix(".training").unlink(missing_ok=True)
    return train_s


def _fit_dense(
    problem: Problem, network: nn.Module, method: Method, weights: Path, epochs: int, rate: float
) -> float:
    """Trains densely, resuming where a run was cut off; the seconds that it took."""
    config = problem.config
    result = fit(
        network,
        _training_images(problem),
        method,
        dense_training(config.train),
        epochs=epochs,
        learning_rate=rate,
        seed=config.study.seed,
        state_path=weights.with_suffix(".training"),
    )
    return result.seconds


def evaluate(
    problem: Problem,
    candidate: Candidate,
    weights: Path,
    checkpoint: Path,
    *,
    rung: int = -1,
    state: Path | None = None,
    report: Callable[[EpochReport], None] | None = None,
) -> Evaluation:
    """Trains one candidate from the dense weights as far as a rung, and finalises it.

    A mistake that belongs to the candidate (a loss that is not finite, a constraint that cannot be
    met) becomes a failed evaluation with its reason, so that the study goes on.

    Args:
        problem: the study's problem.
        candidate: what to try.
        weights: float weights of the dense baseline.
        checkpoint: folder for the integer network.
        rung: index of the rung in `config.rungs` to train up to; by default the last.
        state: where training is kept after each epoch, and goes on from.
        report: called after each epoch.

    Raises:
        StorageError: a disk that is full, for which no candidate is to blame.
    """
    started = time.perf_counter()
    try:
        teacher = _teacher(problem, weights)
        try:
            trained = _train(problem, candidate, weights, teacher, rung, state, report)
        except CheckpointError:
            kept = [] if state is None else [p for p in (state, _start(state)) if p.exists()]
            if not kept:
                raise
            for path in kept:  # unreadable, so that this candidate begins anew
                path.unlink()
            trained = _train(problem, candidate, weights, teacher, rung, state, report)
        network, method, train_s = trained
        facts = {"candidate": candidate.to_json(), "method": candidate.method}
        epochs = problem.config.rungs[rung]
        dense = teacher if problem.config.train.reconstruct and not epochs else None
        found = _finish(problem, network, method, checkpoint, facts, started, train_s, dense)
        if dense is not None and state is not None:
            save_weights(network, _start(state))
        return replace(found, epochs=epochs)
    except StorageError:
        raise
    except CrossfrontError as error:
        seconds = {"total": time.perf_counter() - started}
        return Evaluation(status=FAILED, reason=str(error), seconds=seconds)


def _train(
    problem: Problem,
    candidate: Candidate,
    weights: Path,
    teacher: nn.Module | None,
    rung: int,
    state: Path | None,
    report: Callable[[EpochReport], None] | None,
) -> tuple[nn.Module, Method, float]:
    """The network trained as far as a rung, its method, and the seconds that this took now."""
    config = problem.config
    stop = config.rungs[rung]
    network = problem.network()
    load_weights(network, weights)
    settings = config.method_config(candidate.method)
    targets = candidate.targets(problem.shapes)
    if isinstance(settings, AdmmNnConfig) and settings.break_even != "none":
        targets = paying_targets(
            network, targets, problem.shapes, problem.cost_model, settings.break_even
        )
    method = build_method(candidate.method, settings, targets)
    started = time.perf_counter()
    if config.train.reconstruct and stop and not (state is not None and state.exists()):
        if state is not None and _start(state).exists():
            load_weights(network, _start(state))
        else:
            assert teacher is not None
            first = build_method(candidate.method, settings, targets)
            first.attach(network, epochs=0, steps_per_epoch=1)
            first.finalize()
            reconstruct(network, first, teacher, _calibration_images(problem))
    fit(
        network,
        _training_images(problem),
        method,
        config.train,
        epochs=config.train.epochs if stop else 0,
        learning_rate=config.train.prune_learning_rate,
        seed=candidate.seed,
        teacher=teacher,
        state_path=state,
        restarts=config.fidelity.rungs if stop else (),
        stop_after=stop,
        report=report,
    )
    return network, method, time.perf_counter() - started


def _start(state: Path) -> Path:
    """Where a reconstructed network waits for its training; it can be had again if it is lost."""
    return state.with_suffix(".start.safetensors")


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
    calibration = _calibration_images(problem)
    integer = finalise(network, method, problem.shapes, calibration, dense=dense)
    stored = integer_layers(integer)
    mapped = [layer.mapped(problem.shapes[name]) for name, layer in stored.items()]
    layers: list[AnyLayer] = [*mapped, *problem.digital]
    report = problem.cost_model.evaluate(layers)
    values = {"accuracy": accuracy(integer, problem.dataset.test), **cost_values(report)}
    robust = _robustness(problem, integer)
    if robust is not None:
        values["robust_accuracy"] = robust.mean
    save_checkpoint(
        checkpoint,
        integer,
        problem.config.network,
        input_shape=problem.dataset.input_shape,
        classes=problem.dataset.classes,
        facts={
            **facts,
            **method.facts(),
            "accuracy": values["accuracy"],
            "robustness": None if robust is None else robust.to_json(),
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


def _load_pretrained(problem: Problem, network: nn.Module) -> None:
    """Loads the checkpoint to start from, where there is one."""
    config = problem.config.network
    if config.checkpoint is not None:
        task = problem.config.data.backbone_classes is not None
        load_weights(network, Path(config.checkpoint), reset_head=config.reset_head or task)


def _robustness(problem: Problem, integer: nn.Module) -> Robustness | None:
    """The integer network on the lossy devices that the study asks for."""
    asked, test = problem.config.robustness, problem.dataset.test
    if asked.device is None:
        return None
    images = test.subset(min(asked.images, len(test)))
    return robust_accuracy(integer, images, asked.device, range(asked.seeds))


def _teacher(problem: Problem, weights: Path) -> nn.Module | None:
    """The dense network that candidates learn from or are held against, where they are."""
    if problem.config.train.distillation == 0 and not problem.config.train.reconstruct:
        return None
    teacher = problem.network()
    load_weights(teacher, weights)
    return teacher.eval()


def _calibration_images(problem: Problem) -> ImageSet:
    images = _training_images(problem)
    return images.subset(min(problem.config.train.calibration_count, len(images)))


def _training_images(problem: Problem) -> ImageSource:
    count = problem.config.train.train_count
    train = problem.dataset.train
    return train if count is None else train.subset(count)
