"""What an accelerator is made of, as records that carry their sources, read from TOML presets.

Three vocabularies tie a component to the layers that use it. *Events* are what a layer makes
happen, *sizes* are what a crossbar needs of its surroundings, *levels* are where a component sits:
crossbar -> IMA -> tile -> chip. All units are SI.
"""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from hwmodel.crossbar import CrossbarSpec
from hwmodel.digital import DigitalUnit
from hwmodel.errors import ConfigError
from hwmodel.records import merge_tables, read_record

__all__ = [
    "EVENTS",
    "KINDS",
    "LEVELS",
    "SIZES",
    "Component",
    "Preset",
    "crossbar_sizes",
    "load_preset",
    "preset_names",
    "scale_factor",
]

LEVELS = ("crossbar", "ima", "tile", "chip")
"""Where a component sits."""

KINDS = ("published", "derived", "fitted", "assumed")
"""Standing of a number: printed, arithmetic on printed ones, a fit, or our own choice."""

EVENTS = (
    "conversion",
    "row_cycle",
    "cell_cycle",
    "register_input_byte",
    "partial_output_byte",
    "buffer_byte",
    "bus_byte",
    "router_byte",
    "output_value",
    "masked_conversion",
)
"""What a layer makes happen; `hwmodel.events` says how often."""

SIZES = (
    "wordlines",
    "bitlines",
    "cells",
    "dac_bits",
    "dac_levels",
    "input_bytes",
    "output_bytes",
    "input_output_bytes",
)
"""What a component may grow with; `crossbar_sizes` says how large each is."""


def crossbar_sizes(spec: CrossbarSpec, output_bits: int) -> dict[str, float]:
    """Each of `SIZES` for one crossbar; bytes are those that one read consumes or produces.

    `dac_levels` doubles with every DAC bit.
    """
    inputs = spec.wordlines * spec.input_bits / 8
    outputs = spec.bitlines // spec.bitlines_per_output * output_bits / 8
    return {
        "wordlines": spec.wordlines,
        "bitlines": spec.bitlines,
        "cells": spec.wordlines * spec.bitlines,
        "dac_bits": spec.dac_bits,
        "dac_levels": 2.0**spec.dac_bits,
        "input_bytes": inputs,
        "output_bytes": outputs,
        "input_output_bytes": inputs + outputs,
    }


def scale_factor(
    names: Iterable[str], spec: CrossbarSpec, reference: CrossbarSpec, output_bits: int
) -> float:
    """Product of the ratios of the named sizes between a crossbar and the reference."""
    here, there = crossbar_sizes(spec, output_bits), crossbar_sizes(reference, output_bits)
    return math.prod(here[name] / there[name] for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One kind of part: its count, its price and how both follow the crossbar.

    Raises:
        ConfigError: a negative or non-finite number, a word outside the vocabularies, a component
            called "adc" (its price is the law's), or a scaling rule at chip level.
    """

    name: str
    level: str
    """One of `LEVELS`."""
    count: float
    """Instances per one of its level; a fraction where several share one."""
    power_w: float
    """Nameplate power of one instance with everything busy, at the reference crossbar."""
    area_m2: float
    """Area of one instance at the reference crossbar."""
    kind: str
    """Standing of power and area, one of `KINDS`."""
    source: str
    scales_with: tuple[str, ...] = ()
    """`SIZES` in proportion to which area and static power grow."""
    energy_scales_with: tuple[str, ...] = ()
    """`SIZES` in proportion to which the energy of an event grows."""
    scaling_kind: str = "assumed"
    """Standing of the two scaling rules."""
    event: str = "none"
    """One of `EVENTS`, or "none"."""
    energy_j: float = 0.0
    """Energy of one event at the reference crossbar."""
    energy_kind: str = "assumed"
    """Standing of the energy."""
    static_power_w: float = 0.0
    """The part of `power_w` that one instance draws always."""
    digital: bool = False
    """Whether area, power and energy follow a node table (`hwmodel.node_scaling`)."""
    io: bool = False
    """Whether it belongs to the chip's links, which a comparison may leave out."""

    def __post_init__(self) -> None:
        where = f"component {self.name!r}"
        for key in ("count", "power_w", "area_m2", "energy_j", "static_power_w"):
            _check_number(getattr(self, key), f"{where}: {key}")
        _check_word(self.level, LEVELS, f"{where}: level")
        _check_word(self.event, (*EVENTS, "none"), f"{where}: event")
        for key in ("kind", "scaling_kind", "energy_kind"):
            _check_word(getattr(self, key), KINDS, f"{where}: {key}")
        for key in ("scales_with", "energy_scales_with"):
            for word in getattr(self, key):
                _check_word(word, SIZES, f"{where}: {key}")
        if self.name == "adc":
            raise ConfigError(
                f"{where}: the ADC's price comes from the ADC law; choose another name"
            )
        if self.level == "chip" and (self.scales_with or self.energy_scales_with):
            raise ConfigError(
                f"{where}: a part of the chip follows no crossbar; scaling allowed: []"
            )
        if self.event == "none" and self.energy_j > 0:
            raise ConfigError(
                f"{where}: energy_j is {self.energy_j!r}; allowed: 0 without an event"
            )
        if self.static_power_w > self.power_w:
            raise ConfigError(
                f"{where}: static_power_w is {self.static_power_w!r}; "
                f"allowed: at most power_w, {self.power_w!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One accelerator: its clock, hierarchy and components.

    Raises:
        ConfigError: a number that is not positive and finite.
    """

    name: str
    source: str
    node_m: float
    """Technology node of every component."""
    read_time_s: float
    """Shortest cycle: the time that a bitline takes to settle."""
    max_adc_rate_hz: float
    """Fastest converter; wider crossbars read more slowly."""
    nameplate_adc_rate_hz: float
    """Rate at which the peak mode prices the ADC of a reference crossbar."""
    pipeline_fill_cycles: int
    """Cycles of one inference on top of those of its layers."""
    output_bits: int
    """Width of a partial sum in registers and on the bus."""
    crossbars_per_ima: int
    imas_per_tile: int
    tiles: int
    reference: CrossbarSpec
    """The crossbar at which the components were priced."""
    crossbar: CrossbarSpec
    """The preset's own crossbar: peak mode, and the default of a plan."""
    components: tuple[Component, ...]
    digital: DigitalUnit = field(default_factory=DigitalUnit)
    """What computes layers that no crossbar holds."""

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, int | float) and part.name != "pipeline_fill_cycles":
                _check_number(value, f"preset {self.name!r}: {part.name}", above_zero=True)
        _check_number(self.pipeline_fill_cycles, f"preset {self.name!r}: pipeline_fill_cycles")

    @property
    def crossbars_per_tile(self) -> int:
        """Crossbars of one tile."""
        return self.crossbars_per_ima * self.imas_per_tile

    @property
    def crossbars(self) -> int:
        """Crossbars of the whole chip."""
        return self.crossbars_per_tile * self.tiles

    def cycle_time_s(self, spec: CrossbarSpec) -> float:
        """Seconds of one input cycle: one ADC converts every bitline of its crossbar in it."""
        return max(self.read_time_s, spec.bitlines / self.max_adc_rate_hz)

    def adc_rate_hz(self, spec: CrossbarSpec) -> float:
        """Conversions per second of a crossbar's ADC (ISAAC: 128 / 100 ns = 1.28 GS/s)."""
        return spec.bitlines / self.cycle_time_s(spec)


def preset_names() -> tuple[str, ...]:
    """The presets that ship with the package, in alphabetical order."""
    names = (item.name for item in files("hwmodel.presets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_preset(name_or_path: str | Path) -> Preset:
    """The preset of that name, or of the TOML file at a path that ends in `.toml`.

    A file may name another as `base` (a preset, or a path relative to itself) and then states
    only what differs.

    Raises:
        ConfigError: no such preset, or a key or value that a preset cannot have.
    """
    where = f"preset {str(name_or_path)!r}"
    table = _read_merged(str(name_or_path), Path(), ())
    if "crossbar" in table:
        table.setdefault("reference", table["crossbar"])
    parts = table.get("components", {})
    if not isinstance(parts, dict):
        raise ConfigError(f"{where}: components is {parts!r}; allowed: tables")
    table["components"] = [
        read_record(Component, _named(name, part), f"{where}: components.{name}")
        for name, part in parts.items()
    ]
    return read_record(Preset, table, where)


def _named(name: str, part: object) -> object:
    """A component's table with its name in it."""
    return {**part, "name": name} if isinstance(part, dict) else part


def _read_merged(source: str, folder: Path, above: tuple[str, ...]) -> dict[str, Any]:
    """The raw tables of a preset, over those of its base."""
    if source.endswith(".toml"):
        path = folder / source
        folder, key = path.parent, str(path.resolve())
    elif source in preset_names():
        path, key = Path(str(files("hwmodel.presets") / f"{source}.toml")), source
    else:
        names = ", ".join(preset_names())
        raise ConfigError(f"preset is {source!r}; allowed: {names}, or a path ending in .toml")
    if key in above:
        raise ConfigError(f"preset {source!r}: base leads back to itself")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"preset {source!r} cannot be read: {error}") from None
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ConfigError(f"preset {source!r}: base is {base!r}; allowed: a name or a path")
    return merge_tables(_read_merged(base, folder, (*above, key)), table)


def _check_number(value: float, where: str, *, above_zero: bool = False) -> None:
    """Refuses a number that is negative, not finite or, where asked, zero."""
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        allowed = "a positive, finite number" if above_zero else "a finite number, 0 or more"
        raise ConfigError(f"{where} is {value!r}; allowed: {allowed}")


def _check_word(value: str, allowed: tuple[str, ...], where: str) -> None:
    """Refuses a word outside its vocabulary."""
    if value not in allowed:
        raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(allowed)}")
