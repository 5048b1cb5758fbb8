"""A second opinion: energy linear in the bits, area the same at every resolution.

The pessimist about savings: fewer bits give no area back and energy only in proportion.
"""

from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter

__all__ = ["LinearLaw"]

_REFERENCE_NODE_M = 32e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLaw:
    """Energy proportional to `N`, constant area, through ISAAC's 8-bit converter.

    Source: PUMA (ASPLOS 2019), whose ADC power is taken as N/8 of ISAAC's; ISAAC (ISCA 2016),
    table of components, for the anchor.
    """

    anchor_bits: int = 8
    anchor_energy_j: float = 2e-3 / 1.2e9
    """16 mW for 8 converters of 1.2 GS/s (published power, derived energy)."""
    anchor_area_m2: float = 1200e-12
    """0.0096 mm2 for 8 converters (published)."""
    known_bits: tuple[int, int] = (4, 10)
    """The span over which converters of this family are tabulated; assumed for this law."""
    name: str = "linear"
    source: str = (
        "N/8 of the energy and all of the area of ISAAC's 8-bit converter (PUMA, ASPLOS 2019)"
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
        shrink = node_m / _REFERENCE_NODE_M
        low, high = self.known_bits
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=self.anchor_energy_j * shrink * bits / self.anchor_bits,
            area_m2=self.anchor_area_m2 * shrink,
            extrapolated=not low <= bits <= high,
            source=self.source,
            validity=self.validity,
        )
