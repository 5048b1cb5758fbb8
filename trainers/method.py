"""What a pruning method is: hooks into the training loop, each a working no-op here.

    method = Method(targets); fit(network, images, method, ...)   # trains densely
    attach -> (after_backward -> after_step)* -> after_epoch -> ... -> finalize

A method overrides the hooks that it needs. After `finalize` the network holds plain weights that
lie in `constraint(layer)` under `layouts[layer]`; `trainers.finalise` checks that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hwmodel.circulant import LARGEST_BLOCK, plan_circulant
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import MappingError, SpecError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer
from hwmodel.mapping import MatrixLayout
from hwmodel.segment_mask import SegmentMask
from trainers.constraints import Constraint, Unconstrained
from trainers.packing import strongest_layout
from trainers.progress import track
from trainers.quantise import quantise_weight
from trainers.tracing import (
    CrossbarModule,
    crossbar_modules,
    dense_layout,
    fold_parametrisations,
)

__all__ = ["LayerTarget", "Method", "dense_targets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTarget:
    """What one layer is to become; a method reads what it knows of and leaves the rest.

    Raises:
        SpecError: a bound that the crossbar cannot have.
    """

    spec: CrossbarSpec
    rows: int | None = None
    """Rows per group to keep (None: all)."""
    outputs: int | None = None
    """Outputs per group to keep (None: all)."""
    nonzeros: int | None = None
    """Most non-zero weights per segment (None: no bound)."""
    adc_bits: int | None = None
    """Resolution that every segment's level sums are held to (None: no bound)."""
    kept_weights: float | None = None
    """Share of the layer's weights that stay, wherever they lie (None: all)."""
    weight_levels: int | None = None
    """Magnitudes per polarity that the weights are quantised to (None: the spec's)."""
    block_size: int | None = None
    """Side of the layer's circulant blocks (None: not circulant)."""

    def __post_init__(self) -> None:
        for name, high, why in (
            ("nonzeros", self.spec.wordlines, "the crossbar's wordlines"),
            ("adc_bits", 32, "a resolution"),
            ("weight_levels", self.spec.weight_limit, "the largest integer weight"),
            ("block_size", LARGEST_BLOCK, "blocks are fitted to the layer"),
        ):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= high:
                raise SpecError(f"{name} is {value}; allowed: 1 to {high} ({why})")
        if self.kept_weights is not None and not 0 < self.kept_weights <= 1:
            raise SpecError(f"kept_weights is {self.kept_weights}; allowed: above 0, up to 1")

    def planned(self, shape: LayerShape) -> MappedLayer:
        """The layer's worst case, whatever its weights will be.

        Raises:
            MappingError: more kept than there is, or rows or outputs removed from circulant blocks.
        """
        if self.block_size is not None:
            for what, kept in (("rows", self.rows), ("outputs", self.outputs)):
                dense = getattr(shape, what)
                if kept not in (None, dense):
                    raise MappingError(
                        f"{shape.name}: {kept} {what} kept; allowed with circulant blocks: {dense}"
                    )
            return plan_circulant(
                shape,
                self.spec,
                self.block_size,
                nonzeros=self.nonzeros,
                adc_bits=self.adc_bits,
            )
        return plan_layer(
            shape,
            self.spec,
            rows=self.rows,
            outputs=self.outputs,
            nonzeros=self.nonzeros,
            adc_bits=self.adc_bits,
        )


class Method:
    """Trains densely: the base of every method.

    Rows and outputs that a target does not keep are removed by `attach`, so the base with such
    targets is plain structured pruning.

    Args:
        targets: what each layer is to become, by name; every crossbar layer of the network.
    """

    name = "dense"
    settings: tuple[str, ...] = ()
    """What the method reads of a layer's setting (`spaces.candidate.LayerSetting`): the dimensions
    that a search has under it, besides the crossbars."""

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
        self.remove_unpacked()

    def layout(self, name: str, module: CrossbarModule) -> MatrixLayout:
        """What is left of a layer after structured pruning; called once, by `attach`.

        The strongest rows and outputs that the target keeps.
        """
        target, groups = self.targets[name], dense_layout(module).groups
        return strongest_layout(module.weight, groups, target.rows, target.outputs)

    def constraint(self, name: str) -> Constraint:
        """The set that the layer's finalised weights lie in."""
        return Unconstrained()

    def project(self, name: str, weight: Tensor) -> Tensor:
        """The nearest weight in the layer's set."""
        return self.constraint(name).project(weight, self.targets[name].spec, self.layouts[name])

    def quantise(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The integers that are stored for a layer's finalised weight, and their scale.

        Args:
            name: the layer.
            weight: as `finalize` left it, `[outputs, inputs, ...]`.

        Returns:
            int32 of the weight's shape within the spec's limit, and float32 `[outputs]`.
        """
        return quantise_weight(weight, self.targets[name].spec.weight_limit)

    def segment_mask(self, name: str) -> SegmentMask | None:
        """What a task multiplies the segments of a finalised layer by; here, nothing."""
        return None

    def after_backward(self) -> None:
        """Between `backward` and the optimiser's step."""

    def after_step(self) -> None:
        """After the optimiser's step; here, keeps at zero what structured pruning removed."""
        self.remove_unpacked()

    def after_epoch(self, epoch: int) -> None:
        """After epoch number `epoch`, counted from 0."""

    @torch.no_grad()
    def remove_unpacked(self) -> None:
        """Zeroes the rows and outputs that structured pruning removed."""
        for name, module in self.modules.items():
            layout = self.layouts[name]
            if layout.kept_rows is not None or layout.kept_outputs is not None:
                module.weight.copy_(layout.unpack(layout.pack(module.weight), module.weight.shape))

    @torch.no_grad()
    def finalize(self) -> None:
        """Leaves plain weights that lie in their sets; the network is trained no further."""
        layers = track(self.modules.items(), "projection, layers", len(self.modules))
        for name, module in layers:
            module.weight.copy_(self.project(name, module.weight))

    def facts(self) -> dict[str, Any]:
        """What a user should know of the finalised network besides its layers, as JSON."""
        return {}

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
