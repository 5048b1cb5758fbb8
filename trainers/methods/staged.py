"""Pruning and quantisation in stages: what `memristor` and `admm-nn` share.

    per pruning stage:  ADMM towards the pruning set -> hard pruning -> retraining under the mask
    then:               ADMM towards conductance levels on what is left
                        -> snapping stages (the nearest share of each level is set and frozen, the
                           rest retrained) -> the last weights snap

A method says what its pruning set is (`pruned`) and what becomes of a layer when the last pruning
stage is over (`settle`).

Source: the order of ADMM-NN's released code (ASPLOS 2019); masked mapping of the memristor ADMM
framework (ISLPED 2019) is the same. differs: rho grows within each ADMM phase rather than staying
constant, since the schedule has a hundredth of the iterations; pruning may go in stages of
geometrically falling shares; the learning rate is the training loop's and does not start anew in
each round.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.admm import Admm
from trainers.config import check_number
from trainers.levels import level_indices, level_interval, snap_nearest
from trainers.method import LayerTarget, Method
from trainers.progress import track

__all__ = ["Staged", "StagedConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedConfig:
    """The schedule of `memristor` and `admm-nn`; what the shares leave goes to snapping.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    prune_stages: int = 1
    """ADMM, hard pruning and retraining, so often; each keeps the same share of the one before."""
    prune_share: float = 0.3
    """Share of the epochs in ADMM towards the pruning set, over all pruning stages."""
    retrain_share: float = 0.3
    """Share of the epochs that retrain under the mask, over all pruning stages."""
    levels_share: float = 0.2
    """Share of the epochs in ADMM towards the levels."""
    rho: float = 0.01
    """Penalty weight of the first round of each ADMM phase towards the pruning set."""
    levels_rho: float = 0.1
    """The same, towards the levels."""
    rho_growth: float = 10.0
    """Factor on the penalty weight from the first round of a phase to its last."""
    rounds_per_epoch: int = 4
    """Z- and U-steps in each ADMM epoch."""
    snap_stages: int = 6
    """Stages that set weights to their level before the last ones are set at the end."""
    snap_share: float = 0.3
    """Of the free weights nearest to each level, those that a stage sets and freezes."""

    def __post_init__(self) -> None:
        for name in ("prune_stages", "rounds_per_epoch"):
            check_number(f"method.{name}", getattr(self, name), low=1, integer=True)
        check_number("method.snap_stages", self.snap_stages, low=0, integer=True)
        for name in ("prune_share", "retrain_share", "levels_share", "snap_share"):
            check_number(f"method.{name}", getattr(self, name), low=0, high=1)
        for name in ("rho", "levels_rho"):
            check_number(f"method.{name}", getattr(self, name), low=0)
        check_number("method.rho_growth", self.rho_growth, low=1)
        shares = self.prune_share + self.retrain_share + self.levels_share
        check_number("method: prune_share + retrain_share + levels_share", shares, low=0, high=1)


class _Phase(NamedTuple):
    """A stretch of the schedule."""

    kind: str
    """`prune`, `retrain`, `levels` or `snap`."""
    progress: float
    """How far pruning has come when the phase is over, 0 to 1."""
    until: int
    """The step at which the phase is over."""


class Staged(Method, ABC):
    """Prunes by ADMM, retrains, and brings what is left onto levels in stages.

    Args:
        targets: what each layer is to become, by name.
        config: the schedule.
    """

    def __init__(self, targets: Mapping[str, LayerTarget], config: StagedConfig) -> None:
        super().__init__(targets)
        self.config = config
        self.network: nn.Module | None = None
        self.admm: Admm | None = None
        self.masks: dict[str, Tensor] = {}
        self.intervals: dict[str, float] = {}
        """Distance of two levels by layer, once chosen."""
        self.snapped: dict[str, Tensor] = {}
        """Level index of each weight that is frozen, 0 elsewhere; once the levels are chosen."""
        self._phases: list[_Phase] = []
        self._phase = 0
        self._steps = 0
        self._round_steps = 1
        self._rho_step = 1.0

    @abstractmethod
    def pruned(self, name: str, weight: Tensor, progress: float) -> Tensor:
        """The nearest weight in the layer's pruning set, when pruning has come so far (0 to 1)."""

    @abstractmethod
    def prunes(self, name: str) -> bool:
        """Whether the layer's pruning set leaves anything out."""

    def settle(self) -> None:
        """After the last hard pruning; here, nothing more becomes of the layers."""

    def level_count(self, name: str) -> int:
        """Levels per polarity of a layer."""
        target = self.targets[name]
        return target.weight_levels or target.spec.weight_limit

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Lays out the schedule and begins its first phase."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.network = network
        self._steps = self._phase = 0
        self._round_steps = max(1, steps_per_epoch // self.config.rounds_per_epoch)
        self._phases = _schedule(self.config, epochs * steps_per_epoch)
        self.intervals, self.snapped = {}, {}
        self.masks = {
            name: self.layouts[name].mask(module.weight.shape, module.weight.device)
            for name, module in self.modules.items()
        }
        self._begin()
        self._advance()

    def after_backward(self) -> None:
        """Adds the ADMM penalty to the gradients while ADMM runs."""
        if self.admm is not None:
            self.admm.add_penalty_gradient()

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps pruned weights at zero and frozen ones on their level, and moves on."""
        super().after_step()
        self._steps += 1
        self._hold()
        if self.admm is not None and self._steps % self._round_steps == 0:
            self.admm.update()
            self.admm.rho *= self._rho_step
        self._advance()

    @torch.no_grad()
    def finalize(self) -> None:
        """Ends what phases are left, and sets every weight to its level."""
        while self._phase < len(self._phases):
            self._end()
        layers = track(self.modules.items(), "projection, layers", len(self.modules))
        for name, module in layers:
            self._snap(name, self.masks[name] & (self.snapped[name] == 0))
            module.weight.copy_(self.snapped[name] * self.intervals[name])

    def project(self, name: str, weight: Tensor) -> Tensor:
        """On the mask and levels that training arrived at; before, as the base does."""
        if name not in self.intervals:
            return super().project(name, weight)
        return self._on_levels(name, weight)

    def quantise(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The indices of the levels; the layer's interval is the scale of every output."""
        interval = self.intervals[name]
        scale = torch.full((weight.shape[0],), interval, device=weight.device)
        return torch.round(weight.detach() / interval).to(torch.int32), scale

    def state_dict(self) -> dict[str, Tensor]:
        """Layouts, step, masks, levels and frozen weights, and ADMM's state while it runs."""
        state = super().state_dict()
        state["steps"] = torch.tensor(self._steps)
        state["phase"] = torch.tensor(self._phase)
        for name, mask in self.masks.items():
            state[f"mask.{name}"] = mask
        for name, interval in self.intervals.items():
            state[f"interval.{name}"] = torch.tensor(interval, dtype=torch.float64)
            state[f"snapped.{name}"] = self.snapped[name]
        if self.admm is not None:
            state["admm.rho"] = torch.tensor(self.admm.rho, dtype=torch.float64)
            state.update({f"admm.{key}": value for key, value in self.admm.state_dict().items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self._steps, self._phase = int(state["steps"]), int(state["phase"])
        self.masks = {name: state[f"mask.{name}"] for name in self.modules}
        chosen = [name for name in self.modules if f"interval.{name}" in state]
        self.intervals = {name: float(state[f"interval.{name}"]) for name in chosen}
        self.snapped = {name: state[f"snapped.{name}"] for name in chosen}
        self.admm = self._admm() if "admm.rho" in state else None
        if self.admm is not None:
            self.admm.rho = float(state["admm.rho"])
            inner = {k.removeprefix("admm."): v for k, v in state.items() if k.startswith("admm.")}
            self.admm.load_state_dict(inner)

    @torch.no_grad()
    def _advance(self) -> None:
        """Ends every phase whose steps are over."""
        while self._phase < len(self._phases) and self._steps >= self._phases[self._phase].until:
            self._end()

    def _end(self) -> None:
        """Ends the running phase and begins the next one."""
        phase = self._phases[self._phase]
        self.admm = None
        if phase.kind == "prune":
            self._prune(phase.progress)
        self._phase += 1
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Starts the ADMM of a phase, chooses the levels, or freezes a stage's weights."""
        if self._phase == len(self._phases):
            return
        phase = self._phases[self._phase]
        if phase.kind == "levels":
            self._choose_levels()
        if phase.kind in ("prune", "levels"):
            self.admm = self._admm()
            begun = self._phases[self._phase - 1].until if self._phase else 0
            rounds = (phase.until - begun) // self._round_steps
            self._rho_step = self.config.rho_growth ** (1 / max(1, rounds - 1))
        if phase.kind == "snap":
            for name, module in self.modules.items():
                free = self.masks[name] & (self.snapped[name] == 0)
                interval, levels = self.intervals[name], self.level_count(name)
                share = self.config.snap_share
                self._snap(name, snap_nearest(module.weight, free, interval, levels, share))
            self._hold()

    def _admm(self) -> Admm:
        """Fresh ADMM towards what the running phase is about."""
        phase = self._phases[self._phase]
        weights: dict[str, Tensor] = {name: m.weight for name, m in self.modules.items()}
        if phase.kind == "levels":
            return Admm(weights, self._on_levels, self.config.levels_rho)

        def pruned(name: str, weight: Tensor) -> Tensor:
            return self.pruned(name, weight * self.masks[name], phase.progress)

        weights = {name: weight for name, weight in weights.items() if self.prunes(name)}
        return Admm(weights, pruned, self.config.rho)

    def _on_levels(self, name: str, weight: Tensor) -> Tensor:
        indices = level_indices(weight, self.intervals[name], self.level_count(name))
        return indices * self.intervals[name] * self.masks[name]

    def _prune(self, progress: float) -> None:
        """Hard pruning; from here on the pattern of zeros is frozen."""
        for name, module in self.modules.items():
            kept = self.pruned(name, module.weight * self.masks[name], progress) != 0
            self.masks[name] = self.masks[name] & kept
        if progress == 1:
            self.settle()
        self._hold()

    def _choose_levels(self) -> None:
        """The interval of every layer; from here on it stays."""
        for name, module in self.modules.items():
            weight = module.weight * self.masks[name]
            self.intervals[name] = level_interval(weight, self.level_count(name))
            self.snapped[name] = torch.zeros_like(weight)

    def _snap(self, name: str, chosen: Tensor) -> None:
        """Freezes the chosen weights on their nearest level."""
        weight = self.modules[name].weight.detach()
        indices = level_indices(weight, self.intervals[name], self.level_count(name))
        self.snapped[name] = torch.where(chosen, indices, self.snapped[name])

    def _hold(self) -> None:
        """Puts pruned weights back to zero and frozen ones back on their level."""
        for name, module in self.modules.items():
            module.weight.mul_(self.masks[name])
            if name in self.snapped:
                level = self.snapped[name]
                held = torch.where(level != 0, level * self.intervals[name], module.weight)
                module.weight.copy_(held)


def _schedule(config: StagedConfig, steps: int) -> list[_Phase]:
    """The phases of a run of so many steps, in order."""
    phases = []
    done = 0.0
    for stage in range(1, config.prune_stages + 1):
        progress = stage / config.prune_stages
        for kind, share in (("prune", config.prune_share), ("retrain", config.retrain_share)):
            done += share / config.prune_stages
            phases.append(_Phase(kind, progress, round(done * steps)))
    done += config.levels_share
    phases.append(_Phase("levels", 1.0, round(done * steps)))
    for stage in range(1, config.snap_stages + 1):
        # A stage freezes as it begins, so what the last one leaves free is still retrained.
        end = done + (1 - done) * stage / config.snap_stages
        phases.append(_Phase("snap", 1.0, round(end * steps)))
    return phases
