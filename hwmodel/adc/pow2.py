"""A second opinion: every bit doubles the whole converter, energy and area alike.

The pessimist about high resolutions and the optimist about low ones: it treats the converter as
if it were all capacitor array.
"""

from dataclasses import dataclass

from hwmodel.adc.anchored import AnchoredLaw

__all__ = ["Pow2Law"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pow2Law(AnchoredLaw):
    """Energy and area proportional to `2^N`, through ISAAC's 8-bit converter.

    Source: the default rule of the hwcomponents library (MIT); ISAAC (ISCA 2016), table of
    components, for the anchor.
    """

    name: str = "pow2"
    source: str = (
        "2^N through ISAAC's 8-bit converter (ISCA 2016; default rule of the hwcomponents library)"
    )

    def energy_ratio(self, bits: int) -> float:
        """`2^N`, relative to the anchor."""
        return float(2.0 ** (bits - self.anchor_bits))

    def area_ratio(self, bits: int) -> float:
        """`2^N`, relative to the anchor."""
        return float(2.0 ** (bits - self.anchor_bits))
