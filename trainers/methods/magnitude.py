"""Plain unstructured magnitude pruning: the baseline without any regard for crossbars.

Each layer keeps a share of its weights, wherever the largest ones lie; the mask is set once and the
survivors are retrained. Without other word the share is what `nonzeros` of `wordlines` means.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hwmodel.errors import SpecError
from trainers.config import check_number
from trainers.constraints import Constraint, LayerCount, Unconstrained
from trainers.method import LayerTarget, Method

__all__ = ["Magnitude", "MagnitudeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeConfig:
    """Settings of `magnitude`.

    Raises:
        ConfigError: a share outside (0, 1].
    """

    kept: Mapping[str, float] = field(default_factory=dict)
    """Share of weights that stay, by layer; others keep `nonzeros` of `wordlines`."""

    def __post_init__(self) -> None:
        for name, share in self.kept.items():
            check_number(f"method.kept.{name}", share, low=1e-9, high=1)


class Magnitude(Method):
    """Keeps the largest weights of each layer and retrains them.

    Args:
        targets: `nonzeros` of `spec.wordlines` is the share of the layer's weights that stays.
        config: exact shares by layer.
    """

    name = "magnitude"

    def __init__(self, targets: Mapping[str, LayerTarget], config: MagnitudeConfig) -> None:
        super().__init__(targets)
        self.config = config
        self.masks: dict[str, Tensor] = {}

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Prunes at once."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        for name in self.config.kept:
            if name not in self.modules:
                layers = ", ".join(self.modules)
                raise SpecError(f"method.kept names {name!r}; the network's layers: {layers}")
        for name, module in self.modules.items():
            module.weight.copy_(self.project(name, module.weight))
            self.masks[name] = module.weight != 0

    def constraint(self, name: str) -> Constraint:
        """The layer's count."""
        target = self.targets[name]
        share = self.config.kept.get(name)
        if share is None:
            if target.nonzeros is None:
                return Unconstrained()
            share = target.nonzeros / target.spec.wordlines
        return LayerCount(round(self.modules[name].weight.numel() * share))

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps pruned weights at zero."""
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
