"""Settings of networks and of the training loop: frozen dataclasses, one per TOML section."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hwmodel.errors import ConfigError
from trainers.data.augment import AUGMENTATIONS

__all__ = ["NetworkConfig", "TrainConfig", "check_choice", "check_number"]

OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("one-cycle", "cosine", "constant")
MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Which network, and where its weights come from."""

    name: str = "lenet5"
    """A name of `crossfront list networks`, or `module:factory` of your own; the factory is called
    with `input_shape` (channels, height, width), `classes` and the `arguments` below."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the factory."""
    checkpoint: str | None = None
    """A safetensors file or state dict to start from instead of training a dense baseline."""
    reset_head: bool = False
    """Whether the checkpoint's last layer is left out, because it has other classes; the network
    with a fresh one is then trained for `train.dense_epochs`."""
    unmapped: str = "refuse"
    """What becomes of layers that no crossbar holds: `refuse` them by name, or `digital`: they stay
    as they are, computed and priced as digital multiply-accumulates."""

    def __post_init__(self) -> None:
        check_choice("network.unmapped", self.unmapped, ("refuse", "digital"))
        if self.reset_head and self.checkpoint is None:
            raise ConfigError(
                "network.reset_head is True; allowed without network.checkpoint: False"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The training loop.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    dense_epochs: int = 10
    """Epochs of the dense baseline, trained once per study."""
    epochs: int = 4
    """Epochs of each candidate, all phases of its method together."""
    batch_size: int = 64
    """Images per step."""
    optimiser: str = "sgd"
    """`sgd` (Nesterov momentum) or `adam`."""
    learning_rate: float = 0.05
    """Peak learning rate of the dense baseline."""
    prune_learning_rate: float = 0.06
    """Peak learning rate of each candidate, which starts from the dense weights."""
    momentum: float = 0.9
    """Of `sgd`."""
    weight_decay: float = 5e-4
    """Of weights, not of biases and batch norm."""
    schedule: str = "one-cycle"
    """`one-cycle` (linear up over the first fifth, linear down), `cosine` or `constant`."""
    augment: str = "none"
    """`none`, `flip` (mirror at random), `crop-flip` (shifted by up to 4 pixels, mirrored) or
    `crop-flip-cutout` (and a square of half the side blanked)."""
    distillation: float = 0.0
    """Share of the loss, 0 to 1, that is the distance to the dense network's answers, for each
    candidate; the rest is cross-entropy. Costs a forward pass of the dense network per step."""
    distillation_temperature: float = 4.0
    """How far both answers are softened before they are compared."""
    train_count: int | None = None
    """Training images per epoch (default: all)."""
    calibration_count: int = 512
    """Training images that set activation ranges and batch-norm statistics at the end."""
    reconstruct: bool = False
    """Move each pruned layer's weights, within what its method allows, towards the dense layer's
    outputs on some calibration images. Takes seconds, is worth an epoch or several, and is where
    training then starts from."""
    memory_format: str = "contiguous"
    """`contiguous` or `channels_last`: how images and weights lie in memory while training. The
    same mathematics; which is faster depends on network and processor."""
    precision: str = "float32"
    """`float32`, or `bfloat16` for the network's forward and backward passes (autocast); weights,
    loss and projections stay in float32. Faster where the processor has bfloat16 instructions."""
    threads: int = 1
    """CPU threads of one training process."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..."""

    def __post_init__(self) -> None:
        for name in ("dense_epochs", "epochs"):
            check_number(f"train.{name}", getattr(self, name), low=0, integer=True)
        for name in ("batch_size", "calibration_count", "threads"):
            check_number(f"train.{name}", getattr(self, name), low=1, integer=True)
        for name in ("learning_rate", "prune_learning_rate", "momentum", "weight_decay"):
            check_number(f"train.{name}", getattr(self, name), low=0)
        check_number("train.distillation", self.distillation, low=0, high=1)
        check_number("train.distillation_temperature", self.distillation_temperature, low=0.1)
        if self.train_count is not None:
            check_number("train.train_count", self.train_count, low=1, integer=True)
        check_choice("train.optimiser", self.optimiser, OPTIMISERS)
        check_choice("train.schedule", self.schedule, SCHEDULES)
        check_choice("train.memory_format", self.memory_format, tuple(MEMORY_FORMATS))
        check_choice("train.precision", self.precision, PRECISIONS)
        check_choice("train.augment", self.augment, tuple(AUGMENTATIONS))


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    integer: bool = False,
) -> None:
    """Refuses a setting that is not a finite number within its limits.

    Raises:
        ConfigError: naming the setting, its value and what is allowed.
    """
    kind = "an integer" if integer else "a number"
    limits = (f" from {low:g}" if low is not None else "") + (
        f" up to {high:g}" if high is not None else ""
    )
    allowed = f"allowed: {kind}{limits}"
    is_number = isinstance(value, int) or (not integer and isinstance(value, float))
    if isinstance(value, bool) or not is_number or not math.isfinite(float(str(value))):
        raise ConfigError(f"{name} is {value!r}; {allowed}")
    number = float(str(value))
    if (low is not None and number < low) or (high is not None and number > high):
        raise ConfigError(f"{name} is {value!r}; {allowed}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses a setting that is not one of the allowed words.

    Raises:
        ConfigError: naming the setting, its value and the words.
    """
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
