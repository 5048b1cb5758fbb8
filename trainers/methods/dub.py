"""Tile-balanced sparsity after D.U.B. (Ibrayev et al., arXiv 2403.13082, 2024): a plain baseline.

A crossbar's ADC follows its densest bitline, so sparsity pays only where it is even. Phase one
trains under the variance, within each crossbar, of the columns' Hoyer-square `(sum |w|)^2 / sum
w^2`, a smooth count of their weights; a gate lets the gradient thin dense columns out but fill none
up. Then every crossbar is pruned to one of the bins `all, 1/2, 1/4, ... , nothing` of its height,
nearest to what its densest column needs, and the rest is fine-tuned under its mask.

differs: a tile is a crossbar of our mapping, `wordlines` x the outputs that fit its width, within
one group of a convolution; convolution *and* linear layers are regularised; a layer may name the
share of its weights to count as needed (`kept_weights`) instead of the one tolerance, which only a
long phase one makes meaningful; the tails of a layer form smaller tiles, without the zero columns
that the published code pads them with; both phases start from the dense baseline and share the
study's optimiser, with its weight decay (published: none in the second).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.certificate import Witness
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConstraintError
from hwmodel.mapping import MatrixLayout, from_segments, segment_lengths, to_segments
from trainers.config import check_number
from trainers.constraints import Constraint, Unconstrained
from trainers.method import LayerTarget
from trainers.methods.masked import Masked

__all__ = [
    "Dub",
    "DubConfig",
    "TileCounts",
    "hoyer_variance_gradient",
    "nearest_bins",
]

_EPSILON = 1e-6
"""Added to `sum w^2`, so that an empty column counts 0; published code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DubConfig:
    """Settings of `dub`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    variance_weight: float = 0.001
    """Weight in the loss of the variance of Hoyer-squares, summed over crossbars. The published
    logs: 0.001 to 0.005."""
    l2_weight: float = 0.001
    """Weight decay of the crossbars' weights in phase one, besides the optimiser's. The published
    logs: 0.001 to 0.005."""
    regularised_share: float = 0.5
    """Share of the epochs before the crossbars are pruned. The published code: 160 epochs of
    360."""
    tolerance: float = 1e-3
    """Smaller magnitudes count as zeros when a crossbar's bin is chosen."""

    def __post_init__(self) -> None:
        for name in ("variance_weight", "l2_weight", "tolerance"):
            check_number(f"method.{name}", getattr(self, name), low=0)
        check_number("method.regularised_share", self.regularised_share, low=0, high=1)


@dataclass(frozen=True, slots=True, eq=False)
class TileCounts:
    """At most so many non-zero weights in every column of a crossbar, both signs together.

    Attributes:
        counts: int64 `[groups, tiles, crossbars across]`.
    """

    counts: Tensor

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """Keeps the largest magnitudes of each column."""
        matrix = layout.pack(weight)
        segments = to_segments(matrix, spec.wordlines)
        order = segments.abs().argsort(dim=-1, descending=True, stable=True)
        rank = order.argsort(dim=-1)
        kept = rank < self._limits(spec, layout)[..., None]
        return layout.unpack(from_segments(segments * kept, matrix.shape[-1]), weight.shape)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming the column that exceeds its limit most."""
        Unconstrained().check(layer, weight, spec, layout)
        found = (to_segments(layout.pack(weight), spec.wordlines) != 0).sum(dim=-1)
        limits = self._limits(spec, layout)
        if found.numel() == 0 or bool((found <= limits).all()):
            return
        flat = int((found - limits).flatten().argmax())
        _, tiles, outputs = found.shape
        rest, output = divmod(flat, outputs)
        group, tile = divmod(rest, tiles)
        where = Witness(group=group, tile=tile, bitline=output * spec.bitlines_per_output)
        raise ConstraintError(
            f"{layer}: {int(found.flatten()[flat])} non-zeros in the column at ({where}), "
            f"limit {int(limits.flatten()[flat])}"
        )

    def _limits(self, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The limit of each column, `[groups, tiles, packed outputs]`."""
        wide = self.counts.repeat_interleave(_outputs_per_crossbar(spec), dim=-1)
        return wide[..., : layout.packed_outputs]


class Dub(Masked):
    """Balances the columns of each crossbar, then prunes crossbar by crossbar.

    Args:
        targets: `kept_weights` is the share of a layer's weights that count as needed; rows and
            outputs to keep.
        config: strengths and schedule.
    """

    name = "dub"
    settings = ("kept_weights", "kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: DubConfig) -> None:
        super().__init__(targets, config.regularised_share)
        self.config = config
        self.counts: dict[str, Tensor] = {}

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Starts phase one; prunes at once where there is none."""
        self.counts = {}
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def constraint(self, name: str) -> Constraint:
        """The counts of the layer's crossbars, once they are chosen."""
        return TileCounts(self.counts[name]) if name in self.counts else Unconstrained()

    @torch.no_grad()
    def after_backward(self) -> None:
        """Adds both regularisers in phase one, nothing later."""
        if self.masks:
            return
        for name, module in self.modules.items():
            if module.weight.grad is None:
                continue
            spec, layout = self.targets[name].spec, self.layouts[name]
            segments = to_segments(layout.pack(module.weight), spec.wordlines)
            balance = hoyer_variance_gradient(segments, _outputs_per_crossbar(spec))
            matrix = from_segments(balance, layout.packed_rows)
            unpacked = layout.unpack(matrix, module.weight.shape)
            module.weight.grad.add_(unpacked, alpha=self.config.variance_weight)
            module.weight.grad.add_(module.weight, alpha=self.config.l2_weight)

    @torch.no_grad()
    def prune(self) -> None:
        """Chooses every crossbar's bin, and masks what exceeds it."""
        self.counts = {name: self._bins(name) for name in self.modules}
        super().prune()

    def state_dict(self) -> dict[str, Tensor]:
        """As every masked method, and the counts once they are chosen."""
        counts = {f"counts.{name}": counts for name, counts in self.counts.items()}
        return {**super().state_dict(), **counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.counts = {name: state[f"counts.{name}"] for name in self.masks}

    def _bins(self, name: str) -> Tensor:
        """The bin of every crossbar of a layer, int64 `[groups, tiles, crossbars across]`."""
        spec, layout = self.targets[name].spec, self.layouts[name]
        matrix = layout.pack(self.modules[name].weight)
        segments = to_segments(self._needed(name, matrix).to(torch.int64), spec.wordlines)
        densest = _by_crossbar(segments.sum(dim=-1), _outputs_per_crossbar(spec)).amax(dim=-1)
        heights = segment_lengths(layout.packed_rows, spec.wordlines)
        return nearest_bins(densest, torch.tensor(heights, device=matrix.device)[:, None])

    def _needed(self, name: str, matrix: Tensor) -> Tensor:
        """Which weights are not almost zero."""
        share, magnitudes = self.targets[name].kept_weights, matrix.abs()
        if share is None:
            return magnitudes >= self.config.tolerance
        count = max(1, round(share * matrix.numel()))
        smallest = magnitudes.flatten().topk(count, sorted=True).values[-1]
        return (magnitudes >= smallest) & (magnitudes > 0)


def _outputs_per_crossbar(spec: CrossbarSpec) -> int:
    """Outputs that lie side by side on one crossbar."""
    return spec.bitlines // spec.bitlines_per_output


def hoyer_variance_gradient(segments: Tensor, width: int) -> Tensor:
    """Gated gradient of the summed variances of Hoyer-squares.

    With `h_c = s_c^2 / q_c` of column `c`, `s = sum |w|`, `q = sum w^2`, and the unbiased variance
    over the n columns of a tile, `2 (h_c - mean h) / (n - 1)` is passed on where it is positive,
    times `dh_c/dw = 2 s_c sign(w) / q_c - 2 s_c^2 w / q_c^2`. A tile of one column has no variance.

    Args:
        segments: `[groups, tiles, outputs, wordlines]`.
        width: columns of a tile; the last one of a layer may have fewer.

    Returns:
        Of the same shape.

    Source: D.U.B. (arXiv 2403.13082) and its published code: variance, gate and epsilon.
    """
    sums = segments.abs().sum(dim=-1)
    squares = segments.square().sum(dim=-1) + _EPSILON
    hoyer = _by_crossbar(sums.square() / squares, width)
    real = _by_crossbar(torch.ones_like(sums), width)
    columns = real.sum(dim=-1, keepdim=True)
    mean = hoyer.sum(dim=-1, keepdim=True) / columns
    slope = 2 * (hoyer - mean).clamp(min=0) / (columns - 1).clamp(min=1)
    passed = slope.flatten(2)[..., : sums.shape[-1], None]
    ratio = (sums / squares)[..., None]
    gradient: Tensor = passed * 2 * ratio * (segments.sign() - ratio * segments)
    return gradient


def nearest_bins(densest: Tensor, heights: Tensor) -> Tensor:
    """The bin nearest to each crossbar's densest column, in non-zero weights.

    Bins are all of the height, a half, a quarter, ... down to one weight, and none. Halfway
    between two bins the crossbar is pruned.

    Args:
        densest: int64, needed weights of the densest column.
        heights: int64, wordlines in use, of a shape that broadcasts to that of `densest`.

    Source: D.U.B. (arXiv 2403.13082): sparsity in powers of two.
    """
    best = torch.zeros_like(densest)
    for halvings in range(int(heights.max()).bit_length() - 1, -1, -1):
        bound = heights >> halvings
        closer = (bound - densest).abs() < (best - densest).abs()
        best = torch.where(closer, bound, best)
    return best


def _by_crossbar(columns: Tensor, width: int) -> Tensor:
    """`[groups, tiles, outputs]` to `[groups, tiles, crossbars across, width]`, padded by zeros."""
    padding = -columns.shape[-1] % width
    padded: Tensor = functional.pad(columns, (0, padding))
    return padded.reshape(*columns.shape[:-1], -1, width)
