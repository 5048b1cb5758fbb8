"""What layers cost that no crossbar holds: one digital MAC array beside the tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hwmodel.errors import ConfigError
from hwmodel.layers import DigitalLayer

__all__ = ["DigitalArray", "DigitalUnit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitalUnit:
    """An array of 8-bit multipliers with 32-bit accumulators and its weight memory, at 32 nm.

    From 45 nm by the Stillmaker-Baas factors of `hwmodel/nodes` (energy 0.4571 / 0.8612, area
    1 / 2.2). Each multiply-accumulate fetches its weight anew: no reuse is assumed.

    Source: Horowitz, ISSCC 2014 (45 nm, 0.9 V): 8-bit multiplication 0.2 pJ and 282 um2, 32-bit
    addition 0.1 pJ and 137 um2, 8 bytes from an 8 KB SRAM 10 pJ. Width, clock (ISAAC's) and the
    memory's density (0.171 um2 a 6T cell, 70 % array efficiency) are assumed.

    Raises:
        ConfigError: a number that is not positive and finite.
    """

    macs_per_cycle: int = 256
    rate_hz: float = 1.2e9
    mac_energy_j: float = 0.1592e-12
    """(0.2 + 0.1) pJ x 0.5308."""
    mac_area_m2: float = 190.5e-12
    """(282 + 137) um2 / 2.2, one multiplier and accumulator."""
    weight_energy_j: float = 0.6635e-12
    """10 pJ / 8 bytes x 0.5308, a one-byte weight."""
    weight_area_m2: float = 1.954e-12
    """8 bits x 0.171 um2 / 0.7, a one-byte weight."""
    kind: str = "assumed"
    """Standing of the whole: published parts, an assumed organisation."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name != "kind" and not 0 < value < float("inf"):
                raise ConfigError(
                    f"digital.{name} is {value!r}; allowed: a positive, finite number"
                )

    def array(self, layers: Sequence[DigitalLayer]) -> "DigitalArray":
        """What computing these layers takes; nothing is built where there are none."""
        macs = sum(layer.macs for layer in layers)
        weights = sum(layer.weights for layer in layers)
        return DigitalArray(
            macs=macs,
            weights=weights,
            units=self.macs_per_cycle if layers else 0,
            time_s=macs / (self.macs_per_cycle * self.rate_hz),
            mac_area_m2=self.macs_per_cycle * self.mac_area_m2 if layers else 0.0,
            weight_area_m2=weights * self.weight_area_m2,
            mac_energy_j=macs * self.mac_energy_j,
            weight_energy_j=macs * self.weight_energy_j,
        )


class DigitalArray(NamedTuple):
    """All digital layers of a network, one after the other on one array."""

    macs: int
    weights: int
    units: int
    """Multipliers."""
    time_s: float
    """Seconds of one inference."""
    mac_area_m2: float
    weight_area_m2: float
    mac_energy_j: float
    """Of one inference."""
    weight_energy_j: float
    """Of one inference."""

    @property
    def area_m2(self) -> float:
        """Array and weights."""
        return self.mac_area_m2 + self.weight_area_m2

    @property
    def energy_j(self) -> float:
        """Array and weights, one inference."""
        return self.mac_energy_j + self.weight_energy_j
