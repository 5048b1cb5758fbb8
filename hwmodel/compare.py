"""The same layers under every ADC law, or under every policy: bands instead of single numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hwmodel.accelerator import CostModel
from hwmodel.adc import ADC_LAWS, AdcLaw
from hwmodel.cost_report import CostReport, quotient
from hwmodel.errors import OutOfRangeError
from hwmodel.layers import AnyLayer
from hwmodel.policies import POLICIES

__all__ = ["breakdown", "dominant", "under_laws", "under_policies"]


def under_laws(
    model: CostModel, layers: Sequence[AnyLayer], laws: Mapping[str, AdcLaw] = ADC_LAWS
) -> dict[str, Any]:
    """Totals of one inference under every law, the range of each total, and what dominates.

    Returns:
        `laws` (by name: totals, `extrapolated` and `dominant`), `refused` (by name: the reason)
        and `range` (by total: `low`, `high`; none where every law refuses).
    """
    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, law in laws.items():
        try:
            report = model.under(law=law).evaluate(layers)
        except OutOfRangeError as error:
            refused[name] = str(error)
            continue
        found[name] = {
            "totals": asdict(report.totals),
            "extrapolated": report.extrapolated,
            "dominant": dominant(report),
        }
    tables = [entry["totals"] for entry in found.values()]
    keys = tables[0] if tables else {}
    spans = {
        key: {"low": min(t[key] for t in tables), "high": max(t[key] for t in tables)}
        for key in keys
    }
    return {"laws": found, "refused": refused, "range": spans}


def under_policies(
    model: CostModel, layers: Sequence[AnyLayer], policies: Iterable[str] = POLICIES
) -> dict[str, Any]:
    """Totals of one inference under every policy.

    Returns:
        `totals` (by policy) and `refused` (by policy: why the law does not answer).

    Raises:
        ConfigError: an unknown policy.
    """
    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in policies:
        try:
            found[name] = asdict(model.under(policy=name).evaluate(layers).totals)
        except OutOfRangeError as error:
            refused[name] = str(error)
    return {"totals": found, "refused": refused}


def breakdown(report: CostReport) -> dict[str, dict[str, float]]:
    """Area and power of each component over all layers, the ADCs first, then by energy."""
    parts = report.by_component()
    latency_s = report.totals.latency_s
    return {
        name: {
            "area_m2": parts[name]["area_m2"],
            "power_w": quotient(parts[name]["energy_j"], latency_s),
        }
        for name in sorted(parts, key=lambda part: part != "adc")
    }


def dominant(report: CostReport) -> dict[str, dict[str, Any]]:
    """The component with the largest part of `area_m2`, `energy_j` and `power_w`, and its share.

    Power is energy over latency, so that both have the same one. Empty where there is no cost.
    """
    parts = report.by_component()
    found: dict[str, dict[str, Any]] = {}
    for total, column in (
        ("area_m2", "area_m2"),
        ("energy_j", "energy_j"),
        ("power_w", "energy_j"),
    ):
        whole = getattr(report.totals, column)
        if whole > 0:
            largest, name = max((values[column], name) for name, values in parts.items())
            found[total] = {"component": name, "share": largest / whole}
    return found
