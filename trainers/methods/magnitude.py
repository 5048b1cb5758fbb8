"""Plain unstructured magnitude pruning: the baseline without any regard for crossbars.

Each layer keeps a share of its weights, wherever the largest ones lie; the mask is set once and the
survivors are retrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.constraints import Constraint, LayerCount, Unconstrained
from trainers.method import LayerTarget
from trainers.methods.masked import Masked

__all__ = ["Magnitude", "MagnitudeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeConfig:
    """`magnitude` has no settings; each layer's `kept_weights` is in the candidate."""


class Magnitude(Masked):
    """Keeps the largest weights of each layer and retrains them.

    Args:
        targets: `kept_weights` is the share of the layer's weights that stays.
        config: nothing yet.
    """

    name = "magnitude"
    settings = ("kept_weights", "kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: MagnitudeConfig) -> None:
        super().__init__(targets, free_share=0)

    def constraint(self, name: str) -> Constraint:
        """The layer's count."""
        share = self.targets[name].kept_weights
        if share is None:
            return Unconstrained()
        return LayerCount(round(self.modules[name].weight.numel() * share))
