"""An option of every law: at 1 bit a sense amplifier stands in for the converter."""

from dataclasses import dataclass, replace

from hwmodel.adc.base import AdcCost, AdcLaw, check_converter

__all__ = ["SenseAmpLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SenseAmpLaw:
    """Another law from 2 bits on, a sense amplifier at 1 bit.

    Source: MNSIM (TCAD 2018; MNSIM 2.0), its 1-bit converter. The node behind the two numbers is
    not stated, so neither is scaled.
    """

    law: AdcLaw
    """Prices 2 bits and more."""
    energy_j: float = 1.6e-15
    """Of one decision (published)."""
    area_m2: float = 1e-12
    """Of one amplifier (published)."""

    @property
    def name(self) -> str:
        """The name that selects the law with this option."""
        return f"{self.law.name}+sense_amp"

    @property
    def source(self) -> str:
        """Both sources."""
        return f"{self.law.source}; at 1 bit a sense amplifier (MNSIM)"

    @property
    def validity(self) -> str:
        """That of the other law, and what the amplifier's numbers leave open."""
        return f"{self.law.validity}; at 1 bit any rate and node (unscaled)"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The amplifier at 1 bit, otherwise what the other law says.

        Raises:
            OutOfRangeError: fewer than one bit, a rate or node that is not positive, or what the
                other law refuses from 2 bits on.
        """
        check_converter(bits, rate_hz, node_m)
        if bits > 1:
            found = self.law.cost(bits, rate_hz, node_m)
            return replace(found, law=self.name, source=self.source, validity=self.validity)
        return AdcCost(
            law=self.name,
            bits=1,
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=self.energy_j,
            area_m2=self.area_m2,
            extrapolated=False,
            source=self.source,
            validity=self.validity,
        )
