"""Thousands of candidates as arrays: what `MappedLayer` says of one layer, layer by layer.

Every array is `[candidates, layers]`, int64, and there are nine of them: a batch takes 72 bytes
per candidate and layer, and planning one about 210 while it lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.geometry import LayerShape, MappedLayer

__all__ = ["ARRAYS", "CandidateBatch", "Integers", "crossbar_choices"]

Integers = NDArray[np.int64]
"""int64, `[candidates, layers]` unless said otherwise."""

ARRAYS = (
    "spec",
    "rows",
    "outputs",
    "adc_bits",
    "unit_line_bits",
    "segments",
    "nonzeros",
    "replication",
    "rotations",
)
"""The arrays of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CandidateBatch:
    """Mapped layers of many candidates for one network.

    Raises:
        MappingError: arrays of other shapes, a negative size, more kept than there is, a crossbar
            that is not there, or more copies than positions.
    """

    shapes: tuple[LayerShape, ...]
    specs: tuple[CrossbarSpec, ...]
    """The kinds of crossbar that occur."""
    spec: Integers
    """Which of `specs`."""
    rows: Integers
    outputs: Integers
    adc_bits: Integers
    """ADC resolution that the layer's worst bitline needs, the unit bitline included."""
    unit_line_bits: Integers
    segments: Integers
    """Segments that are read, over all bit slices."""
    nonzeros: Integers
    """Non-zero weights of the layer."""
    replication: Integers
    rotations: Integers
    """Reads of one position; above 1 for a circulant layer, whose blocks may pad its sizes."""

    def __post_init__(self) -> None:
        size = (len(self.spec), len(self.shapes))
        for name in ARRAYS:
            found = getattr(self, name).shape
            if found != size:
                raise MappingError(f"batch: {name} has shape {found}; allowed: {size}")
        layers = self.shapes
        padded = np.where(self.rotations > 1, 2, 1)
        limits: dict[str, tuple[int, ArrayLike]] = {
            "spec": (0, len(self.specs) - 1),
            "rows": (0, padded * np.array([shape.rows for shape in layers])),
            "outputs": (0, padded * np.array([shape.outputs for shape in layers])),
            "replication": (1, np.array([shape.positions for shape in layers])),
            "rotations": (1, np.inf),
        }
        for name in ARRAYS:
            low, high = limits.get(name, (0, np.inf))
            values = getattr(self, name)
            wrong = (values < low) | (values > high)
            if wrong.any():
                row, layer = (int(index) for index in np.argwhere(wrong)[0])
                raise MappingError(
                    f"batch: {name} is {values[row, layer]} in candidate {row}, layer "
                    f"{layers[layer].name}; allowed: {low} to "
                    f"{np.broadcast_to(high, size)[row, layer]:g}"
                )

    def __len__(self) -> int:
        return len(self.spec)

    @classmethod
    def of(cls, candidates: Sequence[Sequence[MappedLayer]]) -> "CandidateBatch":
        """The batch of candidates that are mapped already, such as those read from weights.

        Raises:
            MappingError: no candidate, candidates of different networks, or a shift mask.
        """
        if not candidates:
            raise MappingError("batch: 0 candidates; allowed: 1 up")
        shapes = tuple(layer.shape for layer in candidates[0])
        if any(tuple(layer.shape for layer in layers) != shapes for layers in candidates):
            raise MappingError("batch: candidates of different networks; allowed: one network")
        for layer in (layer for layers in candidates for layer in layers):
            if layer.mask_bits:
                raise MappingError(
                    f"batch: {layer.shape.name} has a shift mask of {layer.mask_bits} bits; "
                    "allowed: layers without one"
                )
        kinds = {layer.spec: 0 for layers in candidates for layer in layers}
        kinds = {spec: index for index, spec in enumerate(kinds)}
        facts = [[_facts(layer, kinds) for layer in layers] for layers in candidates]
        table = np.array(facts, dtype=np.int64).reshape(len(candidates), len(shapes), len(ARRAYS))
        columns = {name: table[:, :, index].copy() for index, name in enumerate(ARRAYS)}
        return cls(shapes=shapes, specs=tuple(kinds), **columns)

    @classmethod
    def planned(
        cls,
        shapes: Sequence[LayerShape],
        specs: Sequence[CrossbarSpec],
        spec: ArrayLike,
        **chosen: ArrayLike,
    ) -> "CandidateBatch":
        """The worst case of candidates before any weight is known, as `plan_layer` has it.

        Args:
            shapes: the network's layers.
            specs: the kinds of crossbar.
            spec: which of them, `[candidates, layers]`.
            **chosen: `rows`, `outputs` (default: all), `nonzeros` (most per segment and polarity;
                default: no bound) and `replication` (default: 1), each broadcast to `spec`.
                Circulant layers are planned singly (`hwmodel.circulant`) and come in by `of`.

        Raises:
            MappingError: what `plan_layer` would refuse.
        """
        index = _spec_index(spec, len(shapes), len(specs))
        kept: dict[str, ArrayLike] = {
            "rows": [shape.rows for shape in shapes],
            "outputs": [shape.outputs for shape in shapes],
            "nonzeros": np.iinfo(np.int64).max,
            "replication": 1,
        }
        unknown = sorted(set(chosen) - set(kept))
        if unknown:
            allowed = ", ".join(kept)
            raise MappingError(f"batch: unknown array {unknown[0]!r}; allowed: {allowed}")
        kept.update(chosen)
        arrays = {name: _integers(name, value, index.shape) for name, value in kept.items()}
        if index.size and arrays["nonzeros"].min() < 1:
            raise MappingError("batch: a bound below one non-zero per segment; allowed: 1 up")
        return cls(
            shapes=tuple(shapes),
            specs=tuple(specs),
            spec=index,
            rows=arrays["rows"],
            outputs=arrays["outputs"],
            replication=arrays["replication"],
            rotations=np.ones_like(index),
            **_worst_case(shapes, specs, index, arrays),
        )


def crossbar_choices(
    base: CrossbarSpec, wordlines: ArrayLike, bitlines: ArrayLike
) -> tuple[tuple[CrossbarSpec, ...], Integers]:
    """The distinct crossbars of sizes `[candidates, layers]`, and which one each layer has.

    Raises:
        SpecError: a size that no crossbar can have.
    """
    tall, wide = np.broadcast_arrays(
        np.asarray(wordlines, dtype=np.int64), np.asarray(bitlines, dtype=np.int64)
    )
    pairs, index = np.unique(
        np.stack([tall.ravel(), wide.ravel()], axis=1), axis=0, return_inverse=True
    )
    specs = tuple(replace(base, wordlines=int(w), bitlines=int(b)) for w, b in pairs)
    return specs, index.reshape(tall.shape).astype(np.int64)


def _spec_index(spec: ArrayLike, layers: int, kinds: int) -> Integers:
    """Which kind of crossbar each layer has.

    Raises:
        MappingError: another shape than `[candidates, layers]`, or a kind that is not there.
    """
    index = np.asarray(spec)
    if index.ndim != 2 or index.shape[1] != layers:
        raise MappingError(f"batch: spec has shape {index.shape}; allowed: [candidates, {layers}]")
    index = _integers("spec", index, index.shape)
    if index.size and not 0 <= index.min() <= index.max() < kinds:
        raise MappingError(f"batch: spec has values outside 0 to {kinds - 1}")
    return index


def _facts(layer: MappedLayer, kinds: dict[CrossbarSpec, int]) -> tuple[int, ...]:
    """One layer in the order of `ARRAYS`."""
    return (
        kinds[layer.spec],
        layer.rows,
        layer.outputs,
        layer.adc_bits,
        layer.unit_line_bits,
        sum(layer.segments_per_slice),
        layer.nonzeros,
        layer.replication,
        layer.rotations,
    )


def _integers(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Integers:
    """The values as int64, broadcast.

    Raises:
        MappingError: values that are no integers or do not fit the shape.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise MappingError(f"batch: {name} has type {array.dtype}; allowed: integers")
    try:
        return np.ascontiguousarray(np.broadcast_to(array.astype(np.int64), shape))
    except ValueError:
        raise MappingError(f"batch: {name} has shape {array.shape}; allowed: {shape}") from None


def _worst_case(
    shapes: Sequence[LayerShape],
    specs: Sequence[CrossbarSpec],
    index: Integers,
    kept: dict[str, Integers],
) -> dict[str, Integers]:
    """Resolutions, segments and non-zeros of layers before any weight is known."""
    rows, outputs = kept["rows"], kept["outputs"]
    groups = np.array([shape.groups for shape in shapes])
    tall = _per_spec([spec.wordlines for spec in specs])[index]
    polarities = _per_spec([spec.polarity_count for spec in specs])[index]
    segment = np.minimum(rows, tall)
    bound = np.minimum(kept["nonzeros"], segment)
    whole, rest = np.divmod(rows, tall)
    held = bound * whole + np.minimum(bound, rest)
    lines = groups * (whole + (rest > 0)) * outputs * polarities
    some = lines > 0
    unit = _bit_length(_unit_levels(specs)[index] * segment) * some
    bits = np.maximum(_bit_length(_worst_reading(specs, index, segment, bound)) * some, unit)
    return {
        "adc_bits": bits,
        "unit_line_bits": unit,
        "segments": lines * _per_spec([spec.slice_count for spec in specs])[index],
        "nonzeros": np.minimum(held * polarities, rows) * outputs * groups,
    }


def _worst_reading(
    specs: Sequence[CrossbarSpec], index: Integers, segment: Integers, bound: Integers
) -> Integers:
    """Largest reading of any bit slice: `worst_level_sum` times the largest input digit."""
    flips = _per_spec([spec.sign_encoding is SignEncoding.FLIPPED for spec in specs])[index]
    worst = np.zeros_like(segment)
    for slice_index in range(max((spec.slice_count for spec in specs), default=0)):
        tops, zeros = zip(*(_levels(spec, slice_index) for spec in specs), strict=True)
        top, zero = _per_spec(tops)[index], _per_spec(zeros)[index]
        lowest = zero * (segment - bound)
        highest = lowest + top * bound
        half = top * segment // 2
        flipped = np.where(lowest <= half, np.minimum(highest, half), top * segment - lowest)
        np.maximum(worst, np.where(flips > 0, flipped, highest), out=worst)
    digits: Integers = _per_spec([spec.digit_limit for spec in specs])[index]
    return worst * digits


def _levels(spec: CrossbarSpec, slice_index: int) -> tuple[int, int]:
    """Largest level and level of a zero weight in one bit slice; 0 where there is no such slice."""
    if slice_index >= spec.slice_count:
        return 0, 0
    top = (1 << spec.cell_bits) - 1
    return spec.slice_limit(slice_index), (spec.zero_code >> (spec.cell_bits * slice_index)) & top


def _unit_levels(specs: Sequence[CrossbarSpec]) -> Integers:
    """Per spec, what one driven wordline adds to the unit bitline; 0: there is none."""
    flipped = SignEncoding.FLIPPED
    return _per_spec([s.digit_limit if s.sign_encoding is flipped else 0 for s in specs])


def _bit_length(values: Integers) -> Integers:
    """Bits of each number below 2^53, 0 for 0."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _per_spec(values: Sequence[int]) -> Integers:
    return np.array(values, dtype=np.int64)
