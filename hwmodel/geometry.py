"""How many crossbars, segments and conversions a layer takes: counting only, no weights.

A convolution or linear layer is `groups` matrices of `outputs x rows`: `rows` inputs drive
wordlines, each output occupies `bitlines_per_output` bitlines. Groups with few rows share a
crossbar block-diagonally: they use different wordlines *and* different bitlines of it, so that no
segment holds cells of two groups.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from hwmodel.crossbar import CrossbarSpec, SignEncoding, lossless_adc_bits, worst_level_sum
from hwmodel.errors import MappingError

__all__ = [
    "LayerShape",
    "MappedLayer",
    "crossbar_count",
    "plan_layer",
    "tile_count",
    "unit_line_bits",
    "whole_crossbars",
]

_PLANS = 1 << 14
"""Planned layers that are remembered: a search prices the same few settings again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """The matrix shape of one convolution or linear layer, and how often it is applied."""

    name: str
    rows: int
    """Inputs per output: `in_channels / groups * kernel height * kernel width`."""
    outputs: int
    """Outputs per group."""
    groups: int = 1
    positions: int = 1
    """Output positions of one inference: `H_out * W_out`, or 1 for a linear layer."""
    kernel: int = 1
    """Kernel height x width; 1 for a linear layer."""

    def __post_init__(self) -> None:
        for what in ("rows", "outputs", "groups", "positions", "kernel"):
            if getattr(self, what) < 1:
                raise MappingError(f"{self.name}: {what} is {getattr(self, what)}; allowed: 1 up")
        if self.rows % self.kernel:
            raise MappingError(
                f"{self.name}: kernel is {self.kernel}; allowed: a divisor of its rows, {self.rows}"
            )

    @property
    def inputs(self) -> int:
        """Input channels per group, or the inputs of a linear layer."""
        return self.rows // self.kernel

    @property
    def weights(self) -> int:
        """Weights of the dense layer."""
        return self.groups * self.rows * self.outputs

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one inference."""
        return self.weights * self.positions


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedLayer:
    """One layer as it lies on its crossbars: all that the cost model needs to know of it."""

    shape: LayerShape
    spec: CrossbarSpec
    rows: int
    """Rows per group that are left after structured pruning and re-packing, or that a circulant
    layer stores: whole blocks, so perhaps more than the layer's own."""
    outputs: int
    """Outputs per group that are left, or that a circulant layer stores."""
    adc_bits_per_slice: tuple[int, ...]
    """ADC resolution that each bit slice needs, least significant first; 0: never read."""
    segments_per_slice: tuple[int, ...]
    """Segments with at least one non-zero cell, over all groups, tiles and polarities."""
    nonzeros: int
    """Non-zero weights: effective multiply-accumulates per position."""
    unit_line_bits: int = 0
    """ADC resolution of the unit bitline that reads the sum of the inputs (flipped only)."""
    replication: int = 1
    """Copies of the layer's crossbars, which share its positions between them."""
    rotations: int = 1
    """Reads that one position takes: a circulant layer stores part of its outputs and yields the
    others for rotated inputs (`hwmodel.circulant`)."""
    mask_bits: int = 0
    """Bits of one factor of its shift mask (`hwmodel.segment_mask`), which every conversion is
    shifted by; 0: no mask."""

    def __post_init__(self) -> None:
        if not 1 <= self.replication <= self.shape.positions:
            raise MappingError(
                f"{self.shape.name}: replication is {self.replication}; "
                f"allowed: 1 to its positions, {self.shape.positions}"
            )
        if self.rotations < 1:
            raise MappingError(f"{self.shape.name}: rotations is {self.rotations}; allowed: 1 up")
        sizes = (self.rows, self.outputs, self.nonzeros, self.unit_line_bits, self.mask_bits)
        if min(*sizes, *self.adc_bits_per_slice, *self.segments_per_slice) < 0:
            raise MappingError(
                f"{self.shape.name}: a size of the mapped layer is negative; allowed: 0 up"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain fields, as `from_json` reads them: what a cost can be computed anew from."""
        return {**asdict(self), "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "MappedLayer":
        """The layer that `to_json` wrote."""
        sized = {key: tuple(fields[key]) for key in ("adc_bits_per_slice", "segments_per_slice")}
        shape = LayerShape(**fields["shape"])
        return cls(
            **{**fields, **sized, "shape": shape, "spec": CrossbarSpec.from_json(fields["spec"])}
        )

    @property
    def adc_bits(self) -> int:
        """ADC resolution of the layer's crossbars: what their worst bitline needs."""
        return max(*self.adc_bits_per_slice, self.unit_line_bits)

    @property
    def tiles(self) -> int:
        """Crossbars that one bitline runs through."""
        return tile_count(self.rows, self.spec)

    @property
    def mask_memory_bits(self) -> int:
        """Bits of memory that its shift mask takes."""
        return self.mask_bits * self.shape.groups * self.tiles * self.outputs

    @property
    def crossbars(self) -> int:
        """Physical crossbars of the layer, all its copies."""
        one = crossbar_count(self.shape.groups, self.rows, self.outputs, self.spec)
        return self.replication * one

    @property
    def passes(self) -> int:
        """Positions that the busiest copy of the layer works through, one after the other."""
        return -(-self.shape.positions // self.replication)

    @property
    def computed_outputs(self) -> int:
        """Outputs per group that one position yields; what pads the last block is dropped."""
        return min(self.outputs * self.rotations, self.shape.outputs)

    @property
    def unit_lines(self) -> int:
        """Unit bitlines of one copy (flipped only): one per group in every crossbar of it."""
        if not self.unit_line_bits:
            return 0
        across = -(-self.outputs // (self.spec.bitlines // self.spec.bitlines_per_output))
        return self.shape.groups * self.tiles * across

    @property
    def conversions(self) -> int:
        """ADC conversions of one inference: used segments x positions x rotations x cycles."""
        lines = sum(self.segments_per_slice) + self.unit_lines
        return lines * self.shape.positions * self.rotations * self.spec.cycle_count

    @property
    def utilisation(self) -> float:
        """Share of the allocated cells that the layer's matrix occupies."""
        if self.crossbars == 0:
            return 0.0
        cells = self.shape.groups * self.rows * self.outputs * self.spec.bitlines_per_output
        return (
            self.replication * cells / (self.crossbars * self.spec.wordlines * self.spec.bitlines)
        )


def tile_count(rows: int, spec: CrossbarSpec) -> int:
    """Tiles of `spec.wordlines` that `rows` inputs are cut into."""
    return -(-rows // spec.wordlines)


def crossbar_count(
    groups: int,
    rows: int,
    outputs: int,
    spec: CrossbarSpec,
    lines_per_output: int | None = None,
) -> int:
    """Crossbars that hold `groups` matrices of `outputs x rows`.

    Args:
        groups: matrices.
        rows: inputs of one matrix.
        outputs: outputs of one matrix.
        spec: the crossbar.
        lines_per_output: bitlines of one output on one crossbar (default: all of them; fewer
            where bit slices lie on crossbars of their own).
    """
    if rows == 0 or outputs == 0:
        return 0
    outputs_per_crossbar = spec.bitlines // (lines_per_output or spec.bitlines_per_output)
    across = -(-outputs // outputs_per_crossbar)
    if rows <= spec.wordlines and across == 1:
        shared = min(spec.wordlines // rows, outputs_per_crossbar // outputs)
        return -(-groups // shared)
    return groups * tile_count(rows, spec) * across


@lru_cache(maxsize=_PLANS)
def plan_layer(
    shape: LayerShape,
    spec: CrossbarSpec,
    *,
    rows: int | None = None,
    outputs: int | None = None,
    nonzeros: int | None = None,
    adc_bits: int | None = None,
    replication: int = 1,
) -> MappedLayer:
    """The layer as planned, before any weight is known: its worst case.

    Args:
        shape: the dense layer.
        spec: its crossbar.
        rows: rows per group kept by structured pruning (default: all).
        outputs: outputs per group kept (default: all).
        nonzeros: most non-zero weights per segment and polarity (default: no bound).
        adc_bits: resolution that every segment's level sums are held to (default: no bound).
        replication: copies of its crossbars, which share its positions.

    Raises:
        MappingError: more kept than there is, a bound below one non-zero, or more copies than
            positions.
    """
    rows = shape.rows if rows is None else rows
    outputs = shape.outputs if outputs is None else outputs
    for what, kept, dense in (("rows", rows, shape.rows), ("outputs", outputs, shape.outputs)):
        if not 0 <= kept <= dense:
            raise MappingError(f"{shape.name}: {kept} {what} kept; allowed: 0 to {dense}")
    for what, least in (("non-zeros per segment", nonzeros), ("ADC bits", adc_bits)):
        if least is not None and least < 1:
            raise MappingError(f"{shape.name}: {least} {what}; allowed: 1 up")
    segment = min(rows, spec.wordlines)
    bound = segment if nonzeros is None else min(nonzeros, segment)
    tiles = tile_count(rows, spec)
    segments = shape.groups * tiles * outputs * spec.polarity_count
    readable = None if adc_bits is None else ((1 << adc_bits) - 1) // spec.digit_limit
    if readable is not None:  # a non-zero weight stores at least one level in some slice
        bound = min(bound, readable * spec.slice_count)
    held = sum(min(bound, min(spec.wordlines, rows - t * spec.wordlines)) for t in range(tiles))
    sums = [
        worst_level_sum(spec, index, segment, bound) if segments else 0
        for index in range(spec.slice_count)
    ]
    kept = min(held * spec.polarity_count, rows) * outputs * shape.groups
    return MappedLayer(
        shape=shape,
        spec=spec,
        rows=rows,
        outputs=outputs,
        adc_bits_per_slice=tuple(
            lossless_adc_bits(min(worst, worst if readable is None else readable), spec.dac_bits)
            for worst in sums
        ),
        segments_per_slice=(segments,) * spec.slice_count,
        nonzeros=kept,
        unit_line_bits=unit_line_bits(spec, segment) if segments else 0,
        replication=replication,
    )


def unit_line_bits(spec: CrossbarSpec, rows: int) -> int:
    """ADC bits of a flipped crossbar's unit bitline, which holds one level per driven wordline."""
    if spec.sign_encoding is not SignEncoding.FLIPPED:
        return 0
    return lossless_adc_bits(rows, spec.dac_bits)


def whole_crossbars(share: float, dense: int, unit: int) -> int:
    """How many of `dense` rows or outputs to keep so that the kept share fills whole crossbars.

    Rounds `share * dense` up to a multiple of `unit` (wordlines, or outputs per crossbar): fewer
    would save no crossbar, so they are kept for nothing lost. Source: hwmodel.geometry's own
    counting; the rounding rule of crossbar-size-aware structured pruning.
    """
    kept = -(-max(1, round(share * dense)) // unit) * unit
    return min(dense, kept)
