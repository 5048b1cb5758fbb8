"""The proof that a layer's ADCs lose nothing, computed from its stored integer weights alone.

No data enters: the largest reading that any input can cause on a segment is its sum of levels
times the largest input digit (`hwmodel.crossbar`). The witness of a slice is the segment that
reaches it: driven with the largest digit on the wordlines where it holds a level, it is read wrong
by an ADC with one bit fewer.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, lossless_adc_bits
from hwmodel.errors import CertificateError
from hwmodel.geometry import unit_line_bits
from hwmodel.mapping import MatrixLayout, StoredBitlines, outputs_at_once, to_bitlines

__all__ = ["AdcCertificate", "Witness", "certify", "certify_bitlines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Where a slice's worst segment lies."""

    group: int
    tile: int
    bitline: int

    def __str__(self) -> str:
        group = f"group {self.group}, " if self.group else ""
        return f"{group}tile {self.tile}, bitline {self.bitline}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdcCertificate:
    """What one layer's ADCs must resolve; tuples run over bit slices, least significant first."""

    worst_sums: tuple[int, ...]
    """Largest possible reading: level sum x largest input digit."""
    witnesses: tuple[Witness, ...]
    segments_per_slice: tuple[int, ...]
    """Segments that hold at least one non-zero cell, and so must be converted."""
    unit_line_bits: int
    """Resolution for the unit bitline (flipped encoding), else 0."""

    @property
    def adc_bits_per_slice(self) -> tuple[int, ...]:
        """Lossless resolution per slice; 0 where no cell of the slice is set."""
        return tuple(lossless_adc_bits(reading) for reading in self.worst_sums)

    @property
    def adc_bits(self) -> int:
        """Lossless resolution of the layer: the largest over its slices."""
        return max(*self.adc_bits_per_slice, self.unit_line_bits)

    @property
    def worst_sum(self) -> int:
        """Largest possible reading of any of the layer's segments."""
        return max(self.worst_sums)

    def check(self, layer: str, adc_bits_per_slice: tuple[int, ...]) -> None:
        """Holds the layer against the ADCs that it was promised.

        Raises:
            CertificateError: naming layer, tile, bitline, reading and limit of the first slice that
                its ADC cannot resolve, or a promise for another number of slices.
        """
        if len(adc_bits_per_slice) != len(self.worst_sums):
            raise CertificateError(
                f"{layer}: ADC bits for {len(adc_bits_per_slice)} slices; it has "
                f"{len(self.worst_sums)}"
            )
        for index, (reading, promised) in enumerate(
            zip(self.worst_sums, adc_bits_per_slice, strict=True)
        ):
            limit = (1 << promised) - 1
            if reading > limit:
                raise CertificateError(
                    f"{layer}: a reading of {reading} is possible at {self.witnesses[index]} "
                    f"(bit slice {index}), limit {limit} with a {promised}-bit ADC"
                )


def certify(
    weight_q: Tensor, spec: CrossbarSpec, layout: MatrixLayout | None = None
) -> AdcCertificate:
    """The certificate of one layer.

    Args:
        weight_q: integer weights, `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        layout: what is left of the layer after structured pruning (default: all of it).

    Raises:
        MappingError: weights that the crossbar cannot store.
    """
    layout = MatrixLayout.of(weight_q) if layout is None else layout
    matrix = layout.pack(weight_q)
    step = outputs_at_once(matrix)
    if matrix.shape[1] <= step:
        return certify_bitlines(to_bitlines(weight_q, spec, layout), spec)
    parts = []
    for piece in matrix.split(step, dim=1):
        own = MatrixLayout(groups=layout.groups, outputs=piece.shape[1], rows=piece.shape[2])
        parts.append(certify_bitlines(to_bitlines(piece.flatten(0, 1), spec, own), spec))
    return _joined(parts, step * spec.bitlines_per_output)


def _joined(parts: list[AdcCertificate], bitlines: int) -> AdcCertificate:
    """The certificate of a layer from those of its pieces, each `bitlines` after the one before."""
    slices = range(len(parts[0].worst_sums))
    worst = [max(range(len(parts)), key=lambda i: parts[i].worst_sums[s]) for s in slices]
    return AdcCertificate(
        worst_sums=tuple(parts[i].worst_sums[s] for s, i in enumerate(worst)),
        witnesses=tuple(
            replace(witness, bitline=witness.bitline + i * bitlines)
            for s, i in enumerate(worst)
            for witness in (parts[i].witnesses[s],)
        ),
        segments_per_slice=tuple(sum(part.segments_per_slice[s] for part in parts) for s in slices),
        unit_line_bits=max(part.unit_line_bits for part in parts),
    )


def certify_bitlines(stored: StoredBitlines, spec: CrossbarSpec) -> AdcCertificate:
    """The certificate of bitlines as stored."""
    if stored.levels.numel() == 0:
        nowhere = Witness(group=0, tile=0, bitline=0)
        return AdcCertificate(
            worst_sums=(0,) * spec.slice_count,
            witnesses=(nowhere,) * spec.slice_count,
            segments_per_slice=(0,) * spec.slice_count,
            unit_line_bits=0,
        )
    per_slice = stored.sums().unflatten(2, (-1, spec.slice_count)).permute(3, 0, 1, 2)
    worst, at = per_slice.flatten(1).max(dim=1)
    _, tiles, lines = per_slice.shape[1:]
    witnesses = []
    for index, flat in enumerate(at.tolist()):
        group, rest = divmod(flat, tiles * lines)
        tile, line = divmod(rest, lines)
        bitline = line * spec.slice_count + index
        witnesses.append(Witness(group=group, tile=tile, bitline=bitline))
    used = torch.count_nonzero(per_slice.flatten(1), dim=1)
    return AdcCertificate(
        worst_sums=tuple(int(s) * spec.digit_limit for s in worst.tolist()),
        witnesses=tuple(witnesses),
        segments_per_slice=tuple(used.tolist()),
        unit_line_bits=unit_line_bits(spec, int(stored.lengths.max())),
    )
