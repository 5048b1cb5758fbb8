"""Your own method: here, segments lose their smallest weights bit by bit while they train.

`[method] name = "my_method:Gradual"` and `steps = 4` in the configuration, or
`[space] methods = ["tinyadc", "my_method:Gradual"]` to let a search choose. What the search varies
is what `settings` names; what the export must keep is what `constraint` returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from trainers.constraints import BitlineCount, Constraint, Unconstrained
from trainers.method import LayerTarget, Method


@dataclass(frozen=True, slots=True, kw_only=True)
class GradualConfig:
    steps: int = 4
    """Prunings, spread evenly over the training."""


class Gradual(Method):
    name = "gradual"
    settings = ("nonzeros", "kept_shapes", "kept_filters")
    config = GradualConfig

    def __init__(self, targets: Mapping[str, LayerTarget], config: GradualConfig) -> None:
        super().__init__(targets)
        self.prunings, self.done, self.whole = config.steps, 0, 1

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.done, self.whole = 0, max(1, epochs * steps_per_epoch)

    def constraint(self, name: str) -> Constraint:
        count = self.targets[name].nonzeros
        return Unconstrained() if count is None else BitlineCount(count)

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        self.done += 1
        stage = min(self.prunings, self.done * self.prunings // self.whole)
        for name, module in self.modules.items():
            target = self.targets[name]
            if target.nonzeros is not None and stage:
                left = (self.prunings - stage) / self.prunings
                wide = round(target.nonzeros + left * (target.spec.wordlines - target.nonzeros))
                bound = BitlineCount(wide)
                module.weight.copy_(bound.project(module.weight, target.spec, self.layouts[name]))

    @torch.no_grad()
    def finalize(self) -> None:
        for name, module in self.modules.items():
            module.weight.copy_(self.project(name, module.weight))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {**super().state_dict(), "done": torch.tensor(self.done)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        super().load_state_dict(state)
        self.done = int(state["done"])
