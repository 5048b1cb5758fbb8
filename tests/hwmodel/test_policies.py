import math
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.accelerator import CostModel
from hwmodel.adc import AdcCost, SarSplitLaw, adc_law
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer
from hwmodel.policies import POLICIES, assign_types, linear_share, read_policy

PRESET = load_preset("isaac-8bit-weights")
SAR = adc_law("sar_split")


def layer(name: str, nonzeros: int | None = None, **fields: int) -> MappedLayer:
    shape = LayerShape(name=name, **{"rows": 200, "outputs": 40, "positions": 5, **fields})
    return plan_layer(shape, CrossbarSpec(), nonzeros=nonzeros)


LAYERS = [layer("a"), layer("b", 20), layer("c", 5, outputs=900), layer("d", 1)]


@settings(max_examples=80, deadline=None)
@given(
    layers=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=7),
    types=st.integers(1, 4),
    law=st.sampled_from(("linear", "pow2", "sar_split")),
)
def test_types_are_assigned_at_the_least_area(
    layers: list[tuple[int, int]], types: int, law: str
) -> None:
    needs = [bits for bits, _ in layers]
    price = [0.0] + [adc_law(law).cost(bits, 1e9, 32e-9).area_m2 for bits in range(1, 10)]

    def area_m2(index: int, bits: int) -> float:
        return layers[index][1] * price[bits]

    built = assign_types(needs, types, area_m2)
    assert len({bits for bits in built if bits}) <= types
    assert all(
        have >= need and (have > 0) == (need > 0) for have, need in zip(built, needs, strict=True)
    )
    best = math.inf
    for kinds in combinations_with_replacement(range(1, 10), types):
        if max(kinds) >= max(needs):
            chosen = [
                min((k for k in kinds if k >= need), default=0) if need else 0 for need in needs
            ]
            best = min(best, sum(area_m2(i, bits) for i, bits in enumerate(chosen)))
    found = sum(area_m2(i, bits) for i, bits in enumerate(built))
    assert found == pytest.approx(best if max(needs) else 0.0)


def test_types_lie_between_one_for_all_and_one_for_each() -> None:
    areas = [
        CostModel(PRESET, SAR, policy).evaluate(LAYERS).totals.adc_area_m2
        for policy in (
            "layer",
            "tile_types:9",
            "tile_types:3",
            "tile_types:2",
            "tile_types:1",
            "chip_max",
        )
    ]
    assert areas[0] == areas[1]
    assert areas[4] == areas[5]
    assert areas == sorted(areas)
    assert areas[1] < areas[2] < areas[3] < areas[4]


def test_tiles_hold_one_type_each() -> None:
    layers = [
        layer("a"),
        layer("b", 1),
        replace(LAYERS[3], segments_per_slice=(0,) * 4, adc_bits_per_slice=(0,) * 4),
    ]
    whole = [
        CostModel(PRESET, SAR, policy, "whole").evaluate(layers)
        for policy in ("chip_max", "tile_types:2")
    ]
    built = [sum(x.built_crossbars for x in report.layers) for report in whole]
    assert built == [96, 192]
    assert all(x.built_crossbars % 8 == 0 for report in whole for x in report.layers)


def test_an_early_stop_saves_the_linear_part_of_the_energy_and_no_area() -> None:
    worst = CostModel(PRESET, SAR, "chip_max").evaluate(LAYERS)
    early = CostModel(PRESET, SAR, "early_stop").evaluate(LAYERS)
    assert early.totals.adc_area_m2 == worst.totals.adc_area_m2
    linear, array = 0.194892e-12, 0.00042003e-12 * 2**9
    for before, after in zip(worst.layers, early.layers, strict=True):
        each = after.adc_energy_j / after.conversions
        assert after.built_adc_bits == 9
        assert each == pytest.approx(linear * after.adc_bits + array, rel=1e-9)
        assert after.adc_energy_j <= before.adc_energy_j


@pytest.mark.parametrize(("law", "share"), [("linear", 1.0), ("pow2", 0.0)])
@pytest.mark.parametrize("bits", [2, 5, 9])
def test_the_linear_share_of_pure_laws(law: str, share: float, bits: int) -> None:
    chosen = adc_law(law)
    assert linear_share(chosen, chosen.cost(bits, 1e9, 32e-9)) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_linear_share_of_a_split_sar_is_its_coefficient(bits: int) -> None:
    linear = 0.194892 * bits
    share = linear_share(SAR, SAR.cost(bits, 1e9, 65e-9))
    assert share == pytest.approx(linear / (linear + 0.00042003 * 2**bits), rel=1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortLaw(SarSplitLaw):
    """A table of a few resolutions."""

    least: int = 7

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        if not self.least <= bits <= 8:
            raise OutOfRangeError(f"ADC bits is {bits}; allowed: {self.least} to 8")
        return SAR.cost(bits, rate_hz, node_m)


def test_the_linear_share_at_the_end_of_a_law_comes_from_below() -> None:
    adc = SAR.cost(8, 1e9, 32e-9)
    assert linear_share(ShortLaw(), adc) == pytest.approx(linear_share(SAR, adc), rel=1e-9)
    with pytest.raises(OutOfRangeError, match="ADC bits is 7"):
        linear_share(ShortLaw(least=8), adc)
    with pytest.raises(OutOfRangeError, match="ADC bits is 3"):
        linear_share(ShortLaw(), SAR.cost(2, 1e9, 32e-9))


def test_one_bit_is_all_linear() -> None:
    assert linear_share(SAR, SAR.cost(1, 1e9, 32e-9)) == 1.0


def test_slices_lie_on_their_own_crossbars_with_their_own_adcs() -> None:
    # 40 outputs: 3 crossbars across together; 64 outputs fit on one where a slice lies alone.
    mapped = replace(layer("a"), adc_bits_per_slice=(7, 0, 4, 2), segments_per_slice=(9, 0, 8, 7))
    report = CostModel(PRESET, SAR, "slice").evaluate([mapped])
    record = report.layers[0]
    reads = 5 * 8
    assert (record.crossbars, mapped.crossbars) == (4 * 2, 3 * 2)
    assert record.conversions == 24 * reads == mapped.conversions
    adcs = [leaf for leaf in report.tree.leaves() if leaf.name == "adc"]
    costs = [SAR.cost(bits, 1e9, 32e-9) for bits in (7, 4, 2)]
    assert [leaf.count for leaf in adcs] == [2, 2, 2]
    assert [leaf.area_m2 for leaf in adcs] == [2 * cost.area_m2 for cost in costs]
    assert [leaf.energy_j for leaf in adcs] == pytest.approx(
        [cost.energy_j * n * reads for cost, n in zip(costs, (9, 8, 7), strict=True)]
    )
    assert record.built_adc_bits == 7
    whole = CostModel(PRESET, SAR, "slice", "whole").evaluate([mapped])
    leaves = [leaf for leaf in whole.tree.leaves() if leaf.name == "adc"]
    assert [leaf.count for leaf in leaves] == [2 + 96 - 8, 2, 2]


def test_every_slice_of_a_flipped_layer_reads_its_own_unit_bitline() -> None:
    spec = CrossbarSpec(sign_encoding=SignEncoding.FLIPPED)
    mapped = plan_layer(LayerShape(name="a", rows=100, outputs=20, positions=3), spec)
    record = CostModel(PRESET, SAR, "slice").evaluate([mapped]).layers[0]
    assert record.crossbars == 4
    assert record.conversions == (4 * 20 + 4) * 3 * 8


@pytest.mark.parametrize("policy", [*POLICIES, "tile_types:3"])
@pytest.mark.parametrize("provisioning", ["share", "whole"])
def test_totals_stay_sums_of_their_leaves(policy: str, provisioning: str) -> None:
    report = CostModel(PRESET, SAR, policy, provisioning).evaluate(LAYERS)
    leaves = list(report.tree.leaves())
    assert math.fsum(leaf.area_m2 for leaf in leaves) == report.totals.area_m2
    assert math.fsum(leaf.energy_j for leaf in leaves) == report.totals.energy_j
    adcs = [leaf for leaf in leaves if leaf.name == "adc"]
    assert math.fsum(leaf.area_m2 for leaf in adcs) == report.totals.adc_area_m2


@pytest.mark.parametrize(
    "name", ["best", "tile_types", "tile_types:", "tile_types:0", "tile_types:-1", "tile_types:x"]
)
def test_unknown_policies_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ADC policy is '{name}'; allowed"):
        read_policy(name)
