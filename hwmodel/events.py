"""How often a layer makes each kind of event happen in one inference.

Inputs leave the buffer once per position (im2col, no reuse between positions) and one transfer on
the bus serves all crossbars side by side; each of these keeps its own copy in its register. Each
crossbar returns its own partial sums; finished outputs are as wide as inputs and cross one router.
Every cell of the layer's matrix counts in a cycle, be it zero or not, cells outside it do not.
Copies of a layer share its positions, so that they change no count. The rotated inputs of a
circulant layer come out of its register, so that they are fetched once; turning them costs nothing
here. A layer with a shift mask shifts every conversion once. All of this is assumed; conversions
are exact.
"""

from hwmodel.components import EVENTS
from hwmodel.geometry import MappedLayer, tile_count

__all__ = ["event_counts", "event_row", "is_read"]


def is_read(layer: MappedLayer) -> bool:
    """Whether the layer's crossbars are ever read: not when nothing in them can conduct."""
    return layer.adc_bits > 0 and layer.conversions > 0


def event_counts(layer: MappedLayer, output_bits: int) -> dict[str, float]:
    """How often each of `EVENTS` happens; all zero for a layer never read.

    Args:
        layer: the layer.
        output_bits: width of a partial sum.
    """
    if not is_read(layer):
        return dict.fromkeys(EVENTS, 0.0)
    spec = layer.spec
    row = event_row(
        layer,
        conversions=layer.conversions,
        across=-(-layer.outputs // (spec.bitlines // spec.bitlines_per_output)),
        cycles=spec.cycle_count,
        bitlines_per_output=spec.bitlines_per_output,
        output_bits=output_bits,
    )
    return dict(zip(EVENTS, row, strict=True))


def event_row(
    layer: MappedLayer,
    *,
    conversions: int,
    across: int,
    cycles: int,
    bitlines_per_output: int,
    output_bits: int,
) -> tuple[float, ...]:
    """The counts of a layer that is read, in the order of `EVENTS`.

    Args:
        layer: the layer.
        conversions: its ADC conversions.
        across: crossbars side by side that take the same inputs.
        cycles: input cycles of one read.
        bitlines_per_output: bitlines of one output, all its crossbars together.
        output_bits: width of a partial sum.
    """
    shape, positions = layer.shape, layer.shape.positions
    inputs = shape.groups * min(layer.rows, shape.rows)
    values = shape.groups * layer.computed_outputs * positions
    line_cycles = inputs * positions * layer.rotations * cycles
    fetched = inputs * positions * layer.spec.input_bits / 8
    written = values * layer.spec.input_bits / 8
    partial = values * tile_count(layer.rows, layer.spec) * output_bits / 8
    return (
        conversions,
        line_cycles * across,
        line_cycles * layer.outputs * bitlines_per_output,
        fetched * across,
        partial,
        fetched + written,
        fetched + partial,
        written,
        values,
        conversions if layer.mask_bits else 0,
    )
