"""What a pruning method is: hooks into the training loop, each a working no-op here.

    method = Method(targets); fit(network, images, method, ...)   # trains densely
    attach -> (after_backward -> after_step)* -> after_epoch -> ... -> finalize

A method overrides the hooks that it needs. After `finalize` the network holds plain weights that
lie in `constraint(layer)` under `layouts[layer]`; `trainers.finalise` checks that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import SpecError
from hwmodel.mapping import MatrixLayout
from trainers.constraints import Constraint, Unconstrained
from trainers.tracing import (
    CrossbarModule,
    crossbar_modules,
    dense_layout,
    fold_parametrisations,
)

__all__ = ["LayerTarget", "Method", "dense_targets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTarget:
    """What one layer is to become."""

    spec: CrossbarSpec
    rows: int | None = None
    """Rows per group to keep (None: all)."""
    outputs: int | None = None
    """Outputs per group to keep (None: all)."""
    nonzeros: int | None = None
    """Most non-zero weights per segment (None: no bound)."""

    def __post_init__(self) -> None:
        if self.nonzeros is not None and not 1 <= self.nonzeros <= self.spec.wordlines:
            raise SpecError(
                f"{self.nonzeros} non-zeros per segment; allowed: 1 to {self.spec.wordlines} "
                "(the crossbar's wordlines)"
            )


class Method:
    """Trains densely and finalises without pruning: the base of every method.

    Args:
        targets: what each layer is to become, by name; every crossbar layer of the network.
    """

    name = "dense"

    def __init__(self, targets: Mapping[str, LayerTarget]) -> None:
        self.targets = dict(targets)
        self.modules: dict[str, CrossbarModule] = {}
        self.layouts: dict[str, MatrixLayout] = {}

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Takes hold of a network before its first step.

        Raises:
            SpecError: targets that do not name exactly the network's crossbar layers.
        """
        fold_parametrisations(network)
        self.modules = crossbar_modules(network)
        if set(self.modules) != set(self.targets):
            odd = sorted(set(self.modules) ^ set(self.targets))[0]
            raise SpecError(f"layer {odd!r}; the network's layers: {', '.join(self.modules)}")
        self.layouts = {name: self.layout(name, module) for name, module in self.modules.items()}

    def layout(self, name: str, module: CrossbarModule) -> MatrixLayout:
        """What is left of a layer after structured pruning; called once, by `attach`."""
        return dense_layout(module)

    def constraint(self, name: str) -> Constraint:
        """The set that the layer's finalised weights lie in."""
        return Unconstrained()

    def segment_bound(self, name: str) -> int | None:
        """Most non-zeros per segment and polarity that the constraint guarantees, if any."""
        return None

    def project(self, name: str, weight: Tensor) -> Tensor:
        """The nearest weight in the layer's set."""
        return self.constraint(name).project(weight, self.targets[name].spec, self.layouts[name])

    def after_backward(self) -> None:
        """Between `backward` and the optimiser's step."""

    def after_step(self) -> None:
        """After the optimiser's step."""

    def after_epoch(self, epoch: int) -> None:
        """After epoch number `epoch`, counted from 0."""

    @torch.no_grad()
    def finalize(self) -> None:
        """Leaves plain weights that lie in their sets; the network is trained no further."""
        for name, module in self.modules.items():
            module.weight.copy_(self.project(name, module.weight))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs besides the network, as tensors."""
        state = {}
        for name, layout in self.layouts.items():
            for kind, kept in (("rows", layout.kept_rows), ("outputs", layout.kept_outputs)):
                if kept is not None:
                    state[f"layout.{name}.{kind}"] = kept
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned; called after `attach`."""
        for name, layout in self.layouts.items():
            self.layouts[name] = MatrixLayout(
                groups=layout.groups,
                outputs=layout.outputs,
                rows=layout.rows,
                kept_rows=state.get(f"layout.{name}.rows"),
                kept_outputs=state.get(f"layout.{name}.outputs"),
            )


def dense_targets(network: nn.Module, plan: CrossbarPlan) -> dict[str, LayerTarget]:
    """Targets that prune nothing: every layer on the crossbar that the plan gives it.

    Raises:
        SpecError: a plan that names a layer the network does not have.
    """
    names = list(crossbar_modules(network))
    plan.check_layers(names)
    return {name: LayerTarget(spec=plan[name]) for name in names}
