"""Sets of weights that a small ADC can read, and the nearest point in each."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hwmodel.certificate import Witness, certify
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConstraintError
from hwmodel.mapping import MatrixLayout, from_segments, outputs_at_once, to_segments
from hwmodel.rotation import CirculantBlocks
from trainers.level_sum import choose_scale, level_limits, per_output, project_weight

__all__ = ["BitlineCount", "Circulant", "Constraint", "LayerCount", "LevelSum", "Unconstrained"]


class Constraint(Protocol):
    """A set of weight tensors of one layer, given its crossbar and layout."""

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The nearest weight in the set; weights outside the layout become zero."""

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError`, naming where, unless `weight` is in the set."""


@dataclass(frozen=True, slots=True)
class Unconstrained:
    """Every weight that the layout keeps."""

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The weight with everything outside the layout set to zero."""
        if layout.kept_rows is None and layout.kept_outputs is None:
            return weight
        return layout.unpack(layout.pack(weight), weight.shape)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` where a removed row or output is not zero."""
        stray = int(torch.count_nonzero(weight)) - int(torch.count_nonzero(layout.pack(weight)))
        if stray:
            raise ConstraintError(f"{layer}: {stray} non-zero weights in removed rows or outputs")


@dataclass(frozen=True, slots=True)
class BitlineCount:
    """At most `nonzeros` non-zero weights per segment (TinyADC's column-proportional pruning).

    In a differential pair each polarity is a segment of its own with its own reading, so by
    default the bound holds for each; `both_signs` counts them together, as the paper does.
    Tail segments shorter than the crossbar hold at most `min(nonzeros, length)` by count.

    Source: TinyADC (DATE 2021); differs: the bound per polarity.
    """

    nonzeros: int
    both_signs: bool = False

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """Keeps the largest magnitudes of each segment, which is the nearest point."""
        matrix = layout.pack(weight)
        if self.nonzeros >= min(matrix.shape[-1], spec.wordlines):
            return layout.unpack(matrix, weight.shape)
        pieces = [self._nearest(p, spec) for p in matrix.split(outputs_at_once(matrix), dim=1)]
        return layout.unpack(torch.cat(pieces, dim=1), weight.shape)

    def _nearest(self, matrix: Tensor, spec: CrossbarSpec) -> Tensor:
        """`project` of `[groups, outputs, rows]`."""
        segments = to_segments(matrix, spec.wordlines)
        if self._counts_polarities(spec):
            kept = _keep_largest(segments.clamp(min=0), self.nonzeros)
            kept = kept | _keep_largest((-segments).clamp(min=0), self.nonzeros)
        else:
            kept = _keep_largest(segments.abs(), self.nonzeros)
        return from_segments(segments * kept, matrix.shape[-1])

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming the worst segment that holds too many."""
        Unconstrained().check(layer, weight, spec, layout)
        segments = to_segments(layout.pack(weight), spec.wordlines)
        if self._counts_polarities(spec):
            counts = torch.stack(((segments > 0).sum(-1), (segments < 0).sum(-1)), dim=-1)
        else:
            counts = (segments != 0).sum(-1, keepdim=True)
        if counts.numel() == 0 or int(counts.max()) <= self.nonzeros:
            return
        _, tiles, outputs, polarities = counts.shape
        flat = int(counts.flatten().argmax())
        group, tile, output, polarity = _unravel(flat, (tiles, outputs, polarities))
        bitline = output * spec.bitlines_per_output + polarity * spec.slice_count
        raise ConstraintError(
            f"{layer}: {int(counts.max())} non-zeros in segment "
            f"({Witness(group=group, tile=tile, bitline=bitline)}), limit {self.nonzeros}"
        )

    def _counts_polarities(self, spec: CrossbarSpec) -> bool:
        return spec.sign_encoding is SignEncoding.DIFFERENTIAL and not self.both_signs


@dataclass(frozen=True, slots=True)
class LevelSum:
    """Every bit slice of every segment sums to what an ADC of `adc_bits` reads exactly.

    TinyADC's count bound at the same ADC is a subset of this. Source: ours; design 2.3.
    """

    adc_bits: int

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The nearest weight found (`trainers.level_sum`), on scales of its own choice."""
        limit = level_limits(spec, self.adc_bits)
        scale = choose_scale(weight, spec, layout, limit)
        integers = project_weight(weight, scale, spec, layout, limit)
        return integers * per_output(scale, weight)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming the segment with the largest sum; integer weights."""
        Unconstrained().check(layer, weight, spec, layout)
        limit = level_limits(spec, self.adc_bits)
        certificate = certify(weight, spec, layout)
        worst = max(range(spec.slice_count), key=lambda s: certificate.worst_sums[s])
        levels = certificate.worst_sums[worst] // spec.digit_limit
        if levels > limit:
            raise ConstraintError(
                f"{layer}: levels sum to {levels} in segment ({certificate.witnesses[worst]}, bit "
                f"slice {worst}), limit {limit} with a {self.adc_bits}-bit ADC"
            )


@dataclass(frozen=True, slots=True)
class LayerCount:
    """At most `nonzeros` non-zero weights in the whole layer: plain magnitude pruning."""

    nonzeros: int

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """Keeps the largest magnitudes of the layer."""
        matrix = layout.pack(weight)
        kept = _keep_largest(matrix.abs().flatten(), min(self.nonzeros, matrix.numel()))
        return layout.unpack(matrix * kept.reshape(matrix.shape), weight.shape)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` where the layer holds too many."""
        Unconstrained().check(layer, weight, spec, layout)
        count = int(torch.count_nonzero(weight))
        if count > self.nonzeros:
            raise ConstraintError(f"{layer}: {count} non-zeros in the layer, limit {self.nonzeros}")


@dataclass(frozen=True, slots=True)
class Circulant:
    """Every block of `block_size` outputs x inputs is circulant, at each kernel position.

    The blocks are those of `hwmodel.circulant`: fitted to a layer that is narrower, cut at its
    edge; whole layers only. Source: ReBoc (DATE 2020).
    """

    block_size: int

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The mean along every diagonal of every block, which is the nearest point."""
        return CirculantBlocks.of(weight, layout.groups, self.block_size).project(weight)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming the first weight off its diagonal; integer weights."""
        blocks = CirculantBlocks.of(weight, layout.groups, self.block_size)
        odd = (blocks.project(weight.double()) != weight).reshape(*weight.shape[:2], -1)
        if not bool(odd.any()):
            return
        output, channel, place = (int(index) for index in odd.nonzero()[0])
        side = blocks.side
        at = (output % blocks.outputs // side, channel // side)
        raise ConstraintError(
            f"{layer}: {int(odd.sum())} weights differ from the rest of their diagonal, first "
            f"output {output}, input {channel}, kernel position {place} in block {at}; allowed: "
            f"circulant blocks of side {side}"
        )


def _keep_largest(magnitudes: Tensor, count: int) -> Tensor:
    """True at the `count` largest positive entries of the last dimension (ties: any of them)."""
    largest = magnitudes.topk(count, dim=-1, sorted=False).indices
    kept = torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(-1, largest, True)
    return kept & (magnitudes > 0)


def _unravel(flat: int, sizes: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Four indices of a flat one, given the last three sizes."""
    rest, last = divmod(flat, sizes[2])
    rest, middle = divmod(rest, sizes[1])
    first, second = divmod(rest, sizes[0])
    return first, second, middle, last
