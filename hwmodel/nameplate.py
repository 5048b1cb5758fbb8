"""The nameplate of a whole chip: every component busy, every crossbar reading without pause.

Source: ISAAC (ISCA 2016), Table I and its peak-throughput convention.
"""

from collections.abc import Iterable
from dataclasses import replace

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.components import Component, Preset, scale_factor
from hwmodel.cost_report import CostNode, NameplateLevel, PeakReport, quotient
from hwmodel.crossbar import CrossbarSpec
from hwmodel.events import event_counts
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer

__all__ = ["roll_up_peak"]


def roll_up_peak(preset: Preset, law: AdcLaw, adc_bits: int | None = None) -> PeakReport:
    """The preset's own chip with ADCs of `adc_bits` (default: lossless for dense weights).

    Nameplate powers belong to the reference crossbar; on another one they follow the rate of
    their events at full load.

    Raises:
        OutOfRangeError: an ADC that the law refuses.
    """
    spec = preset.crossbar
    bits = _full_load(spec).adc_bits if adc_bits is None else adc_bits
    spread = preset.adc_rate_hz(spec) / preset.adc_rate_hz(preset.reference)
    adc = law.cost(bits, preset.nameplate_adc_rate_hz * spread, preset.node_m)
    return _peak_report(preset, adc, _nameplates(preset, adc))


def _full_load(spec: CrossbarSpec) -> MappedLayer:
    """The dense layer that fills exactly one crossbar."""
    outputs = spec.bitlines // spec.bitlines_per_output
    return plan_layer(LayerShape(name="full", rows=spec.wordlines, outputs=outputs), spec)


def _activity(event: str, spec: CrossbarSpec, preset: Preset) -> float:
    """Events per second of one crossbar that reads without pause, its unit bitline apart.

    Everything is busy: a mask shifts every conversion.
    """
    load = replace(_full_load(spec), unit_line_bits=0, mask_bits=1)
    read_s = spec.cycle_count * preset.cycle_time_s(spec)
    return event_counts(load, preset.output_bits)[event] / read_s


def _nameplates(preset: Preset, adc: AdcCost) -> dict[str, list[CostNode]]:
    """Per level, the components of one IMA ("crossbar" and "ima" together), tile or chip."""
    count = preset.crossbars_per_ima
    converters = CostNode(
        name="adc",
        count=count,
        area_m2=adc.area_m2 * count,
        power_w=adc.power_w * count,
        energy_j=0.0,
    )
    nodes = {"ima": [converters], "tile": [], "chip": []}
    for part in preset.components:
        level = "ima" if part.level == "crossbar" else part.level
        nodes[level].append(_nameplate(part, preset))
    return nodes


def _nameplate(part: Component, preset: Preset) -> CostNode:
    """One component at full load, as many as one IMA, tile or chip holds."""
    spec, base, bits = preset.crossbar, preset.reference, preset.output_bits
    growth = scale_factor(part.scales_with, spec, base, bits)
    busier = growth
    if part.event != "none":
        busier = scale_factor(part.energy_scales_with, spec, base, bits)
        busier *= _activity(part.event, spec, preset) / _activity(part.event, base, preset)
    count = part.count * (preset.crossbars_per_ima if part.level == "crossbar" else 1)
    moving_w = (part.power_w - part.static_power_w) * busier
    return CostNode(
        name=part.name,
        count=count,
        area_m2=count * part.area_m2 * growth,
        power_w=count * (moving_w + part.static_power_w * growth),
        energy_j=0.0,
    )


def _times(nodes: Iterable[CostNode], count: int) -> list[CostNode]:
    """Each leaf `count` times."""
    return [
        replace(
            node,
            count=node.count * count,
            area_m2=node.area_m2 * count,
            power_w=node.power_w * count,
        )
        for node in nodes
    ]


def _peak_report(preset: Preset, adc: AdcCost, nodes: dict[str, list[CostNode]]) -> PeakReport:
    """The roll-up of IMA, tile and chip, and the throughput of all crossbars."""
    spec = preset.crossbar
    ima = CostNode.group("ima", 1, nodes["ima"])
    in_tile = [*_times(nodes["ima"], preset.imas_per_tile), *nodes["tile"]]
    tile = CostNode.group("tile", 1, in_tile)
    tiles = CostNode.group("tiles", preset.tiles, _times(in_tile, preset.tiles))
    chip = CostNode.group("chip", 1, [tiles, *nodes["chip"]])
    load = replace(_full_load(spec), unit_line_bits=0)
    read_s = spec.cycle_count * preset.cycle_time_s(spec)
    ops_per_s = 2 * load.shape.macs / read_s * preset.crossbars
    return PeakReport(
        law=adc.law,
        adc_bits=adc.bits,
        extrapolated=adc.extrapolated,
        ima=_level(ima),
        tile=_level(tile),
        tiles=_level(tiles),
        chip=_level(chip),
        crossbars=preset.crossbars,
        storage_bytes=preset.crossbars * spec.wordlines * spec.bitlines * spec.cell_bits / 8,
        conversions_per_mac=load.conversions / load.shape.macs,
        ops_per_s=ops_per_s,
        ops_per_s_per_w=quotient(ops_per_s, chip.power_w),
        ops_per_s_per_m2=quotient(ops_per_s, chip.area_m2),
        tile_power_shares={node.name: quotient(node.power_w, tile.power_w) for node in in_tile},
        tile_area_shares={node.name: quotient(node.area_m2, tile.area_m2) for node in in_tile},
        tree=chip,
    )


def _level(node: CostNode) -> NameplateLevel:
    """The node's totals."""
    return NameplateLevel(power_w=node.power_w, area_m2=node.area_m2)
