"""Objectives as people read them: a label, a unit and a few digits."""

from search.objectives import COSTS, OBJECTIVES, UNITS

__all__ = ["AXES", "TOTALS", "counted", "display_name", "display_number", "display_value"]

_LABELS = {
    "accuracy": "Accuracy",
    "robust_accuracy": "Robust accuracy",
    "adc_area": "ADC area",
    "adc_power": "ADC power",
    "area": "Chip area",
    "power": "Chip power",
    "energy": "Energy per inference",
    "latency": "Latency",
}


def _axis(objective: str) -> tuple[str, float, str]:
    unit, power = next(iter(UNITS.get(objective, {"": 0}).items()))
    return _LABELS[objective], 10.0**-power, unit


AXES = {name: _axis(name) for name in OBJECTIVES}
"""Objective to its label, the factor from SI and the unit that people read."""

TOTALS = {
    **{field: AXES[name] for name, field in COSTS.items()},
    "crossbars": ("Crossbars", 1.0, ""),
    "ops_per_s": ("Throughput, dense-equivalent", 1e-9, "GOPS"),
    "ops_per_s_per_w": ("  per watt", 1e-9, "GOPS/W"),
    "ops_per_s_per_m2": ("  per area", 1e-15, "GOPS/mm2"),
    "effective_ops_per_s": ("Throughput, non-zero weights", 1e-9, "GOPS"),
    "effective_ops_per_s_per_w": ("  per watt", 1e-9, "GOPS/W"),
    "effective_ops_per_s_per_m2": ("  per area", 1e-15, "GOPS/mm2"),
}
"""The same for every total of a cost report, in the order in which they are printed."""


def display_number(objective: str, value: float) -> str:
    """A value in the unit of `display_name`, without the unit."""
    accuracy = objective in ("accuracy", "robust_accuracy")
    return f"{value:.4f}" if accuracy else f"{value * AXES[objective][1]:.4g}"


def display_value(objective: str, value: float) -> str:
    """A value as people read it, such as `0.0123 mm2`."""
    return f"{display_number(objective, value)} {AXES[objective][2]}".rstrip()


def display_name(objective: str) -> str:
    """An objective's label with its unit."""
    label, _, unit = AXES[objective]
    return f"{label} ({unit})" if unit else label


def counted(count: int, noun: str) -> str:
    """So many of something, such as `1 epoch` and `2 epochs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
