"""A second opinion: only the capacitor array of a SAR converter, at a fixed clock.

The law behind the largest published savings of ADC power: a converter of N bits draws the power
of a binary-weighted array, and takes one clock cycle a bit.
"""

from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter

__all__ = ["SaberiLaw"]

_REFERENCE_NODE_M = 32e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SaberiLaw:
    """Energy proportional to `2^N / (N + 1)`, area to `2^N`, through ISAAC's 8-bit converter.

    From 8 bits to 1 and to 3 this saves 28.4 and 14.2 times the energy. The area is that of the
    `2^N` unit capacitors (derived); the twofold area saving printed beside those numbers does not
    follow from any law that we know of.

    Source: Saberi et al. (TCAS-I 2011), power of the conventional binary-weighted array at a fixed
    clock; used for whole converters by bit-slice L1 (Zhang et al., arXiv 1909.08496, table of ADC
    savings); ISAAC (ISCA 2016), table of components, for the anchor.
    """

    anchor_bits: int = 8
    anchor_energy_j: float = 2e-3 / 1.2e9
    """16 mW for 8 converters of 1.2 GS/s (published power, derived energy)."""
    anchor_area_m2: float = 1200e-12
    """0.0096 mm2 for 8 converters (published)."""
    known_bits: tuple[int, int] = (4, 10)
    """The span over which converters of this family are tabulated; assumed for this law."""
    name: str = "saberi"
    source: str = (
        "2^N/(N+1) through ISAAC's 8-bit converter "
        "(Saberi, TCAS-I 2011; bit-slice L1, arXiv 1909.08496)"
    )

    @property
    def validity(self) -> str:
        """The resolutions and the node of the anchor, and what is assumed around it."""
        low, high = self.known_bits
        return f"{low}-{high} bits (assumed) at 32 nm, any rate; linear in the node (assumed)"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits`; linear in the node `node_m` (metres, assumed).

        Raises:
            OutOfRangeError: fewer than one bit, or a rate or node that is not positive.
        """
        check_converter(bits, rate_hz, node_m)
        codes = 2.0 ** (bits - self.anchor_bits) * node_m / _REFERENCE_NODE_M
        low, high = self.known_bits
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=self.anchor_energy_j * codes * (self.anchor_bits + 1) / (bits + 1),
            area_m2=self.anchor_area_m2 * codes,
            extrapolated=not low <= bits <= high,
            source=self.source,
            validity=self.validity,
        )

    def conversion_time_s(self, bits: int, clock_hz: float) -> float:
        """Seconds from sample to code: one cycle of `clock_hz` a bit.

        Raises:
            OutOfRangeError: fewer than one bit, or a clock that is not positive.

        Source: bit-slice L1 (arXiv 1909.08496), speed-up of 8 and 2.67 from 8 bits to 1 and 3.
        """
        check_converter(bits, clock_hz, _REFERENCE_NODE_M)
        return bits / clock_hz
