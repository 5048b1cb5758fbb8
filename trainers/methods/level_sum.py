"""Level-sum: Crossfront's own constraint, on what an ADC really has to resolve.

An ADC reads a segment exactly if the levels of every bit slice sum to no more than it can count.
Bounding the number of non-zero weights (TinyADC) implies that; bounding the sums themselves allows
more: weights spread over the slices instead of vanishing. The latent weights are trained straight
through the projection (`trainers.level_sum`), on a scale for every output that is chosen for the
dense weights and fitted anew, by least squares, to what each projection found.

Source: ours (design 2.3).

Tried and left out: scales trained by gradient (LeNet-5 at 3 bits ended at chance), and a scale for
every segment, which would need a multiplication after every conversion. ADC bits by layer are the
search's to choose (`spaces`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwmodel.errors import SpecError
from trainers.config import check_number
from trainers.constraints import Constraint, LevelSum, Unconstrained
from trainers.level_sum import (
    choose_scale,
    level_limits,
    per_output,
    project_weight,
    refit_scale,
    reproject_levels,
)
from trainers.method import LayerTarget
from trainers.methods.straight_through import StraightThrough

__all__ = ["LevelSumConfig", "LevelSumMethod"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSumConfig:
    """Settings of `level-sum`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    refresh_steps: int = 10
    """Steps between two projections; between them no digit grows."""

    def __post_init__(self) -> None:
        check_number("method.refresh_steps", self.refresh_steps, low=1, integer=True)


class LevelSumMethod(StraightThrough):
    """Trains straight through the bound on level sums.

    Args:
        targets: `adc_bits` by layer; rows and outputs to keep.
        config: the schedule.

    Raises:
        SpecError: an encoding or ADC that no level sum fits, naming the layer.
    """

    name = "level-sum"
    settings = ("adc_bits", "kept_shapes", "kept_filters")
    gradient_share = 0.1  # 0.03 to 0.1 do equally well, 0.3 loses points on LeNet-5

    def __init__(self, targets: Mapping[str, LayerTarget], config: LevelSumConfig) -> None:
        super().__init__(targets, config.refresh_steps)
        self.limits = _limits(targets)
        """Largest level sum of a segment, by layer that has a bound."""
        self.scales: dict[str, Tensor] = {}
        self.anchors: dict[str, Tensor] = {}

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Chooses scales, then projects."""
        self.scales, self.anchors = {}, {}
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def bounded(self, name: str) -> bool:
        """Whether the target names ADC bits."""
        return name in self.limits

    def constraint(self, name: str) -> Constraint:
        """The layer's bound on level sums."""
        adc_bits = self.targets[name].adc_bits
        return Unconstrained() if adc_bits is None else LevelSum(adc_bits)

    def project(self, name: str, weight: Tensor) -> Tensor:
        """The nearest weight found, on the layer's present scales."""
        if name not in self.scales:
            return super().project(name, weight)
        return self._integers(name, weight) * per_output(self.scales[name], weight)

    def projected(self, name: str, latent: Tensor) -> Tensor:
        """The nearest weight found; its digits bound those of `adjusted`. Refits the scales."""
        if name not in self.scales:
            spec, layout = self.targets[name].spec, self.layouts[name]
            self.scales[name] = choose_scale(latent, spec, layout, self.limits[name])
        self.anchors[name] = self._integers(name, latent)
        self.scales[name] = refit_scale(latent, self.anchors[name], self.scales[name])
        return self.anchors[name] * per_output(self.scales[name], latent)

    def _integers(self, name: str, weight: Tensor) -> Tensor:
        """The layer's projection in integer steps of its scales."""
        spec, layout = self.targets[name].spec, self.layouts[name]
        return project_weight(weight, self.scales[name], spec, layout, self.limits[name])

    def adjusted(self, name: str, latent: Tensor) -> Tensor:
        """Rounded anew under the digits of the last projection."""
        scale = per_output(self.scales[name], latent)
        spec = self.targets[name].spec
        return reproject_levels(latent / scale, self.anchors[name], spec) * scale

    def quantise(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The integers that were trained, on their own scales."""
        if name not in self.scales:
            return super().quantise(name, weight)
        scale = self.scales[name]
        return torch.round(weight / per_output(scale, weight)).to(torch.int32), scale.float()

    def state_dict(self) -> dict[str, Tensor]:
        """Latents, scales and the last projection's integers."""
        scales = {f"scale.{name}": scale for name, scale in self.scales.items()}
        anchors = {f"anchor.{name}": anchor for name, anchor in self.anchors.items()}
        return {**super().state_dict(), **scales, **anchors}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.scales = {name: state[f"scale.{name}"] for name in self.latents}
        self.anchors = {name: state[f"anchor.{name}"] for name in self.latents}


def _limits(targets: Mapping[str, LayerTarget]) -> dict[str, int]:
    limits = {}
    for name, target in targets.items():
        if target.adc_bits is not None:
            try:
                limits[name] = level_limits(target.spec, target.adc_bits)
            except SpecError as error:
                raise SpecError(f"{name}: {error}") from None
    return limits
