import math
from dataclasses import fields
from itertools import pairwise

import pytest

from hwmodel.components import load_preset
from hwmodel.errors import ConfigError
from hwmodel.node_scaling import at_node, load_node_table, node_table_names

ISAAC = load_preset("isaac")


def test_shipped_tables_cite_their_source_and_never_grow_with_a_smaller_node() -> None:
    assert node_table_names() == ("stillmaker-baas",)
    for name in node_table_names():
        table = load_node_table(name)
        assert table.name == name
        assert table.source
        rows = sorted(table.nodes, key=lambda row: row.node_m)
        for small, large in pairwise(rows):
            assert small.area < large.area
            assert 0 < small.energy_factor < large.energy_factor


def test_factors_of_the_table_by_hand() -> None:
    """Stillmaker & Baas (2017): 32 nm at 0.9 V, e = 0.8367 V^2 - 0.4341 V + 0.1701."""
    table = load_node_table()
    assert table.row(32e-9).energy_factor == pytest.approx(0.457137)
    assert table.row(65e-9).area == 3.3


def test_digital_parts_follow_the_table_and_nothing_else_does() -> None:
    small = at_node(ISAAC, 16e-9)
    table = load_node_table()
    energy = table.row(16e-9).energy_factor / table.row(32e-9).energy_factor
    assert small.node_m == pytest.approx(16e-9)
    analog = set()
    for before, after in zip(ISAAC.components, small.components, strict=True):
        if before.digital:
            assert after.area_m2 == pytest.approx(0.41 * before.area_m2)
            assert after.energy_j == pytest.approx(energy * before.energy_j)
            assert after.power_w == pytest.approx(energy * before.power_w)
        else:
            analog.add(before.name)
            assert after == before
    assert analog == {"dac", "sample_and_hold", "crossbar", "hyper_transport"}
    assert small.digital.mac_area_m2 == pytest.approx(0.41 * ISAAC.digital.mac_area_m2)
    assert small.digital.weight_energy_j == pytest.approx(energy * ISAAC.digital.weight_energy_j)
    kept = {f.name for f in fields(ISAAC)} - {"components", "node_m", "digital"}
    assert all(getattr(small, name) == getattr(ISAAC, name) for name in kept)


@pytest.mark.parametrize("node_m", [None, 32e-9, 32 * 1e-9])
def test_the_presets_own_node_changes_nothing(node_m: float | None) -> None:
    assert at_node(ISAAC, node_m) is ISAAC


@pytest.mark.parametrize("node_m", [22e-9, 0.0, -1.0, math.nan])
def test_nodes_outside_the_table_are_refused(node_m: float) -> None:
    with pytest.raises(ConfigError, match=r"allowed by table 'stillmaker-baas': 130, 90, .* nm"):
        at_node(ISAAC, node_m)


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="node table is 'dennard'; allowed: stillmaker-baas"):
        at_node(ISAAC, None, "dennard")
