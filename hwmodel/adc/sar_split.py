"""The default law: a SAR converter split into a linear and an exponential part.

Reference buffer, memory and clock grow with the number of bits, the capacitor array doubles with
each. At 8 bits the array is 6 % of the energy and 46 % of the area, so fewer bits save area
sooner than energy.
"""

from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter

__all__ = ["SarSplitLaw"]

_REFERENCE_NODE_M = 32e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SarSplitLaw:
    """`E = e1 N + e2 2^N`, `A = a1 N + a2 2^N`, each scaled by a power of the node.

    The four coefficients reproduce the tabulated converters of 4 to 10 bits that descend from
    ISAAC's 8-bit one (area to 1e-5, energy to the printed digits); the rate does not enter. The
    node exponents are assumed: 1.0 lies within the published 0.76 to 1.88 for energy and 0.99 to
    1.44 for area.

    Source: ISAAC (ISCA 2016), ADC scaling in the methodology; Saberi et al. (TCAS-I 2011) for the
    capacitor array; Kull et al. (JSSC 2013) for the 8-bit, 1.2 GS/s, 32 nm converter.
    """

    energy_per_bit_j: float = 0.194892e-12
    """Reference buffer, memory and clock, per bit (fitted)."""
    energy_per_level_j: float = 0.00042003e-12
    """Capacitor array, per output code (fitted)."""
    area_per_bit_m2: float = 81.7269e-12
    """Reference buffer, memory and clock, per bit (fitted)."""
    area_per_level_m2: float = 2.133534e-12
    """Capacitor array, per output code (fitted)."""
    energy_node_exponent: float = 1.0
    """Growth of energy with the node (assumed)."""
    area_node_exponent: float = 1.0
    """Growth of area with the node (assumed)."""
    known_bits: tuple[int, int] = (4, 10)
    """Least and largest resolution of the tabulated points."""
    name: str = "sar_split"
    source: str = (
        "split SAR fitted to ISAAC-style converters of 4-10 bits at 32 nm "
        "(ISAAC, ISCA 2016; Saberi, TCAS-I 2011; Kull, JSSC 2013)"
    )

    @property
    def validity(self) -> str:
        """The tabulated resolutions, and what carries the law beyond them."""
        low, high = self.known_bits
        return f"{low}-{high} bits at 32 nm, any rate; powers of the node (assumed)"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits` at node `node_m` (metres); the rate does not change it.

        Raises:
            OutOfRangeError: fewer than one bit, or a rate or node that is not positive.
        """
        check_converter(bits, rate_hz, node_m)
        shrink, codes = node_m / _REFERENCE_NODE_M, 2.0**bits
        energy_j = self.energy_per_bit_j * bits + self.energy_per_level_j * codes
        area_m2 = self.area_per_bit_m2 * bits + self.area_per_level_m2 * codes
        low, high = self.known_bits
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=energy_j * shrink**self.energy_node_exponent,
            area_m2=area_m2 * shrink**self.area_node_exponent,
            extrapolated=not low <= bits <= high,
            source=self.source,
            validity=self.validity,
        )
