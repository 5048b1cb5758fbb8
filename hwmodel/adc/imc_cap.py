"""A second opinion from in-memory computing: switched capacitance, area per output code.

The energy is that of a number of capacitances charged to the supply, the area a fit to converters
inside published in-memory computing chips, whose area nearly doubles with every bit.
"""

from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter

__all__ = ["ImcCapLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImcCapLaw:
    """`E = (k1 N + k2 4^N) Vdd^2`, `A = 2^N 10^(a N + b)`.

    The form is published for 28 nm and has no node in it, so the node does not enter here either;
    another node's supply can be given.

    Source: the analog in-memory computing model of ZigZag (KU Leuven, BSD-3), class of the ADC;
    its energy follows Murmann, "Mixed-signal computing for deep neural network inference" (TVLSI
    2021). Differs: the same area curve at every resolution, where ZigZag switches to another one
    at 12 bits, which would make the area fall by an order of magnitude.
    """

    capacitance_per_bit_f: float = 100e-15
    """k1: comparator, logic and references, per bit (published)."""
    capacitance_per_square_code_f: float = 1e-18
    """k2: what noise asks of the sampled capacitance, per `4^N` (published)."""
    supply_v: float = 0.9
    """Vdd at 28 nm (published)."""
    area_exponent_per_bit: float = -0.0369
    """a, in decades a bit (fitted, published)."""
    area_exponent: float = 1.206
    """b: decades of um2 (fitted, published)."""
    known_bits: tuple[int, int] = (4, 11)
    """Lower end assumed, upper end where the published area curve stops."""
    name: str = "imc_cap"
    source: str = (
        "switched capacitance and area fit of in-memory computing chips at 28 nm "
        "(ZigZag, BSD-3; Murmann, TVLSI 2021)"
    )

    @property
    def validity(self) -> str:
        """The resolutions and the node of the fit."""
        low, high = self.known_bits
        return (
            f"{low}-{high} bits (lower end assumed) at 28 nm, any rate; not scaled to other nodes"
        )

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits`; neither the rate nor the node `node_m` (metres) changes it.

        Raises:
            OutOfRangeError: fewer than one bit, or a rate or node that is not positive.
        """
        check_converter(bits, rate_hz, node_m)
        codes = 2.0**bits
        linear_f = self.capacitance_per_bit_f * bits
        switched_f = linear_f + self.capacitance_per_square_code_f * codes**2
        area_um2 = codes * 10.0 ** (self.area_exponent_per_bit * bits + self.area_exponent)
        low, high = self.known_bits
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=switched_f * self.supply_v**2,
            area_m2=area_um2 * 1e-12,
            extrapolated=not low <= bits <= high,
            source=self.source,
            validity=self.validity,
        )
