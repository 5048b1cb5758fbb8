"""Shift masks: what a task multiplies the readings of a frozen layer's segments by.

A mask holds one factor for each segment of the weight matrix (tile x output; all polarities and bit
slices of an output share it): 0, or a power of two with a sign. The ADC's results are shifted to
the left by it before shift-and-add, and subtracted instead of added where it is negative, as the
results of a differential pair's negative bitlines are anyway. Cells stay as they are, and with them
the certificate. Segments with factor 0 need no conversion. Fractional levels are factors relative
to the smallest one, which the layer's digital scale absorbs, so that everything stays an integer.

Source: XMA (DAC 2022), one shift-based level per crossbar column and task. differs: the column is
one segment of the weight, so that slices and polarities share a factor; factors may be negative.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import MappingError
from hwmodel.geometry import tile_count
from hwmodel.mapping import MatrixLayout, StoredBitlines, from_segments, to_segments

__all__ = ["MAX_SHIFT", "SegmentMask", "spread_segments"]

MAX_SHIFT = 14
"""Largest shift: 16-bit weights then still fit 32-bit integers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentMask:
    """One task's mask of one layer.

    Attributes:
        factors: int16 `[groups, tiles, packed outputs]`, 0 or +-1, +-2, +-4, ..., +-2^`MAX_SHIFT`.
        bits: bits of memory that one factor takes.

    Raises:
        MappingError: factors of another type, shape or value, or too few bits for them.
    """

    factors: Tensor
    bits: int

    def __post_init__(self) -> None:
        factors = self.factors
        if factors.dtype != torch.int16 or factors.ndim != 3:
            raise MappingError(
                f"a shift mask is {factors.dtype} of shape {tuple(factors.shape)}; "
                "allowed: int16 [groups, tiles, outputs]"
            )
        size = factors.int().abs()
        wrong = ((size & (size - 1)) != 0) | (size > 1 << MAX_SHIFT)
        if bool(wrong.any()):
            raise MappingError(
                f"a shift mask holds {int(factors[wrong][0])}; "
                f"allowed: 0 and powers of two up to 2^{MAX_SHIFT}, of either sign"
            )
        different = len(torch.unique(factors))
        if not 1 <= self.bits <= 8 or different > 1 << self.bits:
            raise MappingError(
                f"{self.bits} bits for {different} different factors of a shift mask; "
                "allowed: enough for them, 1 to 8"
            )

    @property
    def memory_bits(self) -> int:
        """Bits of memory that the mask takes."""
        return self.bits * self.factors.numel()

    @property
    def on(self) -> Tensor:
        """Which segments count, bool `[groups, tiles, packed outputs]`."""
        return self.factors != 0

    @property
    def largest(self) -> int:
        """The largest factor's size; 1 for an empty mask or one of zeros."""
        return int(self.factors.int().abs().max().clamp(min=1)) if self.factors.numel() else 1

    def to(self, device: torch.device | str) -> Self:
        """The same mask on a device."""
        return type(self)(factors=self.factors.to(device), bits=self.bits)

    def check_shape(self, layer: str, layout: MatrixLayout, spec: CrossbarSpec) -> None:
        """Refuses a mask of another layer.

        Raises:
            MappingError: naming the layer and both shapes.
        """
        tiles = tile_count(layout.packed_rows, spec)
        expected = (layout.groups, tiles, layout.packed_outputs)
        if tuple(self.factors.shape) != expected:
            raise MappingError(
                f"{layer}: a shift mask of shape {tuple(self.factors.shape)}; allowed: {expected}"
            )

    def apply(self, matrix: Tensor, wordlines: int) -> Tensor:
        """The weights that frozen ones amount to under the mask.

        Args:
            matrix: packed integers `[groups, outputs, rows]`.
            wordlines: height of the crossbars.
        """
        segments = to_segments(matrix, wordlines) * self.factors[..., None].to(matrix.dtype)
        return from_segments(segments, matrix.shape[-1])

    def segments_read(self, stored: StoredBitlines, spec: CrossbarSpec) -> tuple[int, ...]:
        """Segments per bit slice that hold a non-zero cell and are on: the ones to convert."""
        on = self.on.repeat_interleave(spec.bitlines_per_output, dim=2)
        used = ((stored.sums() > 0) & on).unflatten(2, (-1, spec.slice_count))
        return tuple(used.sum(dim=(0, 1, 2)).tolist())


def spread_segments(
    values: Tensor, layout: MatrixLayout, wordlines: int, shape: torch.Size | tuple[int, ...]
) -> Tensor:
    """A weight tensor of `shape` that holds each segment's value at all of its weights.

    Args:
        values: `[groups, tiles, packed outputs]`, floats.
        layout: what is left of the layer; elsewhere the result is 0.
        wordlines: height of the crossbars.
        shape: of the weight, `[outputs, inputs, ...]`.
    """
    segments = values[..., None].expand(-1, -1, -1, wordlines)
    return layout.unpack(from_segments(segments, layout.packed_rows), shape)
