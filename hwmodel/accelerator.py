"""What a network on its crossbars costs: crossbar -> IMA -> tile -> chip, rolled up as a tree.

Two conventions, never mixed. *Peak* is the nameplate of a whole chip with everything busy, as
ISAAC reports it. *Workload* prices one inference of given layers: energy is events times energy
per event plus static power times latency, power is energy over latency.

Totals are exact sums of the leaves of the tree (`math.fsum`), so nothing is counted without an
owner. All units are SI.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.components import EVENTS, Preset
from hwmodel.cost_report import (
    CostNode,
    CostReport,
    CostTotals,
    LayerCost,
    LayerLeaves,
    NameplateLevel,
    PeakReport,
    quotient,
    ratio,
)
from hwmodel.crossbar import CrossbarSpec
from hwmodel.digital import DigitalArray
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.geometry import MappedLayer
from hwmodel.layers import AnyLayer, DigitalLayer, split_layers
from hwmodel.nameplate import roll_up_peak
from hwmodel.pipeline import balance_pipeline
from hwmodel.policies import POLICIES, assign_types, linear_share, read_policy
from hwmodel.price_list import LayerUse, PriceList, Readers, layer_use, price_list

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

PROVISIONINGS = ("share", "whole")
"""A used crossbar carries its share of IMA and tile, or whole IMAs and tiles are built."""

_ADC = "adc"


class _Converter(NamedTuple):
    """The ADC type of some crossbars of a layer."""

    adc: AdcCost
    energy_j: float
    """Of one conversion: less than the type's own where it stops early."""


class CostModel:
    """Prices mapped layers, or the whole chip, under one preset, ADC law and policy.

    Args:
        preset: the accelerator.
        law: what an ADC costs.
        policy: one of `POLICIES`, or `tile_types:K` with another K (see `hwmodel.policies`).
        provisioning: one of `PROVISIONINGS`; workload mode only.
        include_io: charge the chip's links in workload mode (whole, whatever the provisioning).
        replication: workload mode only; crossbars that a network may fill with copies of its
            slow layers, as a multiple of its own (1: no copies). Layers that come with copies keep
            them where it is 1.

    Raises:
        ConfigError: an unknown policy or provisioning, or a replication below 1.
    """

    def __init__(
        self,
        preset: Preset,
        law: AdcLaw,
        policy: str = "layer",
        provisioning: str = "share",
        include_io: bool = False,
        replication: float = 1.0,
    ) -> None:
        if not 1 <= replication < math.inf:
            raise ConfigError(f"replication is {replication!r}; allowed: a finite number, 1 up")
        if provisioning not in PROVISIONINGS:
            allowed = ", ".join(PROVISIONINGS)
            raise ConfigError(f"provisioning is {provisioning!r}; allowed: {allowed}")
        self._policy = read_policy(policy)
        self.preset = preset
        self.law = law
        self.policy = policy
        self.provisioning = provisioning
        self.include_io = include_io
        self.replication = replication
        self._prices: dict[CrossbarSpec, PriceList] = {}
        self._adcs: dict[tuple[int, float], AdcCost] = {}
        self._shares: dict[AdcCost, float] = {}

    def evaluate(self, layers: Sequence[AnyLayer]) -> CostReport:
        """The cost of one inference.

        A position takes `cycle_count` cycles; a layer's positions follow each other (copies of
        it work side by side), layers too, and the pipeline fills once. A layer that is never read
        takes neither time nor energy, and its crossbars carry no ADC. Digital layers follow each
        other on the preset's one MAC array, which is there only where some layer needs it.

        Raises:
            OutOfRangeError: an ADC that the law refuses.

        Source: ISAAC (ISCA 2016) for the cycles, the pipeline and one ADC per crossbar.
        """
        mapped, digital = split_layers(layers)
        if self.replication > 1:
            own = sum(replace(layer, replication=1).crossbars for layer in mapped)
            mapped = balance_pipeline(mapped, self.preset, int(self.replication * own))
        prices = self._price_lists(mapped)
        bits, by_slice = self.preset.output_bits, self._policy.by_slice
        uses = [
            layer_use(layer, prices[id(layer.spec)], bits, by_slice=by_slice) for layer in mapped
        ]
        lists = [prices[id(layer.spec)] for layer in mapped]
        names = [layer.shape.name for layer in mapped]
        adcs = self._converters(uses, lists, names)
        built = self._built(uses, adcs)
        cycles = [x.cycle_s for x, use in zip(lists, uses, strict=True) if use.time_s]
        fill_s = self.preset.pipeline_fill_cycles * max(cycles, default=0.0)
        array = self.digital_array(digital)
        latency_s = math.fsum([*(use.time_s for use in uses), array.time_s]) + fill_s
        leaves = tuple(
            _leaves(x, use, number, types, latency_s)
            for x, use, number, types in zip(lists, uses, built, adcs, strict=True)
        )
        records = tuple(map(_layer_cost, mapped, lists, uses, built, adcs, leaves))
        chip = self._chip_leaves(uses, latency_s)
        array_leaves = _array_leaves(array)
        return CostReport(
            law=self.law.name,
            policy=self.policy,
            provisioning=self.provisioning,
            extrapolated=any(x.adc.extrapolated for types in adcs for x in types if x),
            layers=records,
            totals=_totals(mapped, array, records, (*leaves, chip, array_leaves), latency_s),
            chip=chip,
            digital=tuple(digital),
            array=array_leaves,
        )

    def peak(self, adc_bits: int | None = None) -> PeakReport:
        """The nameplate of the preset's own chip, ADCs of `adc_bits` (default: lossless, dense).

        Throughput is that of all crossbars reading without pause; the chip includes its links.

        Raises:
            OutOfRangeError: an ADC that the law refuses.

        Source: ISAAC (ISCA 2016), Table I and its peak-throughput convention.
        """
        return roll_up_peak(self.preset, self.law, adc_bits)

    def under(self, *, law: AdcLaw | None = None, policy: str | None = None) -> "CostModel":
        """The same model with another law or policy.

        Raises:
            ConfigError: an unknown policy.
        """
        return CostModel(
            self.preset,
            law or self.law,
            policy or self.policy,
            self.provisioning,
            self.include_io,
            self.replication,
        )

    def digital_array(self, layers: Sequence[DigitalLayer]) -> DigitalArray:
        """What the layers that lie on no crossbar take."""
        return self.preset.digital.array(layers)

    def prices(self, spec: CrossbarSpec) -> PriceList:
        """The price list of one kind of crossbar; worked out once."""
        if spec not in self._prices:
            self._prices[spec] = price_list(spec, self.preset)
        return self._prices[spec]

    def adc(self, bits: int, rate_hz: float) -> AdcCost:
        """The converter of `bits` at a rate, at the preset's node; asked of the law once.

        Raises:
            OutOfRangeError: an ADC that the law refuses.
        """
        key = (bits, rate_hz)
        if key not in self._adcs:
            self._adcs[key] = self.law.cost(*key, self.preset.node_m)
        return self._adcs[key]

    def conversion_j(self, adc: AdcCost, need: int) -> float:
        """Energy of one conversion of a layer that needs `need` bits, under the policy.

        Raises:
            OutOfRangeError: a law that refuses the bit more that an early stop asks for.
        """
        if not self._policy.stops_early or need == adc.bits:
            return adc.energy_j
        if adc not in self._shares:
            self._shares[adc] = linear_share(self.law, adc)
        return adc.energy_j * (1 - self._shares[adc] * (1 - need / adc.bits))

    def _price_lists(self, layers: Sequence[MappedLayer]) -> dict[int, PriceList]:
        """The price lists by the identity of each layer's spec: hashing a spec is slow."""
        return {
            key: self.prices(spec) for key, spec in {id(x.spec): x.spec for x in layers}.items()
        }

    def _converters(
        self, uses: list[LayerUse], lists: list[PriceList], names: list[str]
    ) -> list[tuple[_Converter | None, ...]]:
        """The ADC types of every layer under the policy, one per entry of its readers.

        Raises:
            OutOfRangeError: naming the layer whose ADC the law refuses.
        """
        rates = [prices.adc_rate_hz for prices in lists]
        needs = [max(use.readers).bits for use in uses]
        built = assign_types(
            needs,
            self._policy.types,
            lambda i, bits: uses[i].crossbars * self._adc_of(names[i], bits, rates[i]).area_m2,
        )
        sized = zip(names, uses, built, rates, strict=True)
        by_slice = self._policy.by_slice
        return [
            tuple(
                self._converter(name, part, part.bits if by_slice else bits, rate)
                for part in use.readers
            )
            for name, use, bits, rate in sized
        ]

    def _converter(self, name: str, part: Readers, bits: int, rate_hz: float) -> _Converter | None:
        """The ADC type of some crossbars of a layer; None: never read."""
        if not part.bits:
            return None
        adc = self._adc_of(name, bits, rate_hz)
        return _Converter(adc, self.conversion_j(adc, part.bits))

    def _adc_of(self, name: str, bits: int, rate_hz: float) -> AdcCost:
        """`adc`, whose refusal names the layer that asks."""
        try:
            return self.adc(bits, rate_hz)
        except OutOfRangeError as error:
            raise OutOfRangeError(f"{name}: {error}") from None

    def _built(self, uses: list[LayerUse], adcs: list[tuple[_Converter | None, ...]]) -> list[int]:
        """Crossbars to pay for, per layer.

        IMAs that fill up the last tile are the last layer's. Where the policy has tile types, a
        tile holds one of them, so that each type fills up its own last tile.
        """
        used = [use.crossbars for use in uses]
        if self.provisioning == "share" or not any(used):
            return used
        imas = [-(-count // self.preset.crossbars_per_ima) for count in used]
        by_type = self._policy.types is not None
        last: dict[int, int] = {}
        total: dict[int, int] = {}
        largest = max((x.adc.bits for types in adcs for x in types if x), default=0)
        for index, (count, types) in enumerate(zip(imas, adcs, strict=True)):
            # Crossbars that are never read go into tiles of the largest type.
            kind = types[0].adc.bits if by_type and types[0] else largest
            if count:
                last[kind] = index
                total[kind] = total.get(kind, 0) + count
        for kind, index in last.items():
            imas[index] += -total[kind] % self.preset.imas_per_tile
        return [count * self.preset.crossbars_per_ima for count in imas]

    def _chip_leaves(self, uses: list[LayerUse], latency_s: float) -> LayerLeaves:
        """The components of the chip itself, which stand there once."""
        parts = [
            part
            for part in self.preset.components
            if part.level == "chip" and (self.include_io or not part.io)
        ]
        happened = [
            math.fsum(use.events[EVENTS.index(part.event)] for use in uses)
            if part.event != "none"
            else 0.0
            for part in parts
        ]
        pairs = list(zip(parts, happened, strict=True))
        return LayerLeaves(
            levels=("chip",) * len(parts),
            names=tuple(part.name for part in parts),
            numbers=tuple(part.count for part in parts),
            areas_m2=tuple(part.count * part.area_m2 for part in parts),
            energies_j=tuple(
                part.energy_j * count + part.count * part.static_power_w * latency_s
                for part, count in pairs
            ),
        )


def _array_leaves(array: DigitalArray) -> LayerLeaves:
    """The digital MAC array and its weight memory; nothing where no layer needs them."""
    if not array.units:
        return LayerLeaves((), (), (), (), ())
    return LayerLeaves(
        levels=("digital", "digital"),
        names=("digital_mac", "digital_weights"),
        numbers=(array.units, array.weights),
        areas_m2=(array.mac_area_m2, array.weight_area_m2),
        energies_j=(array.mac_energy_j, array.weight_energy_j),
    )


def _leaves(
    prices: PriceList,
    use: LayerUse,
    built: int,
    adcs: tuple[_Converter | None, ...],
    latency_s: float,
) -> LayerLeaves:
    """The components of one layer: every row of its price list, and its ADCs.

    Crossbars built beyond those in use carry the ADCs of the layer's largest type.
    """
    numbers, areas_m2, energies_j = _adc_columns(use, built, adcs)
    extra = len(numbers)
    return LayerLeaves(
        levels=prices.levels + ("crossbar",) * extra,
        names=prices.names + (_ADC,) * extra,
        numbers=(*[number * built for number in prices.numbers], *numbers),
        areas_m2=(*[area_m2 * built for area_m2 in prices.areas_m2], *areas_m2),
        energies_j=(*_energies(prices, use.events, built * latency_s), *energies_j),
        adc_count=extra,
    )


def _adc_columns(
    use: LayerUse, built: int, adcs: tuple[_Converter | None, ...]
) -> tuple[list[float], list[float], list[float]]:
    """Number, area and energy of each ADC type of a layer."""
    if len(adcs) == 1:
        only = adcs[0]
        if only is None:
            return [], [], []
        energy_j = only.energy_j * use.readers[0].conversions
        return [built], [only.adc.area_m2 * built], [energy_j]
    types = [(part, x) for part, x in zip(use.readers, adcs, strict=True) if x is not None]
    numbers: list[float] = [part.crossbars for part, _ in types]
    if types and built > use.crossbars:
        widest = max(range(len(types)), key=lambda i: types[i][1].adc.bits)
        numbers[widest] += built - use.crossbars
    areas_m2 = [x.adc.area_m2 * number for (_, x), number in zip(types, numbers, strict=True)]
    return numbers, areas_m2, [x.energy_j * part.conversions for part, x in types]


def _energies(prices: PriceList, events: tuple[float, ...], stood_s: float) -> list[float]:
    """Energy of each row of the price list; `stood_s` is crossbars times latency."""
    pairs = zip(prices.energies_j, prices.events, strict=True)
    if not prices.leaks:
        return [energy_j * events[event] for energy_j, event in pairs]
    return [
        energy_j * events[event] + static_w * stood_s
        for (energy_j, event), static_w in zip(pairs, prices.statics_w, strict=True)
    ]


def _layer_cost(
    layer: MappedLayer,
    prices: PriceList,
    use: LayerUse,
    built: int,
    adcs: tuple[_Converter | None, ...],
    leaves: LayerLeaves,
) -> LayerCost:
    """The record of one layer."""
    spec = layer.spec
    return LayerCost(
        name=layer.shape.name,
        crossbars=use.crossbars,
        wordlines=spec.wordlines,
        bitlines=spec.bitlines,
        adc_bits=use.adc_bits,
        adc_bits_per_slice=layer.adc_bits_per_slice,
        conversions=int(use.events[0]),
        replication=layer.replication,
        utilisation=_utilisation(layer, use, prices.bitlines_per_output),
        built_crossbars=built,
        built_adc_bits=max((x.adc.bits for x in adcs if x), default=0),
        time_s=use.time_s,
        leaves=leaves,
    )


def _utilisation(layer: MappedLayer, use: LayerUse, bitlines_per_output: int) -> float:
    """Share of the layer's cells, all copies, that its matrix occupies."""
    cells = layer.shape.groups * layer.rows * layer.outputs * bitlines_per_output
    room = use.crossbars * layer.spec.wordlines * layer.spec.bitlines
    return quotient(layer.replication * cells, room)


def _totals(
    layers: Sequence[MappedLayer],
    array: DigitalArray,
    records: tuple[LayerCost, ...],
    leaves: tuple[LayerLeaves, ...],
    latency_s: float,
) -> CostTotals:
    """The network's totals, from the leaves."""
    area_m2 = math.fsum(chain.from_iterable(group.areas_m2 for group in leaves))
    energy_j = math.fsum(chain.from_iterable(group.energies_j for group in leaves))
    adc_energy_j = math.fsum(chain.from_iterable(group.adc_energies_j for group in leaves))
    per_s = quotient(1.0, max([array.time_s, *(record.time_s for record in records)]))
    ops = 2 * (array.macs + sum(layer.shape.macs for layer in layers))
    effective = 2 * (array.macs + sum(x.nonzeros * x.shape.positions for x in layers))
    return CostTotals(
        adc_area_m2=math.fsum(chain.from_iterable(group.adc_areas_m2 for group in leaves)),
        adc_power_w=quotient(adc_energy_j, latency_s),
        area_m2=area_m2,
        power_w=quotient(energy_j, latency_s),
        energy_j=energy_j,
        latency_s=latency_s,
        ops_per_s=ops * per_s,
        ops_per_s_per_w=quotient(ops, energy_j),
        ops_per_s_per_m2=quotient(ops * per_s, area_m2),
        crossbars=sum(record.crossbars for record in records),
        effective_ops_per_s=effective * per_s,
        effective_ops_per_s_per_w=quotient(effective, energy_j),
        effective_ops_per_s_per_m2=quotient(effective * per_s, area_m2),
    )
