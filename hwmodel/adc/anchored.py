"""What the one-parameter laws share: a curve through ISAAC's 8-bit converter.

Each of them says only how energy and area move with the resolution, relative to the anchor.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter

__all__ = ["REFERENCE_NODE_M", "AnchoredLaw"]

REFERENCE_NODE_M = 32e-9
"""Node of the anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredLaw(ABC):
    """A law through one known converter; linear in the node (assumed).

    Source: ISAAC (ISCA 2016), table of components, for the anchor.
    """

    name: str
    source: str
    anchor_bits: int = 8
    anchor_energy_j: float = 2e-3 / 1.2e9
    """16 mW for 8 converters of 1.2 GS/s (published power, derived energy)."""
    anchor_area_m2: float = 1200e-12
    """0.0096 mm2 for 8 converters (published)."""
    known_bits: tuple[int, int] = (4, 10)
    """The span over which converters of this family are tabulated; assumed for these laws."""

    @property
    def validity(self) -> str:
        """The resolutions and the node of the anchor, and what is assumed around it."""
        low, high = self.known_bits
        return f"{low}-{high} bits (assumed) at 32 nm, any rate; linear in the node (assumed)"

    @abstractmethod
    def energy_ratio(self, bits: int) -> float:
        """Energy at `bits` over that of the anchor."""

    @abstractmethod
    def area_ratio(self, bits: int) -> float:
        """Area at `bits` over that of the anchor."""

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits`; linear in the node `node_m` (metres, assumed).

        Raises:
            OutOfRangeError: fewer than one bit, or a rate or node that is not positive.
        """
        check_converter(bits, rate_hz, node_m)
        shrink = node_m / REFERENCE_NODE_M
        low, high = self.known_bits
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=self.anchor_energy_j * self.energy_ratio(bits) * shrink,
            area_m2=self.anchor_area_m2 * self.area_ratio(bits) * shrink,
            extrapolated=not low <= bits <= high,
            source=self.source,
            validity=self.validity,
        )
