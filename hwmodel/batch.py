"""Totals of thousands of candidates at once, the same as `CostModel.evaluate` gives one by one.

Nothing loops over crossbars, layers or candidates: prices per kind of crossbar and per ADC
resolution are looked up, everything else is arithmetic on `[candidates, layers]` arrays. Work goes
on in blocks of `BLOCK` candidate-layers, so that it needs at most `WORK_BYTES` (4 MiB) beside the
batch itself (72 bytes per candidate and layer) and its totals (104 bytes per candidate).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodel.accelerator import CostModel
from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.batch_plan import ARRAYS, CandidateBatch, Integers, crossbar_choices
from hwmodel.components import EVENTS
from hwmodel.cost_report import CostTotals
from hwmodel.digital import DigitalArray
from hwmodel.errors import ConfigError
from hwmodel.geometry import LayerShape
from hwmodel.layers import DigitalLayer
from hwmodel.price_list import NO_EVENT, PriceList

__all__ = [
    "BLOCK",
    "WORK_BYTES",
    "BatchCostModel",
    "BatchTotals",
    "CandidateBatch",
    "crossbar_choices",
]

Floats = NDArray[np.float64]
"""float64, `[candidates, layers]` unless said otherwise."""

BLOCK = 1 << 14
"""Candidate-layers worked on at a time: temporaries of 128 KiB stay in the caches."""

WORK_BYTES = 32 * 8 * BLOCK
"""Most that a block's temporaries take: 32 numbers per candidate-layer (measured: 28)."""

_POLICIES = ("layer", "chip_max", "early_stop")
_BITS = MAX_ADC_BITS + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchTotals:
    """`CostTotals` of every candidate: float64 `[candidates]`, in the same SI units."""

    adc_area_m2: Floats
    adc_power_w: Floats
    area_m2: Floats
    power_w: Floats
    energy_j: Floats
    latency_s: Floats
    ops_per_s: Floats
    ops_per_s_per_w: Floats
    ops_per_s_per_m2: Floats
    crossbars: Floats
    effective_ops_per_s: Floats
    effective_ops_per_s_per_w: Floats
    effective_ops_per_s_per_m2: Floats

    def __getitem__(self, index: int) -> CostTotals:
        """The totals of one candidate."""
        plain = {name: getattr(self, name)[index].item() for name in self.__dataclass_fields__}
        return CostTotals(**{**plain, "crossbars": int(plain["crossbars"])})


class _Tables(NamedTuple):
    """Prices by kind of crossbar; each `[specs]` but for the two that say otherwise."""

    wordlines: Integers
    outputs_per_crossbar: Integers
    bitlines_per_output: Floats
    cycles: Floats
    cycle_s: Floats
    input_bytes: Floats
    area_m2: Floats
    static_w: Floats
    energies_j: Floats
    """`[EVENTS, specs]`"""


class _Use(NamedTuple):
    """What the layers of a block take."""

    crossbars: Floats
    read: NDArray[np.bool_]
    time_s: Floats
    events: tuple[Floats, ...]


class _Sums(NamedTuple):
    """A block summed over layers, each `[candidates]`."""

    adc_area_m2: Floats
    adc_energy_j: Floats
    area_m2: Floats
    energy_j: Floats
    latency_s: Floats
    slowest_s: Floats
    crossbars: Floats


class BatchCostModel:
    """A `CostModel` over arrays of candidates.

    Args:
        model: preset, law, provisioning and policy, one of layer, chip_max and early_stop.

    Raises:
        ConfigError: a policy that needs more than a layer's worst resolution, or a replication that
            the model would choose for each candidate.
    """

    def __init__(self, model: CostModel) -> None:
        if model.policy not in _POLICIES:
            allowed = ", ".join(_POLICIES)
            raise ConfigError(f"ADC policy of a batch is {model.policy!r}; allowed: {allowed}")
        if model.replication != 1:
            raise ConfigError(
                f"replication of a batch is {model.replication!r}; allowed: 1, copies are in it"
            )
        self.model = model

    def evaluate(self, batch: CandidateBatch, digital: Sequence[DigitalLayer] = ()) -> BatchTotals:
        """The totals of every candidate, equal to `CostModel.evaluate`'s up to rounding.

        Args:
            batch: the candidates.
            digital: layers that lie on no crossbar, the same for every candidate.

        Raises:
            OutOfRangeError: an ADC that the law refuses, in any candidate.
        """
        lists = [self.model.prices(spec) for spec in batch.specs]
        adcs = _AdcTable(self.model, lists)
        tables = _tables(lists)
        array = self.model.digital_array(digital)
        names = [field.name for field in fields(BatchTotals)]
        totals = np.zeros((len(names), len(batch)))
        step = max(1, BLOCK // max(1, len(batch.shapes)))
        for start in range(0, len(batch), step):
            part = {name: getattr(batch, name)[start : start + step] for name in ARRAYS}
            totals[:, start : start + step] = self._block(batch.shapes, part, tables, adcs, array)
        return BatchTotals(**dict(zip(names, totals, strict=True)))

    def _block(
        self,
        shapes: tuple[LayerShape, ...],
        part: dict[str, Integers],
        tables: _Tables,
        adcs: "_AdcTable",
        array: DigitalArray,
    ) -> Floats:
        """The totals of some candidates, `[totals, candidates]`."""
        spec = part["spec"]
        use = _use(shapes, part, tables, self.model.preset.output_bits)
        fill_s = self.model.preset.pipeline_fill_cycles * (tables.cycle_s[spec] * use.read)
        latency_s = use.time_s.sum(1) + fill_s.max(1, initial=0.0) + array.time_s
        built = self._built(use.crossbars)
        area_m2, conversion_j = adcs.look_up(spec, part["adc_bits"] * use.read)
        adc_area_m2 = (area_m2 * built).sum(1)
        adc_energy_j = (conversion_j * use.events[0]).sum(1)
        chip_m2, chip_j = self._chip(use, latency_s)
        static_j = (tables.static_w[spec] * built).sum(1) * latency_s
        sums = _Sums(
            adc_area_m2=adc_area_m2,
            adc_energy_j=adc_energy_j,
            area_m2=(tables.area_m2[spec] * built).sum(1) + adc_area_m2 + chip_m2 + array.area_m2,
            energy_j=_dynamic_j(spec, use, tables)
            + static_j
            + adc_energy_j
            + chip_j
            + array.energy_j,
            latency_s=latency_s,
            slowest_s=use.time_s.max(1, initial=array.time_s),
            crossbars=use.crossbars.sum(1),
        )
        return _columns(shapes, part["nonzeros"], sums, 2.0 * array.macs)

    def _built(self, used: Floats) -> Floats:
        """Crossbars to pay for; IMAs that fill up the last tile are the last layer's."""
        preset = self.model.preset
        if self.model.provisioning == "share" or not used.size:
            return used
        imas = np.ceil(used / preset.crossbars_per_ima)
        last = imas.shape[1] - 1 - np.argmax(imas[:, ::-1] > 0, axis=1)
        imas[np.arange(len(imas)), last] += -imas.sum(1) % preset.imas_per_tile
        return imas * preset.crossbars_per_ima

    def _chip(self, use: _Use, latency_s: Floats) -> tuple[float, Floats]:
        """Area and energy of the components that stand on the chip once."""
        area_m2, energy_j = 0.0, np.zeros_like(latency_s)
        for part in self.model.preset.components:
            if part.level == "chip" and (self.model.include_io or not part.io):
                area_m2 += part.count * part.area_m2
                energy_j += part.count * part.static_power_w * latency_s
                if part.event != "none":
                    energy_j += part.energy_j * use.events[EVENTS.index(part.event)].sum(1)
        return area_m2, energy_j


class _AdcTable:
    """Converters by kind of crossbar and resolution, asked of the law once each."""

    def __init__(self, model: CostModel, lists: list[PriceList]) -> None:
        self._model = model
        self._rates = [prices.adc_rate_hz for prices in lists]
        self._known = np.zeros(len(lists) * _BITS, dtype=bool)
        self._known[::_BITS] = True
        self._area_m2 = np.zeros(len(lists) * _BITS)
        self._energy_j = np.zeros(len(lists) * _BITS)
        self._share = np.zeros(len(lists) * _BITS)

    def look_up(self, spec: Integers, needs: Integers) -> tuple[Floats, Floats]:
        """Area of a converter and energy of a conversion under the policy; 0 for 0 bits.

        Raises:
            OutOfRangeError: an ADC that the law refuses.
        """
        built = needs
        if self._model.policy != "layer":
            built = needs.max(1, initial=0)[:, None] * (needs > 0)
        key = spec * _BITS + built
        self._fill(np.flatnonzero(np.bincount(key.ravel(), minlength=len(self._known))))
        energy_j = self._energy_j[key]
        if self._model.policy == "early_stop":
            spared = 1 - needs / np.maximum(built, 1)
            energy_j = energy_j * (1 - self._share[key] * spared)
        return self._area_m2[key], energy_j

    def _fill(self, keys: NDArray[np.intp]) -> None:
        """Asks the law for the converters that are not known yet."""
        for key in keys[~self._known[keys]]:
            spec, bits = divmod(int(key), _BITS)
            adc = self._model.adc(bits, self._rates[spec])
            self._area_m2[key], self._energy_j[key] = adc.area_m2, adc.energy_j
            if self._model.policy == "early_stop" and bits > 1 and adc.energy_j > 0:
                least_j = self._model.conversion_j(adc, 1)
                self._share[key] = (1 - least_j / adc.energy_j) / (1 - 1 / bits)
            self._known[key] = True


def _tables(lists: list[PriceList]) -> _Tables:
    """The price lists as arrays, summed over components."""
    energies = np.zeros((NO_EVENT + 1, len(lists)))
    for index, prices in enumerate(lists):
        np.add.at(energies[:, index], list(prices.events), list(prices.energies_j))
    specs = [prices.spec for prices in lists]
    return _Tables(
        wordlines=np.array([spec.wordlines for spec in specs], dtype=np.int64),
        outputs_per_crossbar=np.array([x.outputs_per_crossbar for x in lists], dtype=np.int64),
        bitlines_per_output=np.array([float(x.bitlines_per_output) for x in lists]),
        cycles=np.array([float(x.cycles) for x in lists]),
        cycle_s=np.array([x.cycle_s for x in lists]),
        input_bytes=np.array([spec.input_bits / 8 for spec in specs]),
        area_m2=np.array([sum(x.areas_m2) for x in lists]),
        static_w=np.array([sum(x.statics_w) for x in lists]),
        energies_j=energies[:NO_EVENT],
    )


def _dynamic_j(spec: Integers, use: _Use, tables: _Tables) -> Floats:
    """Energy of all events but the ADCs' own, `[candidates]`."""
    found = np.zeros(len(spec))
    for prices, count in zip(tables.energies_j, use.events, strict=True):
        if prices.any():
            found += (prices[spec] * count).sum(1)
    return found


def _columns(
    shapes: tuple[LayerShape, ...], nonzeros: Integers, sums: _Sums, digital_ops: float
) -> Floats:
    """The fields of `BatchTotals` in their order, `[totals, candidates]`."""
    positions = np.array([float(shape.positions) for shape in shapes])
    ops = np.full(len(nonzeros), 2.0 * sum(shape.macs for shape in shapes) + digital_ops)
    effective = 2.0 * (nonzeros * positions).sum(1) + digital_ops
    per_s = _quotient(1.0, sums.slowest_s)
    return np.stack(
        [
            sums.adc_area_m2,
            _quotient(sums.adc_energy_j, sums.latency_s),
            sums.area_m2,
            _quotient(sums.energy_j, sums.latency_s),
            sums.energy_j,
            sums.latency_s,
            ops * per_s,
            _quotient(ops, sums.energy_j),
            _quotient(ops * per_s, sums.area_m2),
            sums.crossbars,
            effective * per_s,
            _quotient(effective, sums.energy_j),
            _quotient(effective * per_s, sums.area_m2),
        ]
    )


def _use(
    shapes: tuple[LayerShape, ...], part: dict[str, Integers], tables: _Tables, output_bits: int
) -> _Use:
    """Crossbars, times and events; the array form of `price_list.layer_use`."""
    spec, rows, outputs = part["spec"], part["rows"], part["outputs"]
    groups = np.array([shape.groups for shape in shapes], dtype=np.int64)
    positions = np.array([shape.positions for shape in shapes], dtype=np.int64)
    cycles, value_bytes = tables.cycles[spec], tables.input_bytes[spec]
    tall, wide = tables.wordlines[spec], tables.outputs_per_crossbar[spec]
    tiles, across = -(-rows // tall), -(-outputs // wide)
    crossbars = part["replication"] * _crossbars(groups, rows, outputs, tiles, across, tall, wide)
    units = groups * tiles * across * (part["unit_line_bits"] > 0)
    lines = part["segments"] + units
    read = (part["adc_bits"] > 0) & (lines > 0)
    reads = positions * part["rotations"] * cycles * read
    inputs = groups * np.minimum(rows, [shape.rows for shape in shapes])
    computed = np.minimum(outputs * part["rotations"], [shape.outputs for shape in shapes])
    values = groups * computed * positions * read
    fetched = inputs * positions * value_bytes * read
    written = values * value_bytes
    partial = values * tiles * (output_bits / 8)
    line_cycles = inputs * reads
    events = (
        lines * reads,
        line_cycles * across,
        line_cycles * outputs * tables.bitlines_per_output[spec],
        fetched * across,
        partial,
        fetched + written,
        fetched + partial,
        written,
        values.astype(np.float64),
        np.zeros(values.shape),  # a batch has no shift masks
    )
    passes = -(-positions // part["replication"])
    time_s = passes * part["rotations"] * cycles * tables.cycle_s[spec] * read
    return _Use(crossbars.astype(np.float64), read, time_s, events)


def _crossbars(
    groups: Integers,
    rows: Integers,
    outputs: Integers,
    tiles: Integers,
    across: Integers,
    tall: Integers,
    wide: Integers,
) -> Integers:
    """Crossbars of one copy; the array form of `geometry.crossbar_count`."""
    count = groups * tiles * across
    if (groups > 1).any():
        shared = np.minimum(tall // np.maximum(rows, 1), wide // np.maximum(outputs, 1))
        packed = -(-groups // np.maximum(shared, 1))
        count = np.where((tiles == 1) & (across == 1), packed, count)
    return count


def _quotient(above: Floats | float, below: Floats) -> Floats:
    """The quotient, or 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
