"""A second opinion: only the capacitor array of a SAR converter, at a fixed clock.

The law behind the largest published savings of ADC power: a converter of N bits draws the power
of a binary-weighted array, and takes one clock cycle a bit.
"""

from dataclasses import dataclass

from hwmodel.adc.anchored import REFERENCE_NODE_M, AnchoredLaw
from hwmodel.adc.base import check_converter

__all__ = ["SaberiLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaberiLaw(AnchoredLaw):
    """Energy proportional to `2^N / (N + 1)`, area to `2^N`, through ISAAC's 8-bit converter.

    From 8 bits to 1 and to 3 this saves 28.4 and 14.2 times the energy. The area is that of the
    `2^N` unit capacitors (derived); the twofold area saving printed beside those numbers does not
    follow from any law that we know of.

    Source: Saberi et al. (TCAS-I 2011), power of the conventional binary-weighted array at a fixed
    clock; used for whole converters by bit-slice L1 (Zhang et al., arXiv 1909.08496, table of ADC
    savings); ISAAC (ISCA 2016), table of components, for the anchor.
    """

    name: str = "saberi"
    source: str = (
        "2^N/(N+1) through ISAAC's 8-bit converter "
        "(Saberi, TCAS-I 2011; bit-slice L1, arXiv 1909.08496)"
    )

    def energy_ratio(self, bits: int) -> float:
        """`2^N / (N + 1)`, relative to the anchor."""
        return self.area_ratio(bits) * (self.anchor_bits + 1) / (bits + 1)

    def area_ratio(self, bits: int) -> float:
        """`2^N` unit capacitors, relative to the anchor."""
        return float(2.0 ** (bits - self.anchor_bits))

    def conversion_time_s(self, bits: int, clock_hz: float) -> float:
        """Seconds from sample to code: one cycle of `clock_hz` a bit.

        Raises:
            OutOfRangeError: fewer than one bit, or a clock that is not positive.

        Source: bit-slice L1 (arXiv 1909.08496), speed-up of 8 and 2.67 from 8 bits to 1 and 3.
        """
        check_converter(bits, clock_hz, REFERENCE_NODE_M)
        return bits / clock_hz
