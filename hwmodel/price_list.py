"""What one crossbar of each kind costs, and what a layer uses of it: worked out once, read often.

A `PriceList` holds everything that depends on the crossbar alone, so that pricing a layer takes a
few dozen multiplications. All units are SI.
"""

from typing import NamedTuple

from hwmodel.components import EVENTS, Component, Preset, scale_factor
from hwmodel.crossbar import CrossbarSpec
from hwmodel.events import event_row
from hwmodel.geometry import MappedLayer, crossbar_count

__all__ = ["LayerUse", "PriceList", "Readers", "layer_use", "price_list"]

NO_EVENT = len(EVENTS)
"""Index of an event that never happens, one behind the last of `EVENTS`."""

_NOTHING = (0,) * (NO_EVENT + 1)


class PriceList(NamedTuple):
    """A crossbar's constants and, component by component, its price per crossbar."""

    spec: CrossbarSpec
    outputs_per_crossbar: int
    bitlines_per_output: int
    polarities: int
    slices: int
    cycles: int
    cycle_s: float
    adc_rate_hz: float
    levels: tuple[str, ...]
    names: tuple[str, ...]
    numbers: tuple[float, ...]
    areas_m2: tuple[float, ...]
    statics_w: tuple[float, ...]
    energies_j: tuple[float, ...]
    """Energy of one event."""
    events: tuple[int, ...]
    """Index into `EVENTS`; `NO_EVENT`: none."""
    leaks: bool
    """Whether any component draws power when idle."""


class Readers(NamedTuple):
    """Crossbars of a layer whose ADCs need the same resolution."""

    bits: int
    """What the worst bitline needs; 0: never read."""
    crossbars: int
    conversions: int


class LayerUse(NamedTuple):
    """What one layer takes: crossbars, time, and how often each event happens."""

    crossbars: int
    time_s: float
    """Seconds that the busiest copy takes for its positions of one inference."""
    adc_bits: int
    """What the worst of all bitlines needs, read or not."""
    readers: tuple[Readers, ...]
    """One entry, or one per bit slice where slices lie on crossbars of their own."""
    events: tuple[float, ...]
    """In the order of `EVENTS`, and a last 0 for no event."""


def price_list(spec: CrossbarSpec, preset: Preset) -> PriceList:
    """The prices of one kind of crossbar: of every component, its share of IMA and tile."""
    parts = [part for part in preset.components if part.level != "chip"]
    grown = [
        (
            part.count / _crossbars_per(part, preset),
            scale_factor(part.scales_with, spec, preset.reference, preset.output_bits),
            scale_factor(part.energy_scales_with, spec, preset.reference, preset.output_bits),
        )
        for part in parts
    ]
    pairs = list(zip(parts, grown, strict=True))
    return PriceList(
        spec=spec,
        outputs_per_crossbar=spec.bitlines // spec.bitlines_per_output,
        bitlines_per_output=spec.bitlines_per_output,
        polarities=spec.polarity_count,
        slices=spec.slice_count,
        cycles=spec.cycle_count,
        cycle_s=preset.cycle_time_s(spec),
        adc_rate_hz=preset.adc_rate_hz(spec),
        levels=tuple(part.level for part in parts),
        names=tuple(part.name for part in parts),
        numbers=tuple(number for number, _, _ in grown),
        areas_m2=tuple(n * part.area_m2 * growth for part, (n, growth, _) in pairs),
        statics_w=tuple(n * part.static_power_w * growth for part, (n, growth, _) in pairs),
        energies_j=tuple(part.energy_j * step for part, (_, _, step) in pairs),
        events=tuple(
            NO_EVENT if part.event == "none" else EVENTS.index(part.event) for part in parts
        ),
        leaks=any(part.static_power_w > 0 for part in parts),
    )


def _crossbars_per(part: Component, preset: Preset) -> int:
    """Crossbars that share one of the component's level."""
    return {
        "crossbar": 1,
        "ima": preset.crossbars_per_ima,
        "tile": preset.crossbars_per_tile,
    }[part.level]


def layer_use(
    layer: MappedLayer, prices: PriceList, output_bits: int, *, by_slice: bool = False
) -> LayerUse:
    """What the layer takes; a layer that is never read takes crossbars only.

    Events follow the assumptions of `hwmodel.events`.

    Args:
        layer: the layer.
        prices: the constants of its crossbar.
        output_bits: width of a partial sum.
        by_slice: every bit slice lies on crossbars of its own, each with its own unit bitlines.
    """
    spec, shape, outputs = prices.spec, layer.shape, layer.outputs
    parts = prices.slices if by_slice else 1
    lines = prices.polarities if by_slice else prices.bitlines_per_output
    each = layer.replication * crossbar_count(shape.groups, layer.rows, outputs, spec, lines)
    across = -(-outputs // (spec.bitlines // lines))
    units = shape.groups * layer.tiles * across if layer.unit_line_bits else 0
    reads, bits = shape.positions * layer.rotations * prices.cycles, layer.adc_bits
    if by_slice:
        readers = _slice_readers(layer, each, units, reads)
        conversions = sum(part.conversions for part in readers)
    else:
        conversions = (sum(layer.segments_per_slice) + units) * reads if bits else 0
        readers = (Readers(bits if conversions else 0, each, conversions),)
    if not conversions:
        return LayerUse(each * parts, 0.0, bits, readers, _NOTHING)
    events = event_row(
        layer,
        conversions=conversions,
        across=across * parts,
        cycles=prices.cycles,
        bitlines_per_output=prices.bitlines_per_output,
        output_bits=output_bits,
    )
    time_s = layer.passes * layer.rotations * prices.cycles * prices.cycle_s
    return LayerUse(each * parts, time_s, bits, readers, (*events, 0))


def _slice_readers(layer: MappedLayer, each: int, units: int, reads: int) -> tuple[Readers, ...]:
    """The layer's crossbars slice by slice; a slice that holds nothing is never read."""
    found = []
    pairs = zip(layer.adc_bits_per_slice, layer.segments_per_slice, strict=True)
    for slice_bits, segments in pairs:
        bits = max(slice_bits, layer.unit_line_bits) if segments else 0
        found.append(Readers(bits, each, (segments + units) * reads if bits else 0))
    return tuple(found)
