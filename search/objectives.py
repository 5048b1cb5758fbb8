"""What a study optimises, and what it refuses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hwmodel.accelerator import CostReport
from hwmodel.errors import ConfigError

__all__ = [
    "ACCURACIES",
    "COSTS",
    "OBJECTIVES",
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

_BOUND = re.compile(r"(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*(x?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A hard constraint such as `adc_area <= 0.5x` (`x`: times the dense network's value)."""

    objective: str
    at_most: bool
    limit: float
    relative: bool

    @property
    def text(self) -> str:
        """As it is written."""
        sign = "<=" if self.at_most else ">="
        return f"{self.objective} {sign} {self.limit!r}{'x' if self.relative else ''}"

    def violation(self, values: Mapping[str, float], dense: Mapping[str, float]) -> float:
        """By how much the values break the bound, relative to it; 0 or less where they keep it."""
        limit = self.limit * (dense[self.objective] if self.relative else 1.0)
        excess = values[self.objective] - limit if self.at_most else limit - values[self.objective]
        return excess / abs(limit) if limit else excess

    def at(self, violation: float) -> str:
        """The value that breaks the bound by so much, as `violation` counts it."""
        size = abs(self.limit) or 1.0
        value = self.limit + (violation if self.at_most else -violation) * size
        return f"{value:.4g}{'x' if self.relative else ''}"


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """`maximize` for accuracies, `minimize` for every cost."""
    return "maximize" if objective in ACCURACIES else "minimize"


def parse_bound(text: str) -> Bound:
    """The bound that a configuration writes.

    Raises:
        ConfigError: not of the form `objective <= number` or `objective <= number x`.
    """
    match = _BOUND.fullmatch(text.strip())
    names = ", ".join(OBJECTIVES)
    if match is None:
        raise ConfigError(
            f"constraint {text!r}; allowed: 'area <= 2e-6', 'power <= 0.5x' (x: times dense), "
            f"'accuracy >= 0.85', with {names}"
        )
    objective, sign, number, relative = match.groups()
    if objective not in OBJECTIVES:
        raise ConfigError(f"constraint {text!r}: unknown objective {objective!r}; allowed: {names}")
    try:
        limit = float(number)
    except ValueError:
        raise ConfigError(f"constraint {text!r}: {number!r} is not a number") from None
    return Bound(objective=objective, at_most=sign == "<=", limit=limit, relative=bool(relative))


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
