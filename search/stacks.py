"""What networks' area and power are made of, in few parts with a colour each.

A component has the same colour in every figure and picture, of area and of power, of this study and
of another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwmodel.compare import breakdown
from hwmodel.cost_report import CostReport, quotient
from search.palette import COLOURS

__all__ = ["COLUMNS", "Stack", "stacks"]

COLUMNS = ("area_m2", "power_w")
"""What is broken down: square metres, watts."""

_OTHERS = "all others"
_OWN = {
    "adc": "blue",
    "dac": "sky",
    "crossbar": "vermilion",
    "edram": "green",
    "bus": "orange",
    "router": "purple",
    "input_register": "yellow",
}
"""Colours of the components that take most of ISAAC; another preset's take what these leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One component, or the small ones together, in every network."""

    name: str
    colour: str
    heights: Mapping[str, tuple[float, ...]]
    """By column of `COLUMNS`, one a network, SI."""


def stacks(reports: Mapping[str, CostReport]) -> list[Stack]:
    """The components that take most of any network's area or power, the ADCs first.

    Args:
        reports: by network; heights are in their order.

    Returns:
        At most one stack a colour; the last one adds up all others. None of them is empty.
    """
    parts = [breakdown(report) for report in reports.values()]
    weights = _largest_shares(parts)
    kept = sorted(weights, key=lambda name: (name != "adc", -weights[name]))[: len(_OWN)]
    rest = [name for name in weights if name not in kept]
    free = (colour for colour in _OWN.values() if colour not in map(_OWN.get, kept))
    colours = {name: COLOURS[_OWN.get(name) or next(free)] for name in kept}
    groups = [(name, [name]) for name in kept] + ([(_OTHERS, rest)] if rest else [])
    return [
        Stack(
            name=name,
            colour=colours.get(name, COLOURS["grey"]),
            heights={column: _heights(parts, members, column) for column in COLUMNS},
        )
        for name, members in groups
    ]


def _largest_shares(parts: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """The largest share that each component has of a network's area or power, but for none."""
    found: dict[str, float] = {}
    for part in parts:
        for column in COLUMNS:
            whole = math.fsum(values[column] for values in part.values())
            for name, values in part.items():
                found[name] = max(found.get(name, 0.0), quotient(values[column], whole))
    return {name: share for name, share in found.items() if share > 0}


def _heights(
    parts: list[dict[str, dict[str, float]]], members: list[str], column: str
) -> tuple[float, ...]:
    return tuple(
        math.fsum(part[name][column] for name in members if name in part) for part in parts
    )
