"""Integer products exactly as the crossbars compute them.

Inputs enter `dac_bits` at a time; each segment's analog sum is read by its ADC, which rounds and
clips at `2^adc_bits - 1`; shift-and-add joins cycles, slices, polarities and tiles. There are three
ways to the same result:

* *product*: where the device is ideal and the certificate says that no reading can exceed its ADC,
  nothing clips and the result is the integer matrix product.
* *cut-off*: where levels are still integers (ADCs too small, stuck cells), rounding does nothing
  and every reading that cannot exceed its ADC is linear. So the result is one integer product with
  the levels as they are, less what the ADCs cut off on the segments that can exceed theirs.
* *every reading*: where levels are no integers or readings are noisy, each reading is rounded on
  its own and nothing can be joined before.

Tests hold the three against each other. Products run in the narrowest float that holds every
possible sum (`hwmodel.exact`). Vectors are taken in chunks, so that working memory does not grow
with their number.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from hwmodel.certificate import certify_bitlines
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import MappingError
from hwmodel.exact import exact_dtype, exact_product
from hwmodel.mapping import MatrixLayout, from_segments, to_bitlines, to_segments
from hwmodel.nonideality import Nonideality, effective_levels
from hwmodel.segment_mask import SegmentMask

__all__ = ["CrossbarSimulator", "simulate"]

_READINGS_AT_ONCE = 1 << 20
"""Readings held in memory at a time: 4 MB in float32, about what a processor caches."""


def simulate(
    inputs_q: Tensor,
    weight_q: Tensor,
    spec: CrossbarSpec,
    adc_bits: int | Sequence[int],
    *,
    layout: MatrixLayout | None = None,
    nonideality: Nonideality | None = None,
    mask: SegmentMask | None = None,
    every_reading: bool = False,
) -> Tensor:
    """What the crossbars return for unsigned inputs.

    Args:
        inputs_q: integers `[groups, vectors, packed rows]` within `0..spec.input_limit`.
        weight_q: integer weights `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        adc_bits: resolution of all bit slices, or of each, least significant first.
        layout: what is left of the layer after structured pruning (default: all of it).
        nonideality: the device (default: ideal).
        mask: what the ADCs' results are multiplied by (default: nothing).
        every_reading: simulate each ADC reading even where there is a shorter way.

    Returns:
        int64 `[groups, vectors, packed outputs]`: exact where `adc_bits` is certified and the
        device ideal.

    Raises:
        MappingError: inputs of the wrong shape or range, or weights that cannot be stored.
    """
    simulator = CrossbarSimulator(
        weight_q, spec, adc_bits, layout=layout, nonideality=nonideality, mask=mask
    )
    return simulator(inputs_q, every_reading=every_reading)


class CrossbarSimulator:
    """One layer's programmed crossbars.

    Read noise goes on from call to call, as time does; a new simulator of the same seed starts it
    again.

    A segment that stores nothing but zeros, or that a mask turns off, is never converted (nor paid
    for), so stuck cells, leakage and noise do not reach the result there. The unit bitline of
    flipped encoding counts its inputs ideally.

    Args:
        weight_q: integer weights `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        adc_bits: resolution of all bit slices, or of each, least significant first.
        layout: what is left of the layer (default: all of it).
        nonideality: the device (default: ideal).
        mask: what the ADCs' results are multiplied by (default: nothing).

    Raises:
        MappingError: weights that cannot be stored, a mask of another layer, or a resolution count
            that is not 1 or `spec.slice_count`.
    """

    def __init__(
        self,
        weight_q: Tensor,
        spec: CrossbarSpec,
        adc_bits: int | Sequence[int],
        *,
        layout: MatrixLayout | None = None,
        nonideality: Nonideality | None = None,
        mask: SegmentMask | None = None,
    ) -> None:
        layout = MatrixLayout.of(weight_q) if layout is None else layout
        self.spec = spec
        self.nonideality = Nonideality() if nonideality is None else nonideality
        self.mask = mask
        self.matrix_q = layout.pack(weight_q)
        if mask is not None:
            mask.check_shape("the layer", layout, spec)
            self.matrix_q = mask.apply(self.matrix_q, spec.wordlines)
        self.stored = to_bitlines(weight_q, spec, layout)
        self.certificate = certify_bitlines(self.stored, spec)
        per_slice = [adc_bits] * spec.slice_count if isinstance(adc_bits, int) else list(adc_bits)
        if len(per_slice) != spec.slice_count:
            raise MappingError(
                f"{len(per_slice)} ADC resolutions; allowed: one, or {spec.slice_count} (per slice)"
            )
        self.adc_bits_per_slice = tuple(per_slice)
        self._noise = self.nonideality.generator("read noise", weight_q.device)

    @property
    def lossless(self) -> bool:
        """Whether the device is ideal and no input at all can make an ADC clip."""
        needed = self.certificate.adc_bits_per_slice
        enough = all(n <= has for n, has in zip(needed, self.adc_bits_per_slice, strict=True))
        return enough and self.nonideality.ideal

    @cached_property
    def _lines(self) -> "_Lines":
        """The device; drawn only where the integer product is not enough."""
        return _Lines(self)

    def __call__(self, inputs_q: Tensor, *, every_reading: bool = False) -> Tensor:
        """Products as in `simulate`, int64 `[groups, vectors, packed outputs]`."""
        self._check_shape(inputs_q)
        groups, outputs, rows = self.matrix_q.shape
        tiles, bitlines = self.stored.levels.shape[1:3]
        size = (groups, inputs_q.shape[1], outputs)
        results = torch.zeros(size, dtype=torch.int64, device=inputs_q.device)
        if results.numel() == 0 or rows == 0:
            return results
        work, per_vector = self._read, groups * tiles * bitlines
        if self.lossless and not every_reading:
            work, per_vector = self._product, groups * (rows + outputs)
        elif self.nonideality.keeps_integers and not every_reading:
            work = self._product_less_cut_off
            per_vector = groups * max(rows + outputs, self._lines.most_cut_off)
        chunk = max(1, _READINGS_AT_ONCE // per_vector)
        chunks = zip(inputs_q.split(chunk, dim=1), results.split(chunk, dim=1), strict=True)
        for part, result in chunks:
            self._check_range(part)
            result.copy_(work(part).round())
        return results

    def _product(self, inputs_q: Tensor) -> Tensor:
        """The integer product, `[groups, vectors, outputs]`."""
        return exact_product(inputs_q, self.matrix_q, self.spec.input_limit)

    def _product_less_cut_off(self, inputs_q: Tensor) -> Tensor:
        """The integer product of the levels as they are, less what the ADCs cut off."""
        spec, lines = self.spec, self._lines
        total = exact_product(inputs_q, lines.matrix_q, spec.input_limit).double()
        for (group, tile), which in lines.cut_off.items():
            first = tile * spec.wordlines
            driven = inputs_q[group, :, first : first + lines.height].int()
            cells = lines.cells[group, tile, which, : driven.shape[1]].T.contiguous()
            ceilings = lines.ceilings[group, tile, 0, which]
            lost = cells.new_zeros(inputs_q.shape[1], len(which))
            for cycle in range(spec.cycle_count):
                digits = self._digits(driven, cycle)
                over = (digits @ cells).sub_(ceilings).clamp_(min=0)
                lost.add_(over, alpha=1 << (spec.dac_bits * cycle))
            weighted = lost.double() * lines.signed[group, tile, which]
            total[group].index_add_(1, which // spec.bitlines_per_output, weighted, alpha=-1)
        return total

    def _read(self, inputs_q: Tensor) -> Tensor:
        """Sums over cycles of the digitised readings, float64 `[groups, vectors, outputs]`."""
        spec, lines = self.spec, self._lines
        tiled = to_segments(inputs_q.int(), spec.wordlines)[..., : lines.height]
        cells, nothing = lines.cells.transpose(2, 3), lines.ceilings.new_zeros(())
        total = cells.new_zeros(inputs_q.shape[0], inputs_q.shape[1], cells.shape[-1])
        for cycle in range(spec.cycle_count):
            readings = self._digits(tiled, cycle) @ cells  # [groups, tiles, vectors, bitlines]
            if self.nonideality.read_noise:
                noise = torch.empty_like(readings).normal_(generator=self._noise)
                readings.add_(noise, alpha=self.nonideality.read_noise)
            if not self.nonideality.keeps_integers:
                readings.round_()
            torch.clamp(readings, nothing, lines.ceilings, out=readings)
            if lines.factors is not None:
                readings.mul_(lines.factors)
            total.add_(readings.sum(dim=1), alpha=1 << (spec.dac_bits * cycle))
        joined: Tensor = total.unflatten(2, (-1, spec.bitlines_per_output)).double() @ lines.powers
        tile_sums = tiled.sum(dim=-1).double().transpose(1, 2)  # [groups, vectors, tiles]
        return joined.add_(tile_sums @ lines.constants)

    def _digits(self, driven: Tensor, cycle: int) -> Tensor:
        """What the DACs drive in one cycle, in the type of the cells."""
        digits = (driven >> (self.spec.dac_bits * cycle)) & self.spec.digit_limit
        return digits.to(self._lines.cells.dtype)

    def _check_shape(self, inputs_q: Tensor) -> None:
        groups, _, rows = self.matrix_q.shape
        if inputs_q.ndim != 3 or inputs_q.shape[0] != groups or inputs_q.shape[2] != rows:
            raise MappingError(
                f"inputs of shape {tuple(inputs_q.shape)}; allowed: [{groups}, vectors, {rows}]"
            )

    def _check_range(self, inputs_q: Tensor) -> None:
        if inputs_q.is_floating_point() and not torch.equal(inputs_q, inputs_q.round()):
            broken = inputs_q[inputs_q != inputs_q.round()]  # NaN differs from itself
            raise MappingError(f"an input of {float(broken[0])}; allowed: integers")
        low, high = (int(bound) for bound in inputs_q.aminmax())
        if low < 0 or high > self.spec.input_limit:
            raise MappingError(
                f"inputs from {low} to {high}; allowed: 0 to {self.spec.input_limit}"
            )


class _Lines:
    """What of a layer's bitlines does not depend on the inputs.

    Attributes:
        height: wordlines that are driven in the tallest tile.
        cells: conductances in level units `[groups, tiles, bitlines, height]`, 0 on segments that
            are not converted; float32 or float64, whichever holds all sums of one output line.
        ceilings: largest code `[groups, tiles, 1, bitlines]`, 0 where nothing is converted.
        factors: what a reading is multiplied by, -1 for a flipped segment, times that of its mask,
            `[groups, tiles, 1, bitlines]`; None if all are 1.
        powers: weight of each line of an output, float64 `[bitlines per output]`.
        signed: the same per segment with its factor, float64 `[groups, tiles, bitlines]`.
        constants: what each unit of a tile's input sum adds to an output whatever the cells hold
            (flips, offsets), float64 `[groups, tiles, outputs]`.
        matrix_q: the weights that the cells as they are amount to, float64
            `[groups, outputs, rows]`; only where the cells are integers.
        cut_off: bitlines that can exceed their ADC, int64 per (group, tile) that has any; only
            where the cells are integers.
    """

    def __init__(self, crossbars: CrossbarSimulator) -> None:
        spec, stored, device = crossbars.spec, crossbars.stored, crossbars.matrix_q.device
        outputs, rows = crossbars.matrix_q.shape[1:]
        self.height = min(spec.wordlines, rows)
        converted, mask = stored.levels.any(dim=-1), crossbars.mask
        if mask is not None:
            converted &= mask.on.repeat_interleave(spec.bitlines_per_output, dim=2)
        levels = effective_levels(stored.levels, spec, crossbars.nonideality)
        levels *= converted[..., None]
        largest = stored.levels.shape[1] * self.height * ((1 << spec.cell_bits) - 1)
        largest *= 1 if mask is None else mask.largest
        dtype = exact_dtype(largest * ((1 << (spec.dac_bits * spec.cycle_count)) - 1))
        self.cells = levels[..., : self.height].to(dtype).contiguous()
        codes = [(1 << bits) - 1 for bits in crossbars.adc_bits_per_slice]
        codes = codes * (outputs * spec.polarity_count)
        ceilings = torch.tensor(codes, dtype=dtype, device=device) * converted
        self.ceilings = ceilings[:, :, None, :]
        powers = [float(1 << (spec.cell_bits * index)) for index in range(spec.slice_count)]
        signed = powers + [-power for power in powers] * (spec.polarity_count - 1)
        self.powers = torch.tensor(signed, dtype=torch.float64, device=device)
        self._set_factors(crossbars, dtype)
        self.cut_off: dict[tuple[int, int], Tensor] = {}
        if crossbars.nonideality.keeps_integers and not crossbars.lossless:
            self._set_product(levels, crossbars)
            self._set_cut_off(spec)

    @property
    def most_cut_off(self) -> int:
        """Most segments of one tile that can exceed their ADC."""
        return max((len(which) for which in self.cut_off.values()), default=0)

    def _set_factors(self, crossbars: CrossbarSimulator, dtype: torch.dtype) -> None:
        """Factors and constants: a flipped segment returns its limit times the inputs, less it."""
        spec, flipped, mask = crossbars.spec, crossbars.stored.flipped, crossbars.mask
        groups, outputs, _ = crossbars.matrix_q.shape
        tiles = crossbars.stored.levels.shape[1]
        factors = self.powers.new_ones((groups, tiles, outputs * spec.bitlines_per_output))
        self.constants = self.powers.new_full((groups, tiles, outputs), -float(spec.zero_code))
        if flipped is not None:
            factors -= 2 * flipped.double()
            limits = [float(spec.slice_limit(index)) for index in range(spec.slice_count)]
            worth = self.powers * self.powers.new_tensor(limits)
            self.constants += flipped.double().unflatten(2, (outputs, len(worth))) @ worth
        if mask is not None:
            shifted = mask.factors.double()
            factors *= shifted.repeat_interleave(spec.bitlines_per_output, dim=2)
            self.constants *= shifted
        self.signed = self.powers.repeat(outputs) * factors
        plain = flipped is None and mask is None
        self.factors = None if plain else factors.to(dtype)[:, :, None, :]

    def _set_product(self, levels: Tensor, crossbars: CrossbarSimulator) -> None:
        """The weights that the levels as they are amount to."""
        outputs, rows = crossbars.matrix_q.shape[1:]
        signed = levels.double() * self.signed[..., None]
        weights = signed.unflatten(2, (outputs, len(self.powers))).sum(dim=3)
        self.matrix_q = from_segments(weights + self.constants[..., None], rows)

    def _set_cut_off(self, spec: CrossbarSpec) -> None:
        worst = self.cells.sum(dim=-1) * spec.digit_limit
        over = worst > self.ceilings[:, :, 0]
        for group, tile in over.any(dim=-1).nonzero().tolist():
            self.cut_off[group, tile] = over[group, tile].nonzero().flatten()
