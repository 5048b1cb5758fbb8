"""What a network on its crossbars costs: crossbar -> IMA -> tile -> chip, rolled up as a tree.

Two conventions, never mixed. *Peak* is the nameplate of a whole chip with everything busy, as
ISAAC reports it. *Workload* prices one inference of given layers: energy is events times energy
per event plus static power times latency, power is energy over latency.

Totals are exact sums of the leaves of the tree (`math.fsum`), so nothing is counted without an
owner. All units are SI.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.components import Component, Preset, event_counts, is_read, scale_factor
from hwmodel.cost_report import (
    CostNode,
    CostReport,
    CostTotals,
    LayerCost,
    Leaf,
    NameplateLevel,
    PeakReport,
    quotient,
    ratio,
)
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError
from hwmodel.geometry import MappedLayer
from hwmodel.nameplate import roll_up_peak

__all__ = [
    "POLICIES",
    "PROVISIONINGS",
    "CostModel",
    "CostNode",
    "CostReport",
    "CostTotals",
    "LayerCost",
    "NameplateLevel",
    "PeakReport",
    "ratio",
]

POLICIES = ("layer", "chip_max")
"""ADCs sized for each layer's own worst bitline, or all for the network's worst."""

PROVISIONINGS = ("share", "whole")
"""A used crossbar carries its share of IMA and tile, or whole IMAs and tiles are built."""

_ADC = "adc"


class _Row(NamedTuple):
    """A component's price per crossbar of one kind."""

    level: str
    name: str
    number: float
    area_m2: float
    static_w: float
    event: str
    energy_j: float


class CostModel:
    """Prices mapped layers, or the whole chip, under one preset, ADC law and policy.

    Args:
        preset: the accelerator.
        law: what an ADC costs.
        policy: one of `POLICIES`.
        provisioning: one of `PROVISIONINGS`; workload mode only.
        include_io: charge the chip's links in workload mode (whole, whatever the provisioning).

    Raises:
        ConfigError: an unknown policy or provisioning.
    """

    def __init__(
        self,
        preset: Preset,
        law: AdcLaw,
        policy: str = "layer",
        provisioning: str = "share",
        include_io: bool = False,
    ) -> None:
        for what, value, allowed in (
            ("ADC policy", policy, POLICIES),
            ("provisioning", provisioning, PROVISIONINGS),
        ):
            if value not in allowed:
                raise ConfigError(f"{what} is {value!r}; allowed: {', '.join(allowed)}")
        self.preset = preset
        self.law = law
        self.policy = policy
        self.provisioning = provisioning
        self.include_io = include_io
        self._rows: dict[CrossbarSpec, tuple[_Row, ...]] = {}
        self._adcs: dict[tuple[int, float], AdcCost] = {}

    def evaluate(self, layers: Sequence[MappedLayer]) -> CostReport:
        """The cost of one inference.

        A position takes `cycle_count` cycles; a layer's positions follow each other, layers too,
        and the pipeline fills once. A layer that is never read takes neither time nor energy, and
        its crossbars carry no ADC.

        Raises:
            OutOfRangeError: an ADC that the law refuses.

        Source: ISAAC (ISCA 2016) for the cycles, the pipeline and one ADC per crossbar.
        """
        times = [self._time_s(layer) for layer in layers]
        cycles = [self.preset.cycle_time_s(x.spec) for x in layers if is_read(x)]
        fill_s = self.preset.pipeline_fill_cycles * max(cycles, default=0.0)
        latency_s = math.fsum(times) + fill_s
        adcs, built = self._converters(layers), self._built(layers)
        events = [event_counts(layer, self.preset.output_bits) for layer in layers]
        leaves = tuple(
            self._leaves(layer.spec, count, adc, counts, latency_s)
            for layer, count, adc, counts in zip(layers, built, adcs, events, strict=True)
        )
        records = tuple(map(_layer_cost, layers, built, adcs, times, leaves))
        chip = self._chip_leaves(events, latency_s)
        return CostReport(
            law=self.law.name,
            policy=self.policy,
            provisioning=self.provisioning,
            extrapolated=any(adc.extrapolated for adc in adcs if adc is not None),
            layers=records,
            totals=_totals(layers, records, (*leaves, chip), latency_s),
            layer_leaves=leaves,
            chip_leaves=chip,
        )

    def peak(self, adc_bits: int | None = None) -> PeakReport:
        """The nameplate of the preset's own chip, ADCs of `adc_bits` (default: lossless, dense).

        Throughput is that of all crossbars reading without pause; the chip includes its links.

        Raises:
            OutOfRangeError: an ADC that the law refuses.

        Source: ISAAC (ISCA 2016), Table I and its peak-throughput convention.
        """
        return roll_up_peak(self.preset, self.law, adc_bits)

    def _time_s(self, layer: MappedLayer) -> float:
        """Seconds that all positions of a layer take."""
        if not is_read(layer):
            return 0.0
        cycle_s = self.preset.cycle_time_s(layer.spec)
        return layer.shape.positions * layer.spec.cycle_count * cycle_s

    def _converters(self, layers: Sequence[MappedLayer]) -> list[AdcCost | None]:
        """The ADC type of every layer under the policy; None for a layer never read."""
        needs = [layer.adc_bits if is_read(layer) else 0 for layer in layers]
        if self.policy == "chip_max":
            largest = max(needs, default=0)
            needs = [largest if need else 0 for need in needs]
        return [
            self._adc(need, layer.spec) if need else None
            for need, layer in zip(needs, layers, strict=True)
        ]

    def _adc(self, bits: int, spec: CrossbarSpec) -> AdcCost:
        """The converter of one crossbar; asked of the law once."""
        key = (bits, self.preset.adc_rate_hz(spec))
        if key not in self._adcs:
            self._adcs[key] = self.law.cost(*key, self.preset.node_m)
        return self._adcs[key]

    def _built(self, layers: Sequence[MappedLayer]) -> list[int]:
        """Crossbars to pay for, per layer; IMAs that fill up the last tile are the last layer's."""
        used = [layer.crossbars for layer in layers]
        if self.provisioning == "share" or not any(used):
            return used
        imas = [-(-count // self.preset.crossbars_per_ima) for count in used]
        last = max(index for index, count in enumerate(imas) if count)
        imas[last] += -sum(imas) % self.preset.imas_per_tile
        return [count * self.preset.crossbars_per_ima for count in imas]

    def _table(self, spec: CrossbarSpec) -> tuple[_Row, ...]:
        """The price list of one kind of crossbar; worked out once."""
        if spec not in self._rows:
            parts = (part for part in self.preset.components if part.level != "chip")
            self._rows[spec] = tuple(_row(part, spec, self.preset) for part in parts)
        return self._rows[spec]

    def _leaves(
        self,
        spec: CrossbarSpec,
        built: int,
        adc: AdcCost | None,
        events: dict[str, float],
        latency_s: float,
    ) -> tuple[Leaf, ...]:
        """The components of one layer: every row of its price list, and its ADCs."""
        leaves = [
            Leaf(
                row.level,
                row.name,
                row.number * built,
                row.area_m2 * built,
                row.energy_j * events.get(row.event, 0.0) + row.static_w * built * latency_s,
            )
            for row in self._table(spec)
        ]
        if adc is not None:
            energy_j = adc.energy_j * events["conversion"]
            leaves.append(Leaf("crossbar", _ADC, built, adc.area_m2 * built, energy_j))
        return tuple(leaves)

    def _chip_leaves(self, events: list[dict[str, float]], latency_s: float) -> tuple[Leaf, ...]:
        """The components of the chip itself, which stand there once."""
        return tuple(
            Leaf(
                "chip",
                part.name,
                part.count,
                part.count * part.area_m2,
                part.energy_j * math.fsum(counts.get(part.event, 0.0) for counts in events)
                + part.count * part.static_power_w * latency_s,
            )
            for part in self.preset.components
            if part.level == "chip" and (self.include_io or not part.io)
        )


def _row(part: Component, spec: CrossbarSpec, preset: Preset) -> _Row:
    """A component's price per crossbar of `spec`: its share of the IMA or tile it sits in."""
    parents = {
        "crossbar": 1,
        "ima": preset.crossbars_per_ima,
        "tile": preset.crossbars_per_tile,
    }
    growth = scale_factor(part.scales_with, spec, preset.reference, preset.output_bits)
    step = scale_factor(part.energy_scales_with, spec, preset.reference, preset.output_bits)
    count = part.count / parents[part.level]
    return _Row(
        level=part.level,
        name=part.name,
        number=count,
        area_m2=count * part.area_m2 * growth,
        static_w=count * part.static_power_w * growth,
        event=part.event,
        energy_j=part.energy_j * step,
    )


def _layer_cost(
    layer: MappedLayer,
    built: int,
    adc: AdcCost | None,
    time_s: float,
    leaves: tuple[Leaf, ...],
) -> LayerCost:
    """The record of one layer."""
    converters = [leaf for leaf in leaves if leaf.name == _ADC]
    return LayerCost(
        name=layer.shape.name,
        crossbars=layer.crossbars,
        wordlines=layer.spec.wordlines,
        bitlines=layer.spec.bitlines,
        adc_bits=layer.adc_bits,
        adc_bits_per_slice=layer.adc_bits_per_slice,
        conversions=layer.conversions if is_read(layer) else 0,
        built_crossbars=built,
        built_adc_bits=0 if adc is None else adc.bits,
        time_s=time_s,
        adc_area_m2=math.fsum(leaf.area_m2 for leaf in converters),
        adc_energy_j=math.fsum(leaf.energy_j for leaf in converters),
        area_m2=math.fsum(leaf.area_m2 for leaf in leaves),
        energy_j=math.fsum(leaf.energy_j for leaf in leaves),
    )


def _totals(
    layers: Sequence[MappedLayer],
    records: tuple[LayerCost, ...],
    leaves: tuple[tuple[Leaf, ...], ...],
    latency_s: float,
) -> CostTotals:
    """The network's totals, from the leaves."""
    area_m2 = math.fsum(leaf.area_m2 for group in leaves for leaf in group)
    energy_j = math.fsum(leaf.energy_j for group in leaves for leaf in group)
    slowest_s = max((record.time_s for record in records), default=0.0)
    ops = 2 * sum(layer.shape.macs for layer in layers)
    ops_per_s = quotient(ops, slowest_s)
    return CostTotals(
        adc_area_m2=math.fsum(record.adc_area_m2 for record in records),
        adc_power_w=quotient(math.fsum(record.adc_energy_j for record in records), latency_s),
        area_m2=area_m2,
        power_w=quotient(energy_j, latency_s),
        energy_j=energy_j,
        latency_s=latency_s,
        ops_per_s=ops_per_s,
        ops_per_s_per_w=quotient(ops, energy_j),
        ops_per_s_per_m2=quotient(ops_per_s, area_m2),
        crossbars=sum(record.crossbars for record in records),
    )
