"""The memristor ADMM framework (Yuan et al., ISLPED 2019; path removal: Ma et al., ASP-DAC 2020).

Removes whole rows and outputs of each layer's matrix by ADMM, so many that whole crossbar blocks
(wordlines x outputs of a crossbar) go, and with them the paths that this made dead; then brings
what is left onto conductance levels symmetric around zero, in stages
(`trainers.methods.staged`).

differs: a row or output is removed from every block that it crosses, and what is left is packed,
because a block is saved only so; a path is removed where that is exact (`trainers.dead_paths`)
rather than by a score; no distillation but the training loop's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hwmodel.mapping import MatrixLayout
from trainers.dead_paths import DeadPaths
from trainers.levels import LevelSet
from trainers.method import LayerTarget
from trainers.methods.staged import Staged, StagedConfig
from trainers.packing import strongest_layout
from trainers.tracing import CrossbarModule, dense_layout

__all__ = ["Memristor", "MemristorConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemristorConfig(StagedConfig):
    """Settings of `memristor`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    remove_dead_paths: bool = True
    """Remove rows that only constant channels feed, rows without weights, and unread outputs."""


class Memristor(Staged):
    """Structured pruning by ADMM, dead paths, and conductance levels.

    Args:
        targets: rows and outputs to keep, and `weight_levels` per polarity.
        config: the schedule.
    """

    name = "memristor"
    settings = ("kept_shapes", "kept_filters", "weight_levels")

    def __init__(self, targets: Mapping[str, LayerTarget], config: MemristorConfig) -> None:
        super().__init__(targets, config)
        self.remove_dead_paths = config.remove_dead_paths
        self.kept_paths: dict[str, str] = {}
        """Why dead outputs of a layer are still read, by layer; known after hard pruning."""

    def layout(self, name: str, module: CrossbarModule) -> MatrixLayout:
        """All of the layer: rows and outputs are only removed when ADMM is over."""
        return dense_layout(module)

    def constraint(self, name: str) -> LevelSet:
        """The levels; every weight of the layout is on one of them."""
        return LevelSet(self.level_count(name))

    def pruned(self, name: str, weight: Tensor, progress: float) -> Tensor:
        """The strongest outputs, and the strongest rows over those."""
        layout = self._strongest(name, weight, progress)
        return weight * layout.mask(weight.shape, weight.device)

    def prunes(self, name: str) -> bool:
        """Whether the layer keeps fewer rows or outputs than it has."""
        target, dense = self.targets[name], dense_layout(self.modules[name])
        rows, outputs = target.rows or dense.rows, target.outputs or dense.outputs
        return rows < dense.rows or outputs < dense.outputs

    def settle(self) -> None:
        """Packs what is left, without the paths that pruning made dead."""
        for name, module in self.modules.items():
            weight = module.weight.detach() * self.masks[name]
            self.layouts[name] = self._strongest(name, weight, 1.0)
        if self.remove_dead_paths:
            assert self.network is not None  # attached
            found = DeadPaths(self.network, self.modules, self.layouts)
            self.layouts, self.kept_paths = found.removed()
        for name, module in self.modules.items():
            mask = self.layouts[name].mask(module.weight.shape, module.weight.device)
            self.masks[name] = mask

    def facts(self) -> dict[str, Any]:
        """`dead_paths`: what was removed of each layer, and why dead outputs of others stay."""
        if not self.remove_dead_paths:
            return {}
        removed = {}
        for name, layout in self.layouts.items():
            target = self.targets[name]
            rows = (target.rows or layout.rows) - layout.packed_rows
            outputs = (target.outputs or layout.outputs) - layout.packed_outputs
            if rows or outputs:
                removed[name] = {"rows": rows, "outputs": outputs}
        return {"dead_paths": {"removed": removed, "kept": self.kept_paths}}

    def state_dict(self) -> dict[str, Tensor]:
        """As every staged method, and the reasons why dead outputs stay, as UTF-8."""
        reasons = {
            f"kept_path.{name}": torch.tensor(list(reason.encode()), dtype=torch.uint8)
            for name, reason in self.kept_paths.items()
        }
        return {**super().state_dict(), **reasons}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.kept_paths = {
            name: bytes(state[f"kept_path.{name}"].tolist()).decode()
            for name in self.modules
            if f"kept_path.{name}" in state
        }

    def _strongest(self, name: str, weight: Tensor, progress: float) -> MatrixLayout:
        """What stays when pruning has come so far: counts fall by the same factor per stage."""
        target, dense = self.targets[name], dense_layout(self.modules[name])
        rows = _between(dense.rows, target.rows, progress)
        outputs = _between(dense.outputs, target.outputs, progress)
        return strongest_layout(weight, dense.groups, rows, outputs)


def _between(dense: int, kept: int | None, progress: float) -> int:
    """A count on its geometric way from `dense` to `kept`, which it reaches at 1."""
    return dense if kept is None else round(dense * (kept / dense) ** progress)
