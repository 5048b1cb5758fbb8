"""The layers of a network, wherever they are computed: on crossbars, or digitally."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwmodel.errors import MappingError
from hwmodel.geometry import MappedLayer

__all__ = ["AnyLayer", "DigitalLayer", "layer_from_json", "split_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitalLayer:
    """What the cost model needs to know of such a layer.

    Raises:
        MappingError: a negative count.
    """

    name: str
    macs: int
    """Multiply-accumulates of one inference."""
    weights: int
    """Weights that are stored."""

    def __post_init__(self) -> None:
        if min(self.macs, self.weights) < 0:
            raise MappingError(
                f"{self.name}: {self.macs} multiply-accumulates, {self.weights} weights; "
                "allowed: 0 up"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain fields, as `layer_from_json` reads them."""
        return asdict(self)


AnyLayer = MappedLayer | DigitalLayer
"""A layer of a network, wherever it is computed."""


def split_layers(layers: Sequence[AnyLayer]) -> tuple[list[MappedLayer], list[DigitalLayer]]:
    """The layers on crossbars and the digital ones, each in their order."""
    mapped = [layer for layer in layers if isinstance(layer, MappedLayer)]
    return mapped, [layer for layer in layers if isinstance(layer, DigitalLayer)]


def layer_from_json(fields: Mapping[str, Any]) -> AnyLayer:
    """The layer that its `to_json` wrote."""
    return DigitalLayer(**fields) if "macs" in fields else MappedLayer.from_json(fields)
