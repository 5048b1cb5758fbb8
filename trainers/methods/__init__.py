"""Methods by name: each a settings class and the class that it sets up."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, NamedTuple, cast

from hwmodel.errors import ConfigError, SpecError
from trainers.method import LayerTarget, Method
from trainers.methods.admm_nn import AdmmNn, AdmmNnConfig
from trainers.methods.bitslice_l1 import BitsliceL1, BitsliceL1Config
from trainers.methods.circulant import CirculantConfig, CirculantMethod
from trainers.methods.dub import Dub, DubConfig
from trainers.methods.level_sum import LevelSumConfig, LevelSumMethod
from trainers.methods.magnitude import Magnitude, MagnitudeConfig
from trainers.methods.memristor import Memristor, MemristorConfig
from trainers.methods.plain import Dense, DenseConfig, Structured, StructuredConfig
from trainers.methods.tinyadc import (
    TinyAdc,
    TinyAdcConfig,
    TinyAdcStraightThrough,
    tinyadc_variant,
)
from trainers.methods.xma import Xma, XmaConfig
from trainers.own import is_own, load_own

__all__ = [
    "ALL_SETTINGS",
    "METHODS",
    "STRENGTHS",
    "AdmmNn",
    "AdmmNnConfig",
    "BitsliceL1",
    "BitsliceL1Config",
    "CirculantConfig",
    "CirculantMethod",
    "Dense",
    "DenseConfig",
    "Dub",
    "DubConfig",
    "LevelSumConfig",
    "LevelSumMethod",
    "Magnitude",
    "MagnitudeConfig",
    "Memristor",
    "MemristorConfig",
    "MethodConfig",
    "MethodEntry",
    "Structured",
    "StructuredConfig",
    "TinyAdc",
    "TinyAdcConfig",
    "TinyAdcStraightThrough",
    "Xma",
    "XmaConfig",
    "build_method",
    "method_entry",
    "method_name",
]

MethodConfig = (
    TinyAdcConfig
    | LevelSumConfig
    | MemristorConfig
    | AdmmNnConfig
    | BitsliceL1Config
    | DubConfig
    | CirculantConfig
    | XmaConfig
    | MagnitudeConfig
    | DenseConfig
    | StructuredConfig
)
"""The settings of any method."""


class MethodEntry(NamedTuple):
    """How a method is configured, built and searched."""

    config: type[MethodConfig]
    method: type[Method]
    """Its class; where it has several, one of them: all read the same settings."""
    variant: Callable[[Any], type[Method]] | None = None
    """The class that a configuration asks for, where there are several."""

    @property
    def settings(self) -> tuple[str, ...]:
        """What it reads of a layer's setting: its dimensions in a search."""
        return self.method.settings

    def build(self, targets: Mapping[str, LayerTarget], config: MethodConfig) -> Method:
        """The method with settings of its own kind, for these targets."""
        chosen = self.method if self.variant is None else self.variant(config)
        return cast(Callable[..., Method], chosen)(targets, config)


METHODS: dict[str, MethodEntry] = {
    "tinyadc": MethodEntry(TinyAdcConfig, TinyAdc, tinyadc_variant),
    "level-sum": MethodEntry(LevelSumConfig, LevelSumMethod),
    "memristor": MethodEntry(MemristorConfig, Memristor),
    "admm-nn": MethodEntry(AdmmNnConfig, AdmmNn),
    "bitslice-l1": MethodEntry(BitsliceL1Config, BitsliceL1),
    "dub": MethodEntry(DubConfig, Dub),
    "circulant": MethodEntry(CirculantConfig, CirculantMethod),
    "magnitude": MethodEntry(MagnitudeConfig, Magnitude),
    "structured": MethodEntry(StructuredConfig, Structured),
    "xma": MethodEntry(XmaConfig, Xma),
    "dense": MethodEntry(DenseConfig, Dense),
}

STRENGTHS = ("nonzeros", "adc_bits", "kept_weights", "weight_levels", "block_size")
"""Settings of a layer that say how strongly a method prunes it; each method reads some."""

ALL_SETTINGS = (*STRENGTHS, "kept_shapes", "kept_filters")
"""All that a method can read of a layer's setting."""


_OWN: dict[str, MethodEntry] = {}
"""Methods of the user's, as they were asked for."""


def method_entry(name: object) -> MethodEntry:
    """The method of this name, or `module:Class` of the user's.

    A method of one's own is a subclass of `trainers.method.Method` whose attribute `config` is the
    dataclass of its settings; it is called with targets and such settings.

    Raises:
        ConfigError: an unknown name, or a class that is no method.
    """
    if isinstance(name, str) and is_own(name):
        if name not in _OWN:
            _OWN[name] = _own_entry(name)
        return _OWN[name]
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"method {name!r}; allowed: {', '.join(METHODS)}, or module:Class")
    return METHODS[name]


def method_name(config: MethodConfig) -> str:
    """The name of the method that settings are of."""
    entries = {**METHODS, **_OWN}.items()
    return next(name for name, entry in entries if type(config) is entry.config)


def _own_entry(name: str) -> MethodEntry:
    found = load_own(name, "method")
    if not isinstance(found, type) or not issubclass(found, Method):
        raise ConfigError(f"method {name!r}; allowed: a subclass of trainers.method.Method")
    config = getattr(found, "config", None)
    if not isinstance(config, type) or not is_dataclass(config):
        raise ConfigError(f"method {name!r} has no attribute config; allowed: its dataclass")
    unknown = [setting for setting in found.settings if setting not in ALL_SETTINGS]
    if unknown:
        allowed = ", ".join(ALL_SETTINGS)
        raise ConfigError(f"method {name!r} reads {', '.join(unknown)}; allowed: {allowed}")
    return MethodEntry(cast(type[MethodConfig], config), found)


def build_method(name: str, config: MethodConfig, targets: Mapping[str, LayerTarget]) -> Method:
    """The method with these settings, for these targets.

    Raises:
        ConfigError: an unknown method, or settings of another one.
        SpecError: a target that asks for what the method does not do.
    """
    entry = method_entry(name)
    if type(config) is not entry.config:
        raise ConfigError(f"{type(config).__name__}: settings of another method than {name!r}")
    for layer, target in targets.items():
        for strength in STRENGTHS:
            if getattr(target, strength) is not None and strength not in entry.settings:
                allowed = ", ".join(entry.settings) or "none"
                raise SpecError(
                    f"{layer}: {strength} is set, which method {name!r} does not read; "
                    f"its settings: {allowed}"
                )
    return entry.build(targets, config)
