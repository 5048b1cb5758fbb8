"""The digital parts of a preset at another technology node, by a named table.

Components marked `digital` follow the table; drivers, sample-and-hold, cells and links do not, and
the ADC law is asked at the new node and scales by its own rule. Clocks stay, so that power follows
energy. All of that is assumed; only the tables are published.
"""

import math
import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files

from hwmodel.components import Component, Preset
from hwmodel.errors import ConfigError
from hwmodel.records import read_record

__all__ = ["NODE_TABLE", "NodeRow", "NodeTable", "at_node", "load_node_table", "node_table_names"]

NODE_TABLE = "stillmaker-baas"
"""The default table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node of a table."""

    node_m: float
    area: float
    """Area of the same circuit, relative to the table's other nodes."""
    supply_v: float
    """Supply at which the energy is taken."""
    energy: tuple[float, ...]
    """Coefficients of a polynomial in the supply, highest power first."""

    @property
    def energy_factor(self) -> float:
        """Energy of the same operation, relative to the table's other nodes."""
        top = len(self.energy) - 1
        return math.fsum(c * self.supply_v ** (top - i) for i, c in enumerate(self.energy))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTable:
    """How area and energy of digital parts follow the node."""

    name: str
    source: str
    area_kind: str
    """Standing of the areas: published, derived, fitted or assumed."""
    energy_kind: str
    """Standing of the ratios of energies."""
    nodes: tuple[NodeRow, ...]

    def row(self, node_m: float) -> NodeRow:
        """The row of a node.

        Raises:
            ConfigError: a node that the table does not have; the message names those it has.
        """
        for row in self.nodes:
            if math.isclose(row.node_m, node_m, rel_tol=1e-6):
                return row
        known = ", ".join(f"{row.node_m * 1e9:g}" for row in self.nodes)
        raise ConfigError(
            f"node is {node_m * 1e9:g} nm; allowed by table {self.name!r}: {known} nm"
        )


def node_table_names() -> tuple[str, ...]:
    """The tables that ship with the package, in alphabetical order."""
    names = (item.name for item in files("hwmodel.nodes").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_node_table(name: str = NODE_TABLE) -> NodeTable:
    """The table called `name`.

    Raises:
        ConfigError: no such table; the message names those that exist.
    """
    if name not in node_table_names():
        allowed = ", ".join(node_table_names())
        raise ConfigError(f"node table is {name!r}; allowed: {allowed}")
    text = (files("hwmodel.nodes") / f"{name}.toml").read_text(encoding="utf-8")
    return read_record(NodeTable, tomllib.loads(text), f"node table {name!r}")


def at_node(preset: Preset, node_m: float | None, table: str = NODE_TABLE) -> Preset:
    """The preset with its digital parts at `node_m` metres (None, or its own: unchanged).

    Raises:
        ConfigError: no such table, or a node that it does not have.
    """
    chosen = load_node_table(table)
    if node_m is None or math.isclose(node_m, preset.node_m, rel_tol=1e-6):
        return preset
    here, there = chosen.row(preset.node_m), chosen.row(node_m)
    area, energy = there.area / here.area, there.energy_factor / here.energy_factor
    return replace(
        preset,
        node_m=there.node_m,
        components=tuple(
            _scaled(part, area, energy) if part.digital else part for part in preset.components
        ),
        digital=replace(
            preset.digital,
            mac_area_m2=preset.digital.mac_area_m2 * area,
            weight_area_m2=preset.digital.weight_area_m2 * area,
            mac_energy_j=preset.digital.mac_energy_j * energy,
            weight_energy_j=preset.digital.weight_energy_j * energy,
        ),
    )


def _scaled(part: Component, area: float, energy: float) -> Component:
    """The component times two factors."""
    return replace(
        part,
        area_m2=part.area_m2 * area,
        energy_j=part.energy_j * energy,
        power_w=part.power_w * energy,
        static_power_w=part.static_power_w * energy,
    )
