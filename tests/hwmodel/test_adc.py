import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.adc import ADC_LAWS, SarSplitLaw, adc_law
from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.errors import ConfigError, OutOfRangeError

GOLDEN = Path(__file__).parents[1] / "golden"
ISAAC = {"rate_hz": 1.28e9, "node_m": 32e-9}


def golden(name: str) -> list[dict[str, str]]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("row", golden("adc_isaac_sar_scaled.csv"), ids=lambda row: row["bits"])
def test_sar_split_reproduces_the_tabulated_converters(row: dict[str, str]) -> None:
    cost = adc_law("sar_split").cost(int(row["bits"]), **ISAAC)
    # Some reference areas have two decimals, which is coarser than 1e-5 at 4 bits.
    area_um2 = float(row["area_um2_ref"])
    assert cost.area_m2 * 1e12 == pytest.approx(area_um2, rel=1e-5, abs=5e-3)
    assert cost.area_m2 * 1e12 == pytest.approx(float(row["area_um2_fit"]), rel=1e-5)
    assert cost.energy_j * 1e12 == pytest.approx(float(row["energy_pj_ref"]), rel=6e-3)
    assert not cost.extrapolated


SENSITIVITY = {"isaac_sar": "sar_split", "pow2 (hwcomponents-library)": "pow2", "puma": "linear"}


@pytest.mark.parametrize(
    "row",
    [row for row in golden("isaac_adc_law_sensitivity.csv") if row["law"] in SENSITIVITY],
    ids=lambda row: f"{row['law']}-{row['bits']}",
)
def test_laws_scale_from_8_bits_as_published(row: dict[str, str]) -> None:
    law = adc_law(SENSITIVITY[row["law"]])
    here, anchor = law.cost(int(row["bits"]), **ISAAC), law.cost(8, **ISAAC)
    energy, area = float(row["adc_energy_ratio"]), float(row["adc_area_ratio"])
    assert here.energy_j / anchor.energy_j == pytest.approx(energy, rel=1e-5)
    assert here.area_m2 / anchor.area_m2 == pytest.approx(area, rel=1e-5)


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
def test_every_law_passes_through_the_8_bit_converter_of_isaac(name: str) -> None:
    cost = adc_law(name).cost(8, 1.2e9, 32e-9)
    assert cost.power_w == pytest.approx(2e-3, rel=1e-5)
    assert cost.area_m2 == pytest.approx(1200e-12, rel=1e-8)
    assert (cost.law, cost.bits, cost.rate_hz, cost.node_m) == (name, 8, 1.2e9, 32e-9)
    assert cost.source == adc_law(name).source


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
@given(bits=st.integers(1, MAX_ADC_BITS - 1), node_m=st.floats(5e-9, 200e-9))
def test_cost_grows_with_bits_and_node_and_stays_above_the_thermal_bound(
    name: str, bits: int, node_m: float
) -> None:
    law = adc_law(name)
    small, large = law.cost(bits, 1e9, node_m), law.cost(bits + 1, 1e9, node_m)
    assert small.energy_j < large.energy_j
    assert small.area_m2 <= large.area_m2
    coarser = law.cost(bits, 1e9, node_m * 1.1)
    assert coarser.energy_j >= small.energy_j
    assert coarser.area_m2 >= small.area_m2
    if bits <= 9 and node_m >= 32e-9:
        assert small.energy_j > 8 * 1.380649e-23 * 300 * 1.5 * 4**bits


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
@pytest.mark.parametrize(("bits", "expected"), [(3, True), (4, False), (10, False), (11, True)])
def test_resolutions_beyond_the_tabulated_ones_are_flagged(
    name: str, bits: int, expected: bool
) -> None:
    assert adc_law(name).cost(bits, **ISAAC).extrapolated is expected


def test_node_exponents_and_shares_can_be_replaced() -> None:
    law = SarSplitLaw(energy_node_exponent=2.0, area_node_exponent=0.0, energy_per_level_j=0.0)
    cost = law.cost(4, 1e9, 64e-9)
    assert cost.energy_j == pytest.approx(4 * 4 * 0.194892e-12)
    assert cost.area_m2 == adc_law("sar_split").cost(4, 1e9, 32e-9).area_m2


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
@pytest.mark.parametrize("bits", [0, -1, 4.0, math.nan, True, MAX_ADC_BITS + 1])
def test_impossible_bits_are_named(name: str, bits: int) -> None:
    with pytest.raises(OutOfRangeError, match=r"ADC bits is .*; allowed: an integer from 1"):
        adc_law(name).cost(bits, **ISAAC)


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
@pytest.mark.parametrize("field", ["rate_hz", "node_m"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_rates_and_nodes_are_named(name: str, field: str, value: float) -> None:
    with pytest.raises(OutOfRangeError, match=f"ADC {field} is .*; allowed: a positive"):
        adc_law(name).cost(8, **{**ISAAC, field: value})


def test_an_unknown_law_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'flash'; allowed: .*linear, .*pow2, .*sar_split"):
        adc_law("flash")
