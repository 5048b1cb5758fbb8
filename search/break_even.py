"""The break-even ratio of unstructured pruning: from which share of weights on it pays.

Zeros that lie anywhere free no crossbar. They pay where the ADC certificates need fewer bits, or
segments stay empty and are not read; below that ratio a layer had better stay dense.

Source: ADMM-NN (ASPLOS 2019), whose synthesised sparse processing elements break even at a pruning
ratio of 2.22. differs: cost and ratio are of our crossbars, per layer, from the dense weights
pruned by magnitude; training moves weights, so it is an estimate.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hwmodel.accelerator import CostModel
from hwmodel.certificate import certify
from hwmodel.geometry import LayerShape, MappedLayer
from hwmodel.mapping import MatrixLayout
from search.objectives import cost_values
from trainers.constraints import LayerCount
from trainers.levels import level_indices, level_interval
from trainers.method import LayerTarget
from trainers.packing import strongest_layout
from trainers.tracing import crossbar_modules, dense_layout

__all__ = ["break_even_share", "paying_targets"]

_SHARES_PER_HALVING = 4


def paying_targets(
    network: nn.Module,
    targets: Mapping[str, LayerTarget],
    shapes: Mapping[str, LayerShape],
    cost_model: CostModel,
    objective: str,
) -> dict[str, LayerTarget]:
    """The targets, without `kept_weights` where so little pruning does not pay.

    Args:
        network: with dense trained weights.
        targets: what each layer is to become.
        shapes: the network's layers.
        cost_model: what prices a layer.
        objective: the cost that has to fall: `energy`, `area` or `power`.
    """
    modules, paying = crossbar_modules(network), dict(targets)
    for name, target in targets.items():
        if target.kept_weights is None:
            continue
        module = modules[name]
        groups = dense_layout(module).groups
        layout = strongest_layout(module.weight, groups, target.rows, target.outputs)
        share = break_even_share(
            module.weight.detach(), target, layout, shapes[name], cost_model, objective
        )
        if share is None or target.kept_weights > share:
            paying[name] = replace(target, kept_weights=None)
    return paying


def break_even_share(
    weight: Tensor,
    target: LayerTarget,
    layout: MatrixLayout,
    shape: LayerShape,
    cost_model: CostModel,
    objective: str,
) -> float | None:
    """The largest share of a layer's weights that costs less than all of them; None: no share.

    Args:
        weight: dense trained weights, `[outputs, inputs, ...]`.
        target: crossbar and levels of the layer.
        layout: what structured pruning leaves of it.
        shape: of the layer.
        cost_model: prices the layer alone, under its certified ADC bits.
        objective: the cost that has to fall.

    Returns:
        A share below 1, on a grid of four shares per halving.
    """

    def cost(count: int) -> float:
        layer = _mapped(weight, target, layout, shape, count)
        return cost_values(cost_model.evaluate([layer]))[objective]

    dense, step = cost(weight.numel()), 1
    while (share := 2 ** (-step / _SHARES_PER_HALVING)) * weight.numel() >= 1:
        if cost(round(share * weight.numel())) < dense:
            return share
        step += 1
    return None


def _mapped(
    weight: Tensor, target: LayerTarget, layout: MatrixLayout, shape: LayerShape, count: int
) -> MappedLayer:
    """The layer with its `count` largest weights on levels, as the cost model sees it."""
    spec = target.spec
    levels = target.weight_levels or spec.weight_limit
    kept = LayerCount(count).project(weight, spec, layout)
    indices = level_indices(kept, level_interval(kept, levels), levels)
    integers = (indices * (kept != 0)).to(torch.int32)
    certificate = certify(integers, spec, layout)
    return MappedLayer(
        shape=shape,
        spec=spec,
        rows=layout.packed_rows,
        outputs=layout.packed_outputs,
        adc_bits_per_slice=certificate.adc_bits_per_slice,
        segments_per_slice=certificate.segments_per_slice,
        nonzeros=int(torch.count_nonzero(integers)),
        unit_line_bits=certificate.unit_line_bits,
    )
