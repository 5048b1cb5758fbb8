"""What the cost model answers: trees whose totals are sums of their leaves, and plain records."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from hwmodel.components import LEVELS
from hwmodel.layers import DigitalLayer

__all__ = [
    "CostNode",
    "CostReport",
    "CostTotals",
    "LayerCost",
    "LayerLeaves",
    "Leaf",
    "NameplateLevel",
    "PeakReport",
    "gain",
    "quotient",
    "ratio",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostNode:
    """A part of the accelerator; a leaf is a component, anything else the sum of its leaves."""

    name: str
    count: float
    """Instances; a fraction where a share is carried."""
    area_m2: float
    power_w: float
    """Nameplate in peak mode, energy over latency in workload mode."""
    energy_j: float
    """Energy of one inference; 0 in peak mode."""
    children: tuple["CostNode", ...] = ()

    @classmethod
    def group(cls, name: str, count: float, children: Iterable["CostNode"]) -> "CostNode":
        """The node above `children`; its totals are sums over all leaves below it."""
        children = tuple(children)
        leaves = [leaf for child in children for leaf in child.leaves()]
        return cls(
            name=name,
            count=count,
            area_m2=math.fsum(leaf.area_m2 for leaf in leaves),
            power_w=math.fsum(leaf.power_w for leaf in leaves),
            energy_j=math.fsum(leaf.energy_j for leaf in leaves),
            children=children,
        )

    def leaves(self) -> Iterator["CostNode"]:
        """The components below this node, or the node itself."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def to_json(self) -> dict[str, Any]:
        """Nested plain fields."""
        return {
            "name": self.name,
            "count": self.count,
            "area_m2": self.area_m2,
            "power_w": self.power_w,
            "energy_j": self.energy_j,
            "children": [child.to_json() for child in self.children],
        }


class Leaf(NamedTuple):
    """One component of one layer, in numbers."""

    level: str
    name: str
    number: float
    area_m2: float
    energy_j: float


class LayerLeaves(NamedTuple):
    """The components of one layer (or of the chip), column by column: what `Leaf` is row by row.

    Columns are what sums need, and quick to make; rows are made when somebody asks.
    """

    levels: tuple[str, ...]
    names: tuple[str, ...]
    numbers: tuple[float, ...]
    areas_m2: tuple[float, ...]
    energies_j: tuple[float, ...]
    adc_count: int = 0
    """How many rows, the last ones, are ADCs."""

    @property
    def adc_areas_m2(self) -> tuple[float, ...]:
        """Areas of the ADCs."""
        return self.areas_m2[len(self.areas_m2) - self.adc_count :]

    @property
    def adc_energies_j(self) -> tuple[float, ...]:
        """Energies of the ADCs."""
        return self.energies_j[len(self.energies_j) - self.adc_count :]

    def rows(self) -> tuple[Leaf, ...]:
        """The components one by one."""
        return tuple(map(Leaf, *self[:5]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer's part of a `CostReport`."""

    name: str
    crossbars: int
    """Crossbars that the layer uses."""
    wordlines: int
    bitlines: int
    adc_bits: int
    """What the layer's own worst bitline needs, whatever the policy builds."""
    adc_bits_per_slice: tuple[int, ...]
    conversions: int
    replication: int
    """Copies of the layer among its crossbars."""
    utilisation: float
    """Share of the cells of its crossbars that the layer's matrix occupies."""
    built_crossbars: int
    """Crossbars paid for: more than used when whole IMAs and tiles are built."""
    built_adc_bits: int
    """Resolution of the ADCs paid for; 0: none."""
    time_s: float
    """Seconds that the layer takes for all positions of one inference."""
    leaves: LayerLeaves
    """Its components."""

    @property
    def adc_area_m2(self) -> float:
        """Area of its ADCs."""
        return math.fsum(self.leaves.adc_areas_m2)

    @property
    def adc_energy_j(self) -> float:
        """Energy of its ADCs in one inference."""
        return math.fsum(self.leaves.adc_energies_j)

    @property
    def area_m2(self) -> float:
        """Area of all its components."""
        return math.fsum(self.leaves.areas_m2)

    @property
    def energy_j(self) -> float:
        """Energy of all its components in one inference."""
        return math.fsum(self.leaves.energies_j)

    def to_json(self) -> dict[str, Any]:
        """The fields that other programs rely on."""
        return {
            "name": self.name,
            "crossbars": self.crossbars,
            "wordlines": self.wordlines,
            "bitlines": self.bitlines,
            "adc_bits": self.adc_bits,
            "adc_bits_per_slice": list(self.adc_bits_per_slice),
            "conversions": self.conversions,
            "replication": self.replication,
            "utilisation": self.utilisation,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTotals:
    """A network as a whole. Ratios to nothing (no crossbars, no energy) are 0."""

    adc_area_m2: float
    adc_power_w: float
    """ADC energy of one inference over its latency."""
    area_m2: float
    power_w: float
    """Energy of one inference over its latency."""
    energy_j: float
    """Energy of one inference."""
    latency_s: float
    """Seconds from the first input to the last output of one inference."""
    ops_per_s: float
    """2 x dense multiply-accumulates x inferences per second, layers working as a pipeline: the
    slowest sets the pace. Dense-equivalent: pruned weights count."""
    ops_per_s_per_w: float
    """2 x dense multiply-accumulates of one inference / its energy (ops per joule): independent of
    how well the pipeline is balanced, hence not `ops_per_s / power_w`."""
    ops_per_s_per_m2: float
    """`ops_per_s / area_m2`."""
    crossbars: int
    """Crossbars in use."""
    effective_ops_per_s: float
    """As `ops_per_s`, but only multiply-accumulates with non-zero weights count."""
    effective_ops_per_s_per_w: float
    """As `ops_per_s_per_w`, but only multiply-accumulates with non-zero weights count."""
    effective_ops_per_s_per_m2: float
    """`effective_ops_per_s / area_m2`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """The cost of one inference of a network (workload mode)."""

    mode: str = "workload"
    law: str
    policy: str
    provisioning: str
    extrapolated: bool
    """Whether the law was asked outside its points for any layer."""
    layers: tuple[LayerCost, ...]
    totals: CostTotals
    chip: LayerLeaves
    """The leaves that no layer owns."""
    digital: tuple[DigitalLayer, ...]
    """Layers that lie on no crossbar."""
    array: LayerLeaves
    """The digital MAC array that computes them."""

    @property
    def tree(self) -> CostNode:
        """Network -> layer -> level -> component, built anew on each call."""
        children = [
            CostNode.group(layer.name, layer.built_crossbars, self._levels(layer.leaves.rows()))
            for layer in self.layers
        ]
        shared = (*self.chip.rows(), *self.array.rows())
        return CostNode.group("network", 1, [*children, *self._levels(shared)])

    def by_component(self) -> dict[str, dict[str, float]]:
        """Area and energy of each component over all layers, largest energy first."""
        found: dict[str, list[Leaf]] = {}
        for leaves in (*(layer.leaves for layer in self.layers), self.chip, self.array):
            for leaf in leaves.rows():
                found.setdefault(leaf.name, []).append(leaf)
        sums = {
            name: {
                "area_m2": math.fsum(leaf.area_m2 for leaf in leaves),
                "energy_j": math.fsum(leaf.energy_j for leaf in leaves),
            }
            for name, leaves in found.items()
        }
        return dict(sorted(sums.items(), key=lambda item: -item[1]["energy_j"]))

    def to_json(self) -> dict[str, Any]:
        """The fields that other programs rely on."""
        return {
            "law": self.law,
            "policy": self.policy,
            "extrapolated": self.extrapolated,
            "layers": [layer.to_json() for layer in self.layers],
            "digital": [layer.to_json() for layer in self.digital],
            "totals": asdict(self.totals),
            "tree": self.tree.to_json(),
        }

    def _levels(self, leaves: tuple[Leaf, ...]) -> Iterator[CostNode]:
        """The leaves as nodes, under one node per level."""
        for level in (*LEVELS, "digital"):
            nodes = [
                CostNode(
                    name=leaf.name,
                    count=leaf.number,
                    area_m2=leaf.area_m2,
                    power_w=quotient(leaf.energy_j, self.totals.latency_s),
                    energy_j=leaf.energy_j,
                )
                for leaf in leaves
                if leaf.level == level
            ]
            if nodes:
                yield CostNode.group(level, 1, nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameplateLevel:
    """Everything in one IMA, tile, set of tiles or chip."""

    power_w: float
    area_m2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakReport:
    """A whole chip with everything busy (peak mode). The chip includes its links."""

    mode: str = "peak"
    law: str
    adc_bits: int
    extrapolated: bool
    ima: NameplateLevel
    tile: NameplateLevel
    tiles: NameplateLevel
    """All tiles of the chip, without its links."""
    chip: NameplateLevel
    crossbars: int
    storage_bytes: float
    """What all cells hold."""
    conversions_per_mac: float
    """ADC conversions per multiply-accumulate, the unit bitline apart."""
    ops_per_s: float
    """2 x multiply-accumulates per second."""
    ops_per_s_per_w: float
    """`ops_per_s` / chip power."""
    ops_per_s_per_m2: float
    """`ops_per_s` / chip area."""
    tile_power_shares: Mapping[str, float]
    """Share of each component in a tile's power."""
    tile_area_shares: Mapping[str, float]
    """Share of each component in a tile's area."""
    tree: CostNode

    def to_json(self) -> dict[str, Any]:
        """Plain fields; each level is `{"power_w", "area_m2"}`."""
        names = [name for name in self.__dataclass_fields__ if name != "tree"]
        plain = {name: getattr(self, name) for name in names}
        for level in ("ima", "tile", "tiles", "chip"):
            plain[level] = asdict(plain[level])
        for shares in ("tile_power_shares", "tile_area_shares"):
            plain[shares] = dict(plain[shares])
        return {**plain, "tree": self.tree.to_json()}


def ratio(dense: CostReport, this: CostReport) -> dict[str, float]:
    """How many times cheaper `this` is: dense / this; infinite where `this` costs nothing."""
    pairs = {
        "adc_area": "adc_area_m2",
        "adc_power": "adc_power_w",
        "area": "area_m2",
        "power": "power_w",
        "energy": "energy_j",
    }
    return {
        name: gain(getattr(dense.totals, field), getattr(this.totals, field))
        for name, field in pairs.items()
    }


def gain(before: float, after: float) -> float:
    """How many times less `after` is: infinite where it is nothing, 1 where both are."""
    if after > 0:
        return before / after
    return 1.0 if before == 0 else math.inf


def quotient(above: float, below: float) -> float:
    """The quotient, or 0 when there is nothing to divide by."""
    return above / below if below > 0 else 0.0
