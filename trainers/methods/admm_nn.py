"""ADMM-NN: algorithm-hardware co-design by ADMM (Ren et al., ASPLOS 2019).

Prunes the weights of each layer wherever the smallest ones lie, then quantises what is left to
evenly spaced levels, both by ADMM, with retraining and staged snapping (`trainers.methods.staged`).
Layers in which the pruning would not pay are left dense; what pays is a question of hardware cost,
which `search.break_even` answers before training.

differs: the break-even ratio comes from our cost model and ADC certificates rather than from
synthesised sparse processing elements; pruning in stages, as in the group's later progressive
pruning, because our runs have tens of epochs where theirs have hundreds; further `staged`.
"""

from dataclasses import dataclass

from torch import Tensor

from trainers.config import check_choice
from trainers.constraints import LayerCount
from trainers.levels import LevelSet
from trainers.methods.staged import Staged, StagedConfig

__all__ = ["AdmmNn", "AdmmNnConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmmNnConfig(StagedConfig):
    """Settings of `admm-nn`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    prune_stages: int = 4
    prune_share: float = 0.4
    break_even: str = "energy"
    """The cost by which a layer's pruning must pay, else it is left dense: `energy`, `area` or
    `power`; `none`: prune every layer as it is set."""

    def __post_init__(self) -> None:
        # Slotted dataclasses are made anew, which leaves a bare super() with the old class.
        StagedConfig.__post_init__(self)
        allowed = ("energy", "area", "power", "none")
        check_choice("method.break_even", self.break_even, allowed)


class AdmmNn(Staged):
    """Unstructured pruning and quantisation by ADMM.

    Args:
        targets: `kept_weights` is the share of a layer's weights that stays, `weight_levels` the
            levels per polarity.
        config: the schedule.
    """

    name = "admm-nn"
    settings = ("kept_weights", "weight_levels", "kept_shapes", "kept_filters")

    def constraint(self, name: str) -> LevelSet:
        """The layer's count and levels."""
        return LevelSet(self.level_count(name), self._count(name, 1.0))

    def pruned(self, name: str, weight: Tensor, progress: float) -> Tensor:
        """The largest weights of the layer."""
        target = self.targets[name]
        if target.kept_weights is None:
            return weight
        count = LayerCount(self._count(name, progress))
        return count.project(weight, target.spec, self.layouts[name])

    def prunes(self, name: str) -> bool:
        """Whether the layer keeps fewer weights than it has."""
        return (self.targets[name].kept_weights or 1.0) < 1

    def _count(self, name: str, progress: float) -> int:
        """How many weights stay: the share falls by the same factor in every stage."""
        share: float = (self.targets[name].kept_weights or 1.0) ** progress
        return max(1, round(self.modules[name].weight.numel() * share))
