"""The training loop: one readable page that knows hooks and no method."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import ConfigError, DivergedError
from trainers.config import MEMORY_FORMATS, TrainConfig
from trainers.data import EpochBatches, ImageSource
from trainers.data.augment import AUGMENTATIONS
from trainers.devices import multiplies_bfloat16
from trainers.method import Method
from trainers.progress import track
from trainers.training_state import load_training, save_training

__all__ = ["EpochReport", "FitResult", "accuracy", "fit"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One epoch of training."""

    epoch: int
    """Counted from 0."""
    loss: float
    """Mean cross-entropy over the epoch's batches."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What training did."""

    epochs: tuple[EpochReport, ...]
    seconds: float


def fit(
    network: nn.Module,
    images: ImageSource,
    method: Method,
    config: TrainConfig,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    teacher: nn.Module | None = None,
    state_path: Path | None = None,
    restarts: Sequence[int] = (),
    stop_after: int | None = None,
    report: Callable[[EpochReport], None] | None = None,
) -> FitResult:
    """Trains a network in place under a method's hooks.

    Args:
        network: on its device already; the images follow it.
        images: the training set.
        method: attached here; `method.finalize` is left to `trainers.finalise`.
        config: batch size, optimiser and schedule.
        epochs: epochs to train.
        learning_rate: peak learning rate.
        seed: seeds the order of the images and whatever the network draws.
        teacher: the dense network, in evaluation mode, whose logits `config.distillation` learns
            from; needed where that is above 0.
        state_path: where the state after each epoch is kept; training resumes from it if it is
            there, bit for bit.
        restarts: epochs, ascending, before which the learning rate's schedule begins anew, so that
            the network is worth measuring after each of them.
        stop_after: how many of the epochs to train now; a later call goes on from `state_path`.
        report: called after each epoch.

    Raises:
        ConfigError: distillation without a teacher.
        DivergedError: a loss that is not finite, naming epoch and step.
        CheckpointError: a state of another network, method or schedule.
        DataError: fewer images than one batch.
    """
    if config.distillation > 0 and teacher is None:
        raise ConfigError(
            f"train.distillation is {config.distillation}; allowed without teacher: 0"
        )
    device = next(network.parameters()).device
    if config.precision == "bfloat16" and not multiplies_bfloat16(device):
        _LOG.warning(
            "train.precision is 'bfloat16', which %s only imitates; 'float32' is faster here",
            device,
        )
    network.to(memory_format=MEMORY_FORMATS[config.memory_format])  # type: ignore[call-overload]
    batches = images.batches(config.batch_size, seed=seed, device=device)
    method.attach(network, epochs=epochs, steps_per_epoch=len(batches))
    optimiser = _optimiser(network, config)
    reports: list[EpochReport] = []
    torch.manual_seed(seed)
    settings = {**asdict(config), "peak": learning_rate, "seed": seed, "until": epochs}
    settings |= {"restarts": list(restarts)} if restarts else {}
    bounds = [0, *restarts, epochs]
    if state_path is not None and state_path.exists():
        done = load_training(state_path, network, optimiser, method, settings)
        reports = [EpochReport(**fields) for fields in done]
    rest = range(len(reports), epochs if stop_after is None else stop_after)
    for epoch in track(rest, "training, epochs", len(rest)):
        started = time.perf_counter()
        cycle = next((a, b) for a, b in pairwise(bounds) if epoch < b)
        loss = _train_epoch(
            network, batches, optimiser, method, config, epoch, cycle, learning_rate, teacher
        )
        method.after_epoch(epoch)
        seconds = time.perf_counter() - started
        reports.append(EpochReport(epoch=epoch, loss=loss, seconds=seconds))
        if state_path is not None:
            rows = [asdict(done) for done in reports]
            save_training(state_path, network, optimiser, method, settings, rows)
        if report is not None:
            report(reports[-1])
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return FitResult(epochs=tuple(reports), seconds=sum(r.seconds for r in reports))


def _train_epoch(
    network: nn.Module,
    batches: EpochBatches,
    optimiser: torch.optim.Optimizer,
    method: Method,
    config: TrainConfig,
    epoch: int,
    cycle: tuple[int, int],
    learning_rate: float,
    teacher: nn.Module | None,
) -> float:
    """One epoch of a cycle of the schedule; the losses are read back once, at its end."""
    network.train()
    augment = AUGMENTATIONS[config.augment]
    half = config.precision == "bfloat16"
    losses: list[Tensor] = []
    for step, (images, labels) in enumerate(
        track(batches.epoch(epoch), f"epoch {epoch}, batches", len(batches))
    ):
        done = (epoch - cycle[0]) * len(batches) + step
        share = done / ((cycle[1] - cycle[0]) * len(batches))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _schedule(config.schedule, share)
        images = augment(images).contiguous(memory_format=MEMORY_FORMATS[config.memory_format])
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits = network(images)
        loss = _loss(logits.float(), images, labels, config, teacher)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        method.after_backward()
        optimiser.step()
        method.after_step()
        losses.append(loss.detach())
    curve = torch.stack(losses)
    bad = ~torch.isfinite(curve)
    if bool(bad.any()):
        step = int(bad.float().argmax())
        raise DivergedError(
            f"loss is {float(curve[step])} in epoch {epoch}, step {step}; allowed: a finite number "
            f"(learning rate {learning_rate:g})"
        )
    return float(curve.mean())


def _loss(
    logits: Tensor,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    teacher: nn.Module | None,
) -> Tensor:
    """Cross-entropy, mixed with the distance to the teacher's softened answer.

    Source: knowledge distillation (Hinton et al., 2015), section 2.
    """
    loss = functional.cross_entropy(logits, labels)
    if teacher is None or config.distillation == 0:
        return loss
    soft = config.distillation_temperature
    with torch.no_grad():
        answer = functional.log_softmax(teacher(images) / soft, dim=1)
    student = functional.log_softmax(logits / soft, dim=1)
    distance = functional.kl_div(student, answer, reduction="batchmean", log_target=True)
    return (1 - config.distillation) * loss + config.distillation * soft**2 * distance


@torch.no_grad()
def accuracy(network: nn.Module, images: ImageSource, *, batch_size: int = 500) -> float:
    """Share of correctly classified images, 0 to 1, in evaluation mode."""
    device = next((t.device for t in [*network.parameters(), *network.buffers()]), "cpu")
    network.eval()
    batches = images.batches(batch_size, seed=0, device=device, shuffle=False)
    watched = track(batches.epoch(0), "measuring accuracy, batches", len(batches))
    correct = sum(int((network(x).argmax(dim=1) == y).sum()) for x, y in watched)
    return correct / len(images)


def _optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay on weights only, not on biases and batch norm."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, lr=0.0)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=nesterov)


def _schedule(name: str, share: float) -> float:
    """Factor on the peak learning rate after `share` of all steps."""
    if name == "constant":
        return 1.0
    if name == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    return min(share / 0.2 + 0.01, (1 - share) / 0.8, 1.0)
