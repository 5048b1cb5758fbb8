"""A second opinion from silicon: a regression over the published survey of ADCs.

Describes the best published converters of any architecture, not an expected one: most measured
designs need several times the energy. It refuses what the survey cannot know (few bits above all,
where its closed form grows again) unless it is asked to extrapolate.
"""

import math
from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, check_converter
from hwmodel.errors import OutOfRangeError

__all__ = ["SurveyLaw"]

_RISING_FROM_BITS = 5
"""Integer resolutions from which the closed form grows with each bit.

Its energy has its minimum at 2.83 / (0.280 ln 10) = 4.39 bits where the figure of merit is capped,
and at 2.83 / ln 4 = 2.04 bits where the rate limits it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyLaw:
    """Energy from the best figure of merit at a rate and resolution, area from the energy.

    With b bits, f conversions per second and t the node in nm:

        SNDR = 20 log10(2) b + 10 log10(1.5)                                    in dB
        FoM  = min(213.78 - 2.872 ln f, 128.31 + 3.221 b)                       in dB
        E    = 1/2 10^((SNDR - FoM) / 10) exp(26.05 - 1.470) t^1.880 b^-2.829   in pJ
        A    = exp(1.346) t^0.9933 f^0.1807 E^0.2991                            in um2

    Bits count as effective ones. The original rounds b up in the cap; ours are whole anyway.

    Source: coefficients of the Accelergy ADC plug-in (MIT), also in hwcomponents-adc; fitted there
    to B. Murmann's ADC performance survey, 1997-2023. All coefficients below are fitted.
    """

    extrapolate: bool = False
    """Answer outside the known bits and rates too, and say so, instead of refusing."""
    monotone: bool = False
    """Charge no more for fewer bits: the least over this and all higher integer resolutions.

    Differs from the closed form below 4 bits only, where it stays at its 4-bit value.
    """
    fom_at_1_hz_db: float = 213.7806687348118
    fom_per_ln_hz_db: float = -2.8719030399529957
    fom_cap_db: float = 128.30682873988169
    fom_cap_per_bit_db: float = 3.2205115109775591
    energy_ln: float = 26.049621568651801
    """Of the fit through all designs, ln of pJ."""
    energy_best_ln: float = -1.4702022133784405
    """From there to the best published, ln."""
    energy_node_exponent: float = 1.8800369206815004
    energy_bits_exponent: float = -2.8291256050594527
    area_ln: float = 1.3461916439910742
    """Best published, ln of um2."""
    area_node_exponent: float = 0.99327947447450216
    area_rate_exponent: float = 0.18071538424508238
    area_energy_exponent: float = 0.29912426192653485
    known_bits: tuple[int, int] = (4, 19)
    """The plug-in's own lower limit, and the survey's highest effective resolution."""
    known_rate_hz: float = 10e9
    """The highest rate that we trust the fit at (assumed)."""
    source: str = (
        "regression over Murmann's ADC survey 1997-2023, best published "
        "(Accelergy ADC plug-in, MIT)"
    )

    @property
    def name(self) -> str:
        """The name that selects the law with its options."""
        return "survey" + "+extrapolate" * self.extrapolate + "+monotone" * self.monotone

    @property
    def validity(self) -> str:
        """The resolutions and rates of the survey."""
        low, high = self.known_bits
        return (
            f"{low}-{high} effective bits, up to {self.known_rate_hz / 1e9:g} GS/s; "
            "a lower envelope: measured designs need a median of 5.9 times the energy"
        )

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits` at `rate_hz` and node `node_m` (metres).

        Raises:
            OutOfRangeError: fewer than one bit, a rate or node that is not positive, or, unless
                `extrapolate`, a converter that the survey does not know.
        """
        check_converter(bits, rate_hz, node_m)
        low, high = self.known_bits
        unknown = not low <= bits <= high or rate_hz > self.known_rate_hz
        if unknown and not self.extrapolate:
            raise OutOfRangeError(
                f"ADC law {self.name} asked for {bits} bits at {rate_hz:g} Hz; allowed: {low} to "
                f"{high} bits, up to {self.known_rate_hz:g} Hz, or the law survey+extrapolate"
            )
        last = max(bits, _RISING_FROM_BITS) if self.monotone else bits
        energy_pj = min(self._energy_pj(b, rate_hz, node_m) for b in range(bits, last + 1))
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=energy_pj * 1e-12,
            area_m2=self._area_um2(energy_pj, rate_hz, node_m) * 1e-12,
            extrapolated=unknown,
            source=self.source,
            validity=self.validity,
        )

    def _energy_pj(self, bits: int, rate_hz: float, node_m: float) -> float:
        """Picojoules a conversion by the closed form."""
        sndr_db = 20 * math.log10(2) * bits + 10 * math.log10(1.5)
        fom_db = min(
            self.fom_at_1_hz_db + self.fom_per_ln_hz_db * math.log(rate_hz),
            self.fom_cap_db + self.fom_cap_per_bit_db * bits,
        )
        scale = math.exp(self.energy_ln + self.energy_best_ln)
        shape = math.pow(node_m * 1e9, self.energy_node_exponent) * math.pow(
            bits, self.energy_bits_exponent
        )
        return 0.5 * math.pow(10, (sndr_db - fom_db) / 10) * scale * shape

    def _area_um2(self, energy_pj: float, rate_hz: float, node_m: float) -> float:
        """Square micrometres by the closed form, for one converter."""
        return (
            math.exp(self.area_ln)
            * math.pow(node_m * 1e9, self.area_node_exponent)
            * math.pow(rate_hz, self.area_rate_exponent)
            * math.pow(energy_pj, self.area_energy_exponent)
        )
