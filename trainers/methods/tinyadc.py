"""TinyADC: Peripheral Circuit-aware Weight Pruning Framework (Yuan et al., DATE 2021).

Bounds the non-zero weights of every bitline segment, so that a smaller ADC reads it without any
error. Structured pruning to whole crossbars comes first and the rest is re-packed; then ADMM
towards the count bound, a hard projection, and retraining of the survivors under their mask.

differs: the bound holds per polarity of a differential pair unless `both_signs`; budgets are exact
counts rather than powers of two; structured pruning ranks by norm instead of by ADMM.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwmodel.mapping import MatrixLayout
from trainers.admm import Admm
from trainers.config import check_choice, check_number
from trainers.constraints import BitlineCount, Constraint, Unconstrained
from trainers.method import LayerTarget
from trainers.methods.masked import Masked
from trainers.methods.straight_through import StraightThrough

__all__ = ["TinyAdc", "TinyAdcConfig", "TinyAdcStraightThrough", "tinyadc_variant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyAdcConfig:
    """Settings of `tinyadc`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    training: str = "admm"
    """`admm` (the paper's), or `straight-through`: latent weights trained through a mask that is
    refreshed every `refresh_steps`."""
    refresh_steps: int = 10
    """Steps between two masks (straight-through)."""
    admm_share: float = 0.25
    """Share of the epochs spent in ADMM; the rest retrains under the mask."""
    rho: float = 0.1
    """Penalty weight of the first ADMM round."""
    rho_growth: float = 4.0
    """Factor on rho from the first round to the last; its steps grow no larger with more rounds."""
    rounds_per_epoch: int = 4
    """Z- and U-steps in each ADMM epoch."""
    both_signs: bool = False
    """Count positive and negative weights of a segment together, as the paper does."""

    def __post_init__(self) -> None:
        check_choice("method.training", self.training, ("admm", "straight-through"))
        check_number("method.refresh_steps", self.refresh_steps, low=1, integer=True)
        check_number("method.admm_share", self.admm_share, low=0, high=1)
        check_number("method.rho", self.rho, low=0)
        check_number("method.rho_growth", self.rho_growth, low=1)
        check_number("method.rounds_per_epoch", self.rounds_per_epoch, low=1, integer=True)


class TinyAdc(Masked):
    """Count-bounded bitline segments by ADMM, then masked retraining.

    Args:
        targets: kept rows and outputs, and `nonzeros` per segment, by layer.
        config: the schedule.
    """

    name = "tinyadc"
    settings = ("nonzeros", "kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: TinyAdcConfig) -> None:
        super().__init__(targets, config.admm_share)
        self.config = config
        self.admm: Admm | None = None
        self._round_steps = 1
        self._rho_step = 1.0

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Removes rows and outputs, and starts ADMM on the layers that have a bound."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        if self.masks:
            return
        self._round_steps = max(1, steps_per_epoch // self.config.rounds_per_epoch)
        rounds = max(1, self.free_steps // self._round_steps)
        self._rho_step = self.config.rho_growth ** (1 / max(1, rounds - 1))
        weights = {
            name: module.weight
            for name, module in self.modules.items()
            if _binds(self.targets[name], self.layouts[name])
        }
        self.admm = Admm(weights, self.project, self.config.rho)

    def constraint(self, name: str) -> Constraint:
        """The count bound of the layer's segments."""
        return _constraint(self.targets[name], self.config)

    def after_backward(self) -> None:
        """Adds the ADMM penalty to the gradients while ADMM runs."""
        if self.admm is not None:
            self.admm.add_penalty_gradient()

    def prune(self) -> None:
        """Ends ADMM with a hard projection."""
        self.admm = None
        super().prune()

    def after_step(self) -> None:
        """Keeps removed weights at zero, and moves ADMM on at the end of each round."""
        super().after_step()
        if self.admm is not None and self.steps % self._round_steps == 0:
            self.admm.update()
            self.admm.rho *= self._rho_step

    def state_dict(self) -> dict[str, Tensor]:
        """As every masked method, and Z, U and rho while ADMM runs."""
        state = super().state_dict()
        if self.admm is not None:
            state["admm.rho"] = torch.tensor(self.admm.rho, dtype=torch.float64)
            state.update({f"admm.{key}": value for key, value in self.admm.state_dict().items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        if "admm.rho" not in state:
            self.admm = None
        elif self.admm is not None:
            self.admm.rho = float(state["admm.rho"])
            inner = {k.removeprefix("admm."): v for k, v in state.items() if k.startswith("admm.")}
            self.admm.load_state_dict(inner)


class TinyAdcStraightThrough(StraightThrough):
    """The same bound, with latent weights that can come back: ADMM's fair opponent.

    Args:
        targets: kept rows and outputs, and `nonzeros` per segment, by layer.
        config: the schedule.
    """

    name = "tinyadc/straight-through"
    settings = TinyAdc.settings
    gradient_share = 1.0

    def __init__(self, targets: Mapping[str, LayerTarget], config: TinyAdcConfig) -> None:
        super().__init__(targets, config.refresh_steps)
        self.config = config
        self.signs: dict[str, Tensor] = {}

    def bounded(self, name: str) -> bool:
        """Whether the bound is below what the segments could hold anyway."""
        return _binds(self.targets[name], self.layouts[name])

    def constraint(self, name: str) -> Constraint:
        """The count bound of the layer's segments."""
        return _constraint(self.targets[name], self.config)

    def projected(self, name: str, latent: Tensor) -> Tensor:
        """The largest latents of each segment; their signs are the next mask."""
        weight = self.project(name, latent)
        self.signs[name] = weight.sign()
        return weight

    def adjusted(self, name: str, latent: Tensor) -> Tensor:
        """The latents under the last mask; one that turns its sign would change its bitline."""
        return latent * (latent * self.signs[name] > 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Latents and masks."""
        signs = {f"sign.{name}": sign for name, sign in self.signs.items()}
        return {**super().state_dict(), **signs}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.signs = {name: state[f"sign.{name}"] for name in self.latents}


def tinyadc_variant(config: TinyAdcConfig) -> type[TinyAdc | TinyAdcStraightThrough]:
    """The class that the settings ask for."""
    return TinyAdc if config.training == "admm" else TinyAdcStraightThrough


def _constraint(target: LayerTarget, config: TinyAdcConfig) -> Constraint:
    if target.nonzeros is None:
        return Unconstrained()
    return BitlineCount(target.nonzeros, config.both_signs)


def _binds(target: LayerTarget, layout: MatrixLayout) -> bool:
    """Whether a target's bound is below what the layer's segments could hold anyway."""
    longest = min(layout.packed_rows, target.spec.wordlines)
    return target.nonzeros is not None and target.nonzeros < longest
