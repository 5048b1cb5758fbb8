"""Copies of layers that even out a pipeline: early layers have many positions and few weights."""

from collections.abc import Sequence
from dataclasses import replace

from hwmodel.components import Preset
from hwmodel.errors import MappingError
from hwmodel.events import is_read
from hwmodel.geometry import MappedLayer

__all__ = ["balance_pipeline"]


def balance_pipeline(
    layers: Sequence[MappedLayer], preset: Preset, crossbars: int
) -> list[MappedLayer]:
    """The layers with the copies that let the slowest of them be as fast as it can be.

    Exact: the pace is the best that any replication within the budget reaches, and no layer has
    a copy more than that pace takes. Copies given before are replaced; a layer that is never read
    keeps one.

    Args:
        layers: the network.
        preset: its cycle time.
        crossbars: the budget, all copies together.

    Raises:
        MappingError: a budget below one copy of every layer.

    Source: ISAAC (ISCA 2016), replication of early layers for a balanced pipeline; the search is
    hwmodel's own.
    """
    single = [replace(layer, replication=1) for layer in layers]
    least = sum(layer.crossbars for layer in single)
    if crossbars < least:
        raise MappingError(
            f"the crossbar budget is {crossbars}; allowed: {least} up, one copy of every layer"
        )
    paces_s = sorted({pace_s for layer in single for pace_s in _paces_s(layer, preset)})
    low, high = 0, len(paces_s) - 1
    while low < high:
        middle = (low + high) // 2
        balanced = [_at_pace(layer, preset, paces_s[middle]) for layer in single]
        if any(x is None for x in balanced) or _total(balanced) > crossbars:
            low = middle + 1
        else:
            high = middle
    pace_s = paces_s[low] if paces_s else 0.0
    return [_at_pace(layer, preset, pace_s) or layer for layer in single]


def _read_s(layer: MappedLayer, preset: Preset) -> float:
    """Seconds of one position."""
    return layer.rotations * layer.spec.cycle_count * preset.cycle_time_s(layer.spec)


def _paces_s(layer: MappedLayer, preset: Preset) -> set[float]:
    """Every time that some number of copies gives the layer; none for one never read."""
    if not is_read(layer):
        return set()
    positions, read_s = layer.shape.positions, _read_s(layer, preset)
    return {passes * read_s for passes in {-(-positions // n) for n in range(1, positions + 1)}}


def _at_pace(layer: MappedLayer, preset: Preset, pace_s: float) -> MappedLayer | None:
    """The layer with the fewest copies that keep the pace; None: it cannot."""
    if not is_read(layer):
        return layer
    # A product of the same factors must divide back to the same whole number.
    passes = int(pace_s / _read_s(layer, preset) * (1 + 1e-12))
    if passes < 1:
        return None
    return replace(layer, replication=-(-layer.shape.positions // passes))


def _total(layers: Sequence[MappedLayer | None]) -> int:
    return sum(layer.crossbars for layer in layers if layer is not None)
