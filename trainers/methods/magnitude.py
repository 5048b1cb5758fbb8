"""Plain unstructured magnitude pruning: the baseline without any regard for crossbars.

Each layer keeps a share of its weights, wherever the largest ones lie; the mask is set once and the
survivors are retrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.constraints import Constraint, LayerCount, Unconstrained
from trainers.method import LayerTarget, Method

__all__ = ["Magnitude", "MagnitudeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeConfig:
    """`magnitude` has no settings; each layer's `kept_weights` is in the candidate."""


class Magnitude(Method):
    """Keeps the largest weights of each layer and retrains them.

    Args:
        targets: `kept_weights` is the share of the layer's weights that stays.
        config: nothing yet.
    """

    name = "magnitude"
    settings = ("kept_weights", "kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: MagnitudeConfig) -> None:
        super().__init__(targets)
        self.masks: dict[str, Tensor] = {}

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Prunes at once."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        for name, module in self.modules.items():
            module.weight.copy_(self.project(name, module.weight))
            self.masks[name] = module.weight != 0

    def constraint(self, name: str) -> Constraint:
        """The layer's count."""
        share = self.targets[name].kept_weights
        if share is None:
            return Unconstrained()
        return LayerCount(round(self.modules[name].weight.numel() * share))

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps pruned weights at zero."""
        super().after_step()
        for name, mask in self.masks.items():
            self.modules[name].weight.mul_(mask)

    def state_dict(self) -> dict[str, Tensor]:
        """The masks."""
        masks = {f"mask.{name}": mask for name, mask in self.masks.items()}
        return {**super().state_dict(), **masks}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.masks = {name: state[f"mask.{name}"] for name in self.modules}
