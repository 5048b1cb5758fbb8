"""What every ADC law answers, and the checks that they share.

A law maps resolution, sampling rate and technology node to the energy of one conversion and the
area of one converter. Published laws disagree by up to an order of magnitude, so a result always
names the law behind it, and says whether the law was asked beyond the points it rests on.
"""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

from hwmodel.errors import OutOfRangeError

__all__ = ["MAX_ADC_BITS", "AdcCost", "AdcLaw", "check_converter"]

MAX_ADC_BITS = 32
"""No bitline needs more: 4096 wordlines x 8-bit cells x 8-bit inputs read below 2^28."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdcCost:
    """One converter under one law."""

    law: str
    bits: int
    rate_hz: float
    """Conversions per second."""
    node_m: float
    """Technology node, metres."""
    energy_j: float
    """Energy of one conversion, joules."""
    area_m2: float
    """Area of one converter, square metres."""
    extrapolated: bool
    """Whether resolution or rate lies outside the points that the law rests on."""
    source: str
    """Where the law comes from."""
    validity: str
    """The range in which the source supports the law, and what is assumed within it."""

    @property
    def power_w(self) -> float:
        """Watts while converting without pause."""
        return self.energy_j * self.rate_hz


class AdcLaw(Protocol):
    """A published way to scale an ADC."""

    @property
    def name(self) -> str:
        """The name that selects the law."""
        ...

    @property
    def source(self) -> str:
        """Paper, section and fit behind the law."""
        ...

    @property
    def validity(self) -> str:
        """The range in which the source supports the law, and what is assumed within it."""
        ...

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The converter of `bits`, at `rate_hz` conversions per second, at node `node_m` metres.

        Raises:
            OutOfRangeError: fewer than one bit, a rate or node that is not positive, or a converter
                that the law refuses to guess.
        """
        ...


def check_converter(bits: int, rate_hz: float, node_m: float) -> None:
    """Refuses a converter that no law can answer for.

    Raises:
        OutOfRangeError: naming what was wrong, its value and what is allowed.
    """
    whole = isinstance(bits, Integral) and not isinstance(bits, bool)
    if not whole or not 1 <= bits <= MAX_ADC_BITS:
        raise OutOfRangeError(f"ADC bits is {bits!r}; allowed: an integer from 1 to {MAX_ADC_BITS}")
    for what, value in (("rate_hz", rate_hz), ("node_m", node_m)):
        if not (math.isfinite(value) and value > 0):
            raise OutOfRangeError(f"ADC {what} is {value!r}; allowed: a positive, finite number")
