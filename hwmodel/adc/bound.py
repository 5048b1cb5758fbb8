"""The floor under every ADC law: thermal noise, and the best converters ever published.

A law below the thermal part contradicts physics. A law below the survey's envelope promises a
converter better than any published one, which is worth knowing but no contradiction.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, AdcLaw, check_converter

__all__ = ["BoundLaw", "FloorCheck", "check_floor", "envelope_j", "thermal_j"]

_BOLTZMANN_J_PER_K = 1.380649e-23
_TEMPERATURE_K = 300.0

_SCHREIER_BEST_DB = 186.4
_SCHREIER_AT_1_HZ_DB = 263.7
"""Best Schreier figure of merit, and its 10 dB a decade beyond 53 MHz (fitted)."""

_WALDEN_BEST_J = 0.669e-15
_WALDEN_PER_HZ_J = 5.48e-10 * 1e-15
"""Best Walden figure of merit, joules a step, and its growth beyond 1.22 GHz (fitted)."""


def _snr(bits: int) -> float:
    """Power ratio of a full-scale sine to the quantisation noise of an ideal converter."""
    return 1.5 * 4.0**bits


def thermal_j(bits: int) -> float:
    """The least energy of a conversion, joules, that thermal noise at 300 K leaves room for.

    `8 k T SNR` with `SNR = 1.5 4^N`: 3.3 fJ at 8 bits.

    Source: class-B limit of a sampled signal as used in B. Murmann's survey of ADCs.
    """
    return 8 * _BOLTZMANN_J_PER_K * _TEMPERATURE_K * _snr(bits)


def envelope_j(bits: int, rate_hz: float) -> float:
    """The least energy of a conversion, joules, that the best published converters suggest.

    No published converter beats either figure of merit, so that the larger energy holds.

    Source: B. Murmann's ADC performance survey (rev. 2025-06-09, BSD-3) by its author's recipe,
    mean of the best five and 10 dB a decade beyond a corner. Schreier: 53 MHz; Walden: 1.22 GHz.
    """
    schreier_db = min(_SCHREIER_BEST_DB, _SCHREIER_AT_1_HZ_DB - 10 * math.log10(rate_hz))
    schreier_j = 0.5 * _snr(bits) * 10 ** (-schreier_db / 10)
    walden_j = max(_WALDEN_BEST_J, _WALDEN_PER_HZ_J * rate_hz) * 2.0**bits
    return max(schreier_j, walden_j)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundLaw:
    """The larger of thermal limit and survey envelope; a floor, not a converter.

    Its area is 0, since no floor of the area is known. Hence it prices no accelerator and is not
    among the laws that a name selects.

    Source: see `thermal_j` and `envelope_j`.
    """

    name: str = "bound"
    source: str = (
        "floor: 8kT SNR at 300 K, and the best of Murmann's ADC survey 1997-2025 "
        "(Schreier and Walden figures of merit)"
    )

    @property
    def validity(self) -> str:
        """What the floor says nothing about."""
        return "any resolution, rate and node; energy only, no floor of the area is known"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The floor of the energy at `bits` and `rate_hz`; node `node_m` (metres) is ignored.

        Raises:
            OutOfRangeError: fewer than one bit, or a rate or node that is not positive.
        """
        check_converter(bits, rate_hz, node_m)
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=max(thermal_j(bits), envelope_j(bits, rate_hz)),
            area_m2=0.0,
            extrapolated=False,
            source=self.source,
            validity=self.validity,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorCheck:
    """One converter of a law beside the floor."""

    law: str
    bits: int
    energy_j: float
    thermal_j: float
    envelope_j: float

    @property
    def is_possible(self) -> bool:
        """Whether thermal noise allows it."""
        return self.energy_j >= self.thermal_j

    @property
    def is_published(self) -> bool:
        """Whether the best published converters are as good."""
        return self.energy_j >= self.envelope_j


def check_floor(
    law: AdcLaw, bits: Iterable[int], rate_hz: float, node_m: float
) -> tuple[FloorCheck, ...]:
    """Every resolution of a law beside the floor.

    Raises:
        OutOfRangeError: a converter that the law refuses.
    """
    costs = [law.cost(count, rate_hz, node_m) for count in bits]
    return tuple(
        FloorCheck(
            law=cost.law,
            bits=cost.bits,
            energy_j=cost.energy_j,
            thermal_j=thermal_j(cost.bits),
            envelope_j=envelope_j(cost.bits, rate_hz),
        )
        for cost in costs
    )
