"""How full each bit slice is, and what its segments ask of their ADCs: all of them, not the worst.

A certificate (`hwmodel.certificate`) is about the one segment that a lossless ADC must resolve.
Regularised training gives no bound on that segment, so its effect shows in the whole distribution:
the share of non-zero digits, and the bits of the mean segment and of all but one in a thousand.

Source: bit-slice L1 (arXiv 1909.08496), which reads ADC resolutions off the bitline sums of each
slice group.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import SpecError
from hwmodel.mapping import MatrixLayout, to_bitlines

__all__ = ["SliceStatistics", "merge_statistics", "slice_statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStatistics:
    """One bit slice of a layer, or of several layers together."""

    weights: int
    """Weights that lie on crossbars."""
    nonzero_cells: int
    """Cells of the slice that hold a level above 0."""
    segments_by_bits: tuple[int, ...]
    """Segments whose largest possible reading needs 0, 1, 2, ... ADC bits, up to the slice's
    largest."""

    @property
    def nonzero_share(self) -> float:
        """Non-zero cells per weight, 0 to 1.

        A weight holds at most one non-zero cell in a slice, also as a differential pair: there the
        share of *cells* is half of this.
        """
        return self.nonzero_cells / self.weights if self.weights else 0.0

    @property
    def max_bits(self) -> int:
        """Resolution that reads every segment exactly: the certificate's."""
        return self.covering_bits(1.0)

    @property
    def mean_bits(self) -> float:
        """Mean over segments; a segment that is empty is not converted and counts 0 bits."""
        total = sum(self.segments_by_bits)
        weighted = sum(bits * count for bits, count in enumerate(self.segments_by_bits))
        return weighted / total if total else 0.0

    def covering_bits(self, share: float) -> int:
        """Smallest resolution that reads at least this share of the segments exactly.

        Raises:
            SpecError: a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise SpecError(f"share of segments is {share}; allowed: above 0, up to 1")
        needed = share * sum(self.segments_by_bits)
        covered = 0
        for bits, count in enumerate(self.segments_by_bits):
            covered += count
            if covered >= needed:
                return bits
        return len(self.segments_by_bits) - 1

    def to_json(self) -> dict[str, Any]:
        """The row of a slice in `crossfront verify --slices --json`."""
        return {
            "weights": self.weights,
            "nonzero_share": self.nonzero_share,
            "segments": sum(self.segments_by_bits),
            "max_bits": self.max_bits,
            "bits_99_9": self.covering_bits(0.999),
            "mean_bits": self.mean_bits,
        }


def slice_statistics(
    weight_q: Tensor, spec: CrossbarSpec, layout: MatrixLayout | None = None
) -> tuple[SliceStatistics, ...]:
    """The statistics of a layer's bit slices, least significant first.

    Args:
        weight_q: integer weights, `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        layout: what is left of the layer after structured pruning (default: all of it).

    Raises:
        MappingError: weights that the crossbar cannot store.
    """
    stored = to_bitlines(weight_q, spec, layout)
    layout = MatrixLayout.of(weight_q) if layout is None else layout
    weights = layout.groups * layout.packed_outputs * layout.packed_rows
    return tuple(
        SliceStatistics(
            weights=weights,
            nonzero_cells=int(torch.count_nonzero(stored.levels[:, :, index :: spec.slice_count])),
            segments_by_bits=_histogram(stored.sums()[:, :, index :: spec.slice_count], spec),
        )
        for index in range(spec.slice_count)
    )


def merge_statistics(
    layers: Iterable[tuple[SliceStatistics, ...]],
) -> tuple[SliceStatistics, ...]:
    """The slice groups of a network: each slice over all layers that have it."""
    return tuple(
        SliceStatistics(
            weights=sum(part.weights for part in parts),
            nonzero_cells=sum(part.nonzero_cells for part in parts),
            segments_by_bits=tuple(
                sum(counts)
                for counts in zip_longest(*(part.segments_by_bits for part in parts), fillvalue=0)
            ),
        )
        for parts in (
            [part for part in group if part is not None] for group in zip_longest(*layers)
        )
    )


def _histogram(sums: Tensor, spec: CrossbarSpec) -> tuple[int, ...]:
    """Segments by the bit length of their largest reading (`crossbar.lossless_adc_bits`)."""
    readings = (sums * spec.digit_limit).double()  # exact: far below 2^53
    bits = torch.frexp(readings.flatten()).exponent
    return tuple(torch.bincount(bits).tolist()) or (0,)
