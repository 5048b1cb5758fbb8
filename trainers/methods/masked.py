"""Training freely, pruning hard once, retraining under the mask: a base of methods that do so.

while masks is empty   all weights train
prune                  every layer is projected; what is zero then, stays zero
after_step             masks hold
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.method import LayerTarget, Method

__all__ = ["Masked"]


class Masked(Method):
    """Projects every layer after a share of the steps and freezes the pattern of zeros.

    Args:
        targets: by layer.
        free_share: share of the steps before the pruning; 0: prunes at once.
    """

    def __init__(self, targets: Mapping[str, LayerTarget], free_share: float) -> None:
        super().__init__(targets)
        self.free_share = free_share
        self.masks: dict[str, Tensor] = {}
        self.steps = 0
        self.free_steps = 0

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Prunes at once where nothing is trained freely."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.masks, self.steps = {}, 0
        self.free_steps = round(self.free_share * epochs * steps_per_epoch)
        if self.free_steps == 0:
            self.prune()

    @torch.no_grad()
    def prune(self) -> None:
        """Hard projection; from here on the pattern of zeros is frozen."""
        for name, module in self.modules.items():
            module.weight.copy_(self.project(name, module.weight))
            self.masks[name] = module.weight != 0

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps pruned weights at zero, and prunes when the free steps are over."""
        super().after_step()
        self.steps += 1
        for name, mask in self.masks.items():
            self.modules[name].weight.mul_(mask)
        if not self.masks and self.steps >= self.free_steps:
            self.prune()

    def finalize(self) -> None:
        """Prunes if that is still to come."""
        if not self.masks:
            self.prune()
        super().finalize()

    def state_dict(self) -> dict[str, Tensor]:
        """Layouts, step count, and the masks once they are set."""
        masks = {f"mask.{name}": mask for name, mask in self.masks.items()}
        return {**super().state_dict(), "steps": torch.tensor(self.steps), **masks}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.steps = int(state["steps"])
        self.masks = {n: state[f"mask.{n}"] for n in self.modules if f"mask.{n}" in state}
