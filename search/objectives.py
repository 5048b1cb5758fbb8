"""What a study optimises, and what it refuses."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from hwmodel.accelerator import CostReport
from hwmodel.errors import ConfigError

__all__ = [
    "ACCURACIES",
    "COSTS",
    "OBJECTIVES",
    "UNITS",
    "Bound",
    "check_objectives",
    "cost_values",
    "direction",
    "parse_bound",
]

COSTS = {
    "adc_area": "adc_area_m2",
    "adc_power": "adc_power_w",
    "area": "area_m2",
    "power": "power_w",
    "energy": "energy_j",
    "latency": "latency_s",
}
"""Objectives that the cost model answers: name to its field in the totals."""

ACCURACIES = ("accuracy", "robust_accuracy")
"""Objectives to maximise: of the integer network on ideal devices, and its mean over lossy ones."""

OBJECTIVES = (*ACCURACIES, *COSTS)

_AREA = {"mm2": -6, "um2": -12, "m2": 0}
_POWER = {"mW": -3, "uW": -6, "W": 0}
_ENERGY = {"uJ": -6, "nJ": -9, "pJ": -12, "mJ": -3, "J": 0}
_TIME = {"us": -6, "ns": -9, "ms": -3, "s": 0}
UNITS = {
    "adc_area": _AREA,
    "adc_power": _POWER,
    "area": _AREA,
    "power": _POWER,
    "energy": _ENERGY,
    "latency": _TIME,
}
"""Units of each cost with their powers of ten in SI, the one that people are shown first."""

_TIMES_DENSE = "x"
_BOUND = re.compile(r"(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*([a-zA-Z]\w*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A hard constraint such as `adc_area <= 0.5x` (`x`: times the dense network's value)."""

    objective: str
    at_most: bool
    limit: float
    """In SI units, or times the dense network's value."""
    relative: bool

    @property
    def text(self) -> str:
        """As it is written, in the unit that people are shown."""
        return f"{self.objective} {'<=' if self.at_most else '>='} {self._shown(self.limit, None)}"

    def violation(self, values: Mapping[str, float], dense: Mapping[str, float]) -> float:
        """By how much the values break the bound, relative to it; 0 or less where they keep it."""
        limit = self.limit * (dense[self.objective] if self.relative else 1.0)
        excess = values[self.objective] - limit if self.at_most else limit - values[self.objective]
        return excess / abs(limit) if limit else excess

    def at(self, violation: float) -> str:
        """The value that breaks the bound by so much, as `violation` counts it."""
        size = abs(self.limit) or 1.0
        return self._shown(self.limit + (violation if self.at_most else -violation) * size, 4)

    def _shown(self, value: float, digits: int | None) -> str:
        """A value with its unit, to some digits or to all."""
        unit, power = next(iter(UNITS.get(self.objective, {"": 0}).items()))
        if self.relative:
            unit, power = _TIMES_DENSE, 0
        # In decimals, so that the text is read as the same number again.
        number = Decimal(repr(value) if digits is None else f"{value:.{digits}g}").scaleb(-power)
        return f"{number.normalize():f}{'' if self.relative else ' '}{unit}".rstrip()


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """`maximize` for accuracies, `minimize` for every cost."""
    return "maximize" if objective in ACCURACIES else "minimize"


def parse_bound(text: str) -> Bound:
    """The bound that a configuration writes; a number without a unit is in SI units.

    Raises:
        ConfigError: not of the form `objective <= number` with a unit of the objective's or `x`, or
            a number that the objective cannot have.
    """
    match = _BOUND.fullmatch(text.strip())
    names = ", ".join(OBJECTIVES)
    if match is None:
        raise ConfigError(
            f"constraint {text!r}; allowed: 'area <= 5 mm2', 'power <= 0.5x' (x: times dense), "
            f"'accuracy >= 0.85', with {names}"
        )
    objective, sign, number, unit = match.groups()
    if objective not in OBJECTIVES:
        raise ConfigError(f"constraint {text!r}: unknown objective {objective!r}; allowed: {names}")
    powers = {**UNITS.get(objective, {}), _TIMES_DENSE: 0}
    if unit is not None and unit not in powers:
        units = ", ".join(powers)
        raise ConfigError(f"constraint {text!r}: unknown unit {unit!r}; allowed: {units} or none")
    try:
        limit = float(Decimal(number).scaleb(powers[unit] if unit else 0))
    except InvalidOperation:
        raise ConfigError(f"constraint {text!r}: {number!r} is not a number") from None
    relative = unit == _TIMES_DENSE
    most = 1.0 if objective in ACCURACIES and not relative else math.inf
    if not 0 <= limit <= most or math.isinf(limit):
        allowed = "0 to 1" if most == 1.0 else "a finite number, 0 up"
        raise ConfigError(f"constraint {text!r}: {number} for {objective}; allowed: {allowed}")
    return Bound(objective=objective, at_most=sign == "<=", limit=limit, relative=relative)


def cost_values(report: CostReport) -> dict[str, float]:
    """Every cost objective of a report, by name, in SI units."""
    return {name: float(getattr(report.totals, field)) for name, field in COSTS.items()}


def check_objectives(names: Sequence[str]) -> None:
    """Refuses unknown or repeated objectives.

    Raises:
        ConfigError: naming the objective and those that exist.
    """
    for name in names:
        if name not in OBJECTIVES:
            allowed = ", ".join(OBJECTIVES)
            raise ConfigError(f"study.objectives names {name!r}; allowed: {allowed}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"study.objectives is {list(names)}; allowed: one or more, no repeats")
