"""A second opinion: energy linear in the bits, area the same at every resolution.

The pessimist about savings: fewer bits give no area back and energy only in proportion.
"""

from dataclasses import dataclass

from hwmodel.adc.anchored import AnchoredLaw

__all__ = ["LinearLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLaw(AnchoredLaw):
    """Energy proportional to `N`, constant area, through ISAAC's 8-bit converter.

    Source: PUMA (ASPLOS 2019), whose ADC power is taken as N/8 of ISAAC's; ISAAC (ISCA 2016),
    table of components, for the anchor.
    """

    name: str = "linear"
    source: str = (
        "N/8 of the energy and all of the area of ISAAC's 8-bit converter (PUMA, ASPLOS 2019)"
    )

    def energy_ratio(self, bits: int) -> float:
        """`N`, relative to the anchor."""
        return bits / self.anchor_bits

    def area_ratio(self, bits: int) -> float:
        """The same at every resolution."""
        return 1.0
