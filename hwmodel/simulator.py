"""Integer products exactly as the crossbars compute them.

Inputs enter `dac_bits` at a time; each segment's analog sum is read by its ADC, which clips at
`2^adc_bits - 1`; shift-and-add joins cycles, slices, polarities and tiles. Where the certificate
says that no reading can exceed its ADC, nothing clips and the result *is* the integer matrix
product, so that is what is computed (the fast path; a test holds both paths against each other).

Products run in float32 where every possible sum is below 2^24, else in float64 (below 2^53):
integers in that range are exact in any order of summation, on a CPU as on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hwmodel.certificate import certify_bitlines
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import MappingError
from hwmodel.mapping import MatrixLayout, to_bitlines, to_segments

__all__ = ["CrossbarSimulator", "exact_product", "simulate"]

_FLOAT32_EXACT = 1 << 24
_FLOAT64_EXACT = 1 << 53
_READINGS_AT_ONCE = 1 << 23
"""Readings held in memory at a time (32 MB in float32)."""


def simulate(
    inputs_q: Tensor,
    weight_q: Tensor,
    spec: CrossbarSpec,
    adc_bits: int | Sequence[int],
    *,
    layout: MatrixLayout | None = None,
    every_reading: bool = False,
) -> Tensor:
    """What the crossbars return for unsigned inputs.

    Args:
        inputs_q: integers `[groups, vectors, packed rows]` within `0..spec.input_limit`.
        weight_q: integer weights `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        adc_bits: resolution of all bit slices, or of each, least significant first.
        layout: what is left of the layer after structured pruning (default: all of it).
        every_reading: simulate each ADC reading even where nothing can clip.

    Returns:
        int64 `[groups, vectors, packed outputs]`: exact where `adc_bits` is certified.

    Raises:
        MappingError: inputs of the wrong shape or range, or weights that cannot be stored.
    """
    simulator = CrossbarSimulator(weight_q, spec, adc_bits, layout=layout)
    return simulator(inputs_q, every_reading=every_reading)


def exact_product(inputs_q: Tensor, matrix_q: Tensor, input_limit: int) -> Tensor:
    """The integer product `[groups, vectors, outputs]`, as float32 or float64 of exact integers.

    Args:
        inputs_q: integers `[groups, vectors, rows]` within `0..input_limit`, any dtype.
        matrix_q: integer weights `[groups, outputs, rows]`.
        input_limit: largest input.
    """
    largest = matrix_q.long().abs().sum(dim=-1).max() if matrix_q.numel() else 0
    dtype = _exact_dtype(int(largest) * input_limit)
    return inputs_q.to(dtype) @ matrix_q.to(dtype).transpose(1, 2)


class CrossbarSimulator:
    """One layer's programmed crossbars.

    Args:
        weight_q: integer weights `[outputs, inputs, ...]`.
        spec: the layer's crossbar.
        adc_bits: resolution of all bit slices, or of each, least significant first.
        layout: what is left of the layer (default: all of it).

    Raises:
        MappingError: weights that cannot be stored, or a resolution count that is not 1 or
            `spec.slice_count`.
    """

    def __init__(
        self,
        weight_q: Tensor,
        spec: CrossbarSpec,
        adc_bits: int | Sequence[int],
        *,
        layout: MatrixLayout | None = None,
    ) -> None:
        layout = MatrixLayout.of(weight_q) if layout is None else layout
        self.spec = spec
        self.matrix_q = layout.pack(weight_q)
        self.stored = to_bitlines(weight_q, spec, layout)
        self.certificate = certify_bitlines(self.stored, spec)
        per_slice = [adc_bits] * spec.slice_count if isinstance(adc_bits, int) else list(adc_bits)
        if len(per_slice) != spec.slice_count:
            raise MappingError(
                f"{len(per_slice)} ADC resolutions; allowed: one, or {spec.slice_count} (per slice)"
            )
        self.adc_bits_per_slice = tuple(per_slice)

    @property
    def lossless(self) -> bool:
        """Whether no input at all can make an ADC clip."""
        needed = self.certificate.adc_bits_per_slice
        return all(n <= has for n, has in zip(needed, self.adc_bits_per_slice, strict=True))

    def __call__(self, inputs_q: Tensor, *, every_reading: bool = False) -> Tensor:
        """Products as in `simulate`, int64 `[groups, vectors, packed outputs]`."""
        self._check_inputs(inputs_q)
        if self.lossless and not every_reading:
            return exact_product(inputs_q, self.matrix_q, self.spec.input_limit).long()
        groups, tiles, bitlines, _ = self.stored.levels.shape
        outputs = self.matrix_q.shape[1]
        if tiles * bitlines == 0:
            return inputs_q.new_zeros(groups, inputs_q.shape[1], outputs, dtype=torch.int64)
        chunk = max(1, _READINGS_AT_ONCE // (groups * tiles * bitlines))
        parts = [self._read(part) for part in inputs_q.split(chunk, dim=1)]
        return torch.cat(parts, dim=1).round().long()

    def _read(self, inputs_q: Tensor) -> Tensor:
        """Sums over cycles of the digitised readings, float64 `[groups, vectors, outputs]`."""
        spec, stored = self.spec, self.stored
        tiled = to_segments(inputs_q.int(), spec.wordlines)  # [groups, tiles, vectors, wordlines]
        largest = stored.levels.shape[-1] * ((1 << spec.cell_bits) - 1) * spec.digit_limit
        dtype = _exact_dtype(largest * stored.levels.shape[1])
        cells = stored.levels.to(dtype).transpose(2, 3)
        ceilings, weights = self._line_constants(dtype, inputs_q.device)
        total = torch.zeros((), dtype=torch.float64, device=inputs_q.device)
        for cycle in range(spec.cycle_count):
            digits = ((tiled >> (spec.dac_bits * cycle)) & spec.digit_limit).to(dtype)
            readings = torch.minimum(digits @ cells, ceilings)
            if stored.flipped is not None:
                readings = self._unflip(readings, digits)
            lines = readings.sum(dim=1).unflatten(2, (-1, spec.bitlines_per_output))
            total = total + (lines.double() @ weights) * float(1 << (spec.dac_bits * cycle))
        return total - spec.zero_code * inputs_q.double().sum(dim=-1, keepdim=True)

    def _unflip(self, readings: Tensor, digits: Tensor) -> Tensor:
        """Readings of flipped segments, corrected with the sum of their inputs (unit bitline)."""
        assert self.stored.flipped is not None
        limits = [self.spec.slice_limit(index) for index in range(self.spec.slice_count)]
        per_line = readings.new_tensor(limits * self.matrix_q.shape[1])
        corrected = per_line * digits.sum(dim=-1, keepdim=True) - readings
        return torch.where(self.stored.flipped[:, :, None, :], corrected, readings)

    def _line_constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Largest reading per bitline `[bitlines]`, and the weight of each line of an output."""
        spec = self.spec
        lines = self.matrix_q.shape[1] * spec.polarity_count
        ceilings = [(1 << bits) - 1 for bits in self.adc_bits_per_slice] * lines
        powers = [float(1 << (spec.cell_bits * index)) for index in range(spec.slice_count)]
        signed = powers + [-power for power in powers] * (spec.polarity_count - 1)
        return (
            torch.tensor(ceilings, dtype=dtype, device=device),
            torch.tensor(signed, dtype=torch.float64, device=device),
        )

    def _check_inputs(self, inputs_q: Tensor) -> None:
        groups, _, rows = self.matrix_q.shape
        if inputs_q.ndim != 3 or inputs_q.shape[0] != groups or inputs_q.shape[2] != rows:
            raise MappingError(
                f"inputs of shape {tuple(inputs_q.shape)}; allowed: [{groups}, vectors, {rows}]"
            )
        if inputs_q.numel() == 0:
            return
        if inputs_q.is_floating_point():
            broken = inputs_q[inputs_q != inputs_q.round()]  # NaN differs from itself
            if broken.numel():
                raise MappingError(f"an input of {float(broken[0])}; allowed: integers")
        low, high = int(inputs_q.min()), int(inputs_q.max())
        if low < 0 or high > self.spec.input_limit:
            raise MappingError(
                f"inputs from {low} to {high}; allowed: 0 to {self.spec.input_limit}"
            )


def _exact_dtype(largest: int) -> torch.dtype:
    """The narrowest float that holds every integer up to `largest`."""
    # A lower precision setting lets matrix products use TF32 or bfloat16 inside.
    if largest < _FLOAT32_EXACT and torch.get_float32_matmul_precision() == "highest":
        return torch.float32
    if largest < _FLOAT64_EXACT:
        return torch.float64
    raise MappingError(f"sums up to {largest}; allowed: below 2^53, where float64 is exact")
