"""Which ADCs are built for layers that need different resolutions.

    layer           each layer's ADCs as large as its own worst bitline needs
    chip_max        one type for the whole chip, as large as the worst layer needs
    tile_types:K    at most K types; each layer takes one that is large enough
    slice           each bit slice on crossbars of its own, with ADCs as large as it needs
    early_stop      one type as for chip_max, a SAR that stops after the bits that a layer needs

A layer that is never read carries no ADC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.errors import ConfigError, OutOfRangeError

__all__ = ["POLICIES", "AdcPolicy", "assign_types", "linear_share", "read_policy"]

POLICIES = ("layer", "chip_max", "tile_types:2", "slice", "early_stop")
"""Every policy by the name that selects it, `tile_types` with two types; what `all` compares."""

_PLAIN = ("layer", "chip_max", "slice", "early_stop")
_TYPES = "tile_types:"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdcPolicy:
    """A policy, parsed."""

    name: str
    """As the user wrote it."""
    types: int | None = None
    """Most ADC types on the chip (default: no limit)."""
    by_slice: bool = False
    """Bit slices lie on crossbars of their own (our reading of `slice`: one ADC serves one
    crossbar, so only then can it be sized for one slice). This may take more crossbars."""
    stops_early: bool = False
    """A conversion ends after the bits that its layer needs."""


def read_policy(name: str) -> AdcPolicy:
    """The policy called `name`.

    Raises:
        ConfigError: no such policy, or fewer than one type.
    """
    if name.startswith(_TYPES):
        count = name.removeprefix(_TYPES)
        if not (count.isascii() and count.isdecimal() and int(count) >= 1):
            raise ConfigError(
                f"ADC policy is {name!r}; allowed after {_TYPES!r}: a whole number, 1 up"
            )
        return AdcPolicy(name=name, types=int(count))
    if name not in _PLAIN:
        allowed = "layer, chip_max, tile_types:K, slice, early_stop"
        raise ConfigError(f"ADC policy is {name!r}; allowed: {allowed}")
    return AdcPolicy(
        name=name,
        types=1 if name in ("chip_max", "early_stop") else None,
        by_slice=name == "slice",
        stops_early=name == "early_stop",
    )


def assign_types(
    needs: Sequence[int], types: int | None, area_m2: Callable[[int, int], float]
) -> list[int]:
    """The resolution built for every layer: the least ADC area with at most `types` of them.

    Resolutions that some layer needs are sorted; the best ends of the types follow by dynamic
    programming, since under a law whose area never shrinks with bits each type serves a run of
    neighbouring needs and is as large as the last of them.

    Args:
        needs: bits that each layer needs; 0: never read.
        types: most types (None: no limit).
        area_m2: square metres that the ADCs of a layer (its index) take at some bits.

    Source: hwmodel's own; the optimum is checked against trying all assignments.
    """
    levels = sorted({need for need in needs if need})
    if types is None or types >= len(levels):
        return list(needs)
    if types == 1:
        return [levels[-1] if need else 0 for need in needs]
    run_m2 = [
        [
            sum(area_m2(i, top) for i, need in enumerate(needs) if levels[low] <= need <= top)
            for low in range(high + 1)
        ]
        for high, top in enumerate(levels)
    ]
    built = _cheapest_runs(run_m2, types)
    tops = dict(zip(levels, (levels[end] for end in built), strict=True))
    return [tops[need] if need else 0 for need in needs]


def _cheapest_runs(run_m2: list[list[float]], types: int) -> list[int]:
    """For every sorted need, the index of the need that its type is sized for.

    `run_m2[high][low]` is the area if one type serves the needs `low` to `high`.
    """
    best = [(rows[0], [high] * (high + 1)) for high, rows in enumerate(run_m2)]
    for _ in range(types - 1):
        longer = list(best)
        for high in range(1, len(run_m2)):
            for low in range(1, high + 1):
                area = best[low - 1][0] + run_m2[high][low]
                if area < longer[high][0]:
                    longer[high] = (area, best[low - 1][1] + [high] * (high - low + 1))
        best = longer
    return best[-1][1]


def linear_share(law: AdcLaw, adc: AdcCost) -> float:
    """The share of a conversion's energy that grows linearly with the bits decided.

    The law is read as `E = a N + b 2^N` through its values at the converter's N and N + 1, which
    gives `a = (2 E(N) - E(N + 1)) / (N - 1)`; where it refuses N + 1 bits, through N - 1 and N.
    Exact for a split SAR, a linear and a `2^N` law, assumed for any other and held between 0 and 1.

    Raises:
        OutOfRangeError: a law that refuses both neighbours.

    Source: Newton (IEEE Micro 2018) for stopping a SAR early; the split is ISAAC's (ISCA 2016).
    """
    if adc.bits < 2 or adc.energy_j <= 0:
        return 1.0
    rate_hz, node_m = adc.rate_hz, adc.node_m
    try:
        above_j = law.cost(adc.bits + 1, rate_hz, node_m).energy_j
        per_bit_j = (2 * adc.energy_j - above_j) / (adc.bits - 1)
    except OutOfRangeError:
        if adc.bits < 3:
            raise
        below_j = law.cost(adc.bits - 1, rate_hz, node_m).energy_j
        per_bit_j = (2 * below_j - adc.energy_j) / (adc.bits - 2)
    return min(1.0, max(0.0, per_bit_j * adc.bits / adc.energy_j))
