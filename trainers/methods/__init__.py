"""Pruning methods by name."""

from collections.abc import Mapping
from typing import Any, Protocol

from hwmodel.errors import ConfigError
from trainers.method import LayerTarget, Method
from trainers.methods.magnitude import Magnitude, MagnitudeConfig
from trainers.methods.tinyadc import TinyAdc, TinyAdcConfig

__all__ = [
    "METHOD_CONFIGS",
    "Magnitude",
    "MagnitudeConfig",
    "MethodConfig",
    "TinyAdc",
    "TinyAdcConfig",
    "build_method",
]

MethodConfig = TinyAdcConfig | MagnitudeConfig
"""The settings of any method."""


class _Builder(Protocol):
    def __call__(self, targets: Mapping[str, LayerTarget], config: Any) -> Method: ...


METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "tinyadc": TinyAdcConfig,
    "magnitude": MagnitudeConfig,
}
_BUILDERS: dict[type, _Builder] = {TinyAdcConfig: TinyAdc, MagnitudeConfig: Magnitude}


def build_method(config: MethodConfig, targets: Mapping[str, LayerTarget]) -> Method:
    """The method that the settings describe, for these targets.

    Raises:
        ConfigError: settings of no known method.
    """
    try:
        return _BUILDERS[type(config)](targets, config)
    except KeyError:
        known = ", ".join(METHOD_CONFIGS)
        raise ConfigError(f"{type(config).__name__} is no method; allowed: {known}") from None
