"""Weights on few conductance levels, symmetric around zero: `q * {-M..-1, 1..M}`.

Zero is no level: it is reserved for weights that pruning removed. The integer that is stored is the
index of the level, so that the ADCs see small integers, and `q` is the layer's scale.

Source: ADMM-NN (ASPLOS 2019), the released code's quantiser; the memristor ADMM framework (ISLPED
2019), levels symmetric around zero. differs: besides a grid of 10 % around `max|w| / M`, the
interval search tries `max|w| / k` for the next smaller integers `k`, which makes projecting a
projected weight exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hwmodel.certificate import Witness
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConstraintError
from hwmodel.mapping import MatrixLayout
from trainers.constraints import LayerCount, Unconstrained

__all__ = ["LevelSet", "level_indices", "level_interval", "snap_nearest"]

_INTERVAL_WINDOW = 0.1
"""How far around `max|w| / M` the interval is searched. Source: ADMM-NN's released code."""
_INTERVAL_STEPS = 41


def level_indices(weight: Tensor, interval: float, levels: int) -> Tensor:
    """The nearest level of each weight, never zero.

    Args:
        weight: any shape.
        interval: distance of two levels, above 0.
        levels: levels per polarity.

    Returns:
        Signed integers of at most `levels` in magnitude, in the shape and type of `weight`.
    """
    magnitudes = torch.round(weight.abs() / interval).clamp_(1, levels)
    return torch.where(weight < 0, -magnitudes, magnitudes)


def level_interval(weight: Tensor, levels: int) -> float:
    """The interval under which the nearest levels cost the least squared error.

    Args:
        weight: any shape; zeros are pruned weights and do not count.
        levels: levels per polarity.

    Returns:
        The interval; next to nothing where every weight is zero.
    """
    kept = weight.detach()[weight != 0]
    smallest = torch.finfo(torch.float32).tiny
    if kept.numel() == 0:
        return smallest
    largest = float(kept.abs().amax())
    grid = torch.linspace(1 - _INTERVAL_WINDOW, 1 + _INTERVAL_WINDOW, _INTERVAL_STEPS)
    candidates = [largest / levels * float(factor) for factor in grid]
    fewest = max(1, round(levels / (1 + _INTERVAL_WINDOW)))
    candidates += [largest / count for count in range(fewest, levels + 1)]
    errors = [
        float((level_indices(kept, interval, levels) * interval - kept).square().sum())
        for interval in candidates
    ]
    best = candidates[min(range(len(errors)), key=errors.__getitem__)]
    return max(best, smallest)


def snap_nearest(
    weight: Tensor, free: Tensor, interval: float, levels: int, share: float
) -> Tensor:
    """Which free weights are set to their level next: of each level, the nearest `share`.

    Args:
        weight: any shape.
        free: boolean of the same shape; weights that are not set yet.
        interval: distance of two levels.
        levels: levels per polarity.
        share: of the free weights nearest to each level, rounded up.

    Returns:
        Boolean of the same shape, within `free`.

    Source: ADMM-NN's released code, which takes 30 % per stage.
    """
    chosen = torch.zeros_like(free)
    values = weight[free]
    if values.numel() == 0:
        return chosen
    indices = level_indices(values, interval, levels)
    by_distance = (values - indices * interval).abs().argsort(stable=True)
    order = by_distance[indices[by_distance].argsort(stable=True)]
    _, counts = torch.unique_consecutive(indices[order], return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    quota = torch.ceil(counts * share).long().repeat_interleave(counts)
    taken = torch.arange(len(order), device=order.device) - first < quota
    among_free = torch.zeros_like(values, dtype=torch.bool)
    among_free[order] = taken
    chosen[free] = among_free
    return chosen


@dataclass(frozen=True, slots=True)
class LevelSet:
    """At most `levels` magnitudes per polarity, evenly spaced from zero, on the weights that stay.

    Args:
        levels: levels per polarity.
        nonzeros: most weights of the layer that stay, wherever they lie; None: every weight of
            the layout stays, and none of them may be zero.
    """

    levels: int
    nonzeros: int | None = None

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The largest weights, each on its nearest level, at the best interval found."""
        if self.nonzeros is None:
            kept = layout.mask(weight.shape, weight.device)
        else:
            kept = LayerCount(self.nonzeros).project(weight, spec, layout) != 0
        interval = level_interval(weight * kept, self.levels)
        return level_indices(weight, interval, self.levels) * interval * kept

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming a cell that is off the levels; integer weights."""
        if self.nonzeros is None:
            Unconstrained().check(layer, weight, spec, layout)
        else:
            LayerCount(self.nonzeros).check(layer, weight, spec, layout)
        matrix = layout.pack(weight).abs()
        if matrix.numel() == 0:
            return
        if int(matrix.max()) > self.levels:
            where = _place(matrix == matrix.max(), spec)
            raise ConstraintError(
                f"{layer}: level {int(matrix.max())} in segment ({where}), limit {self.levels}"
            )
        if self.nonzeros is None and int(matrix.min()) == 0:
            where = _place(matrix == 0, spec)
            raise ConstraintError(
                f"{layer}: level 0 in segment ({where}); allowed: 1 to {self.levels}, zero is "
                "reserved for pruned weights"
            )


def _place(found: Tensor, spec: CrossbarSpec) -> Witness:
    """The segment of the first true entry of `[groups, outputs, rows]`."""
    group, output, row = (int(index) for index in found.nonzero()[0])
    bitline = output * spec.bitlines_per_output
    return Witness(group=group, tile=row // spec.wordlines, bitline=bitline)
