import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.adc import ADC_LAWS, SarSplitLaw, adc_law, check_floor
from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.errors import OutOfRangeError

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


SENSITIVITY = {
    "isaac_sar": "sar_split",
    "accelergy": "survey+extrapolate",
    "zigzag": "imc_cap",
    "pow2 (hwcomponents-library)": "pow2",
    "puma": "linear",
}
ROWS = [row for row in golden("isaac_adc_law_sensitivity.csv") if row["law"] in SENSITIVITY]
"""The laws `saberi`, `table` and `bound` have no rows there."""


def test_only_the_rows_of_neurosim_are_left_out() -> None:
    """Its figures may not be used commercially, so they are neither a law nor reproduced."""
    everything = {row["law"] for row in golden("isaac_adc_law_sensitivity.csv")}
    assert everything - set(SENSITIVITY) == {"neurosim"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['law']}-{row['bits']}")
def test_laws_scale_from_8_bits_as_published(row: dict[str, str]) -> None:
    law = adc_law(SENSITIVITY[row["law"]])
    here, anchor = law.cost(int(row["bits"]), **ISAAC), law.cost(8, **ISAAC)
    energy, area = float(row["adc_energy_ratio"]), float(row["adc_area_ratio"])
    assert here.energy_j / anchor.energy_j == pytest.approx(energy, rel=1e-5)
    assert here.area_m2 / anchor.area_m2 == pytest.approx(area, rel=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['law']}-{row['bits']}")
def test_isaac_gains_what_each_law_says(row: dict[str, str]) -> None:
    """The golden scales ISAAC's own ADCs by each law's ratios, whatever the law's 8-bit cost."""
    law = adc_law(SENSITIVITY[row["law"]])
    here, anchor = law.cost(int(row["bits"]), **ISAAC), law.cost(8, **ISAAC)
    totals = {r["quantity"]: float(r["computed"] or 0) for r in golden("isaac_rollup_golden.csv")}
    per_chip = 168 * 12 / 1e3
    adc_w, adc_mm2 = 16.0 * per_chip, 9.6 * per_chip
    saved_w = adc_w * (1 - here.energy_j / anchor.energy_j)
    saved_mm2 = adc_mm2 * (1 - here.area_m2 / anchor.area_m2)
    for level, prefix in (("chip", "chip"), ("tile", "tiles168")):
        power_w, area_mm2 = totals[f"{prefix}_power"], totals[f"{prefix}_area"]
        # The golden gains divide by the published totals, rounded to three digits.
        gain = power_w / (power_w - saved_w) - 1
        assert gain == pytest.approx(float(row[f"{level}_pe_gain"]), rel=2e-3)
        gain = area_mm2 / (area_mm2 - saved_mm2) - 1
        assert gain == pytest.approx(float(row[f"{level}_ce_gain"]), rel=2e-3)


ANCHORED = ["linear", "pow2", "saberi", "sar_split"]
"""The laws drawn through ISAAC's 8-bit converter; the others have numbers of their own."""
TOTAL = ["imc_cap", *ANCHORED, "survey+extrapolate+monotone"]
"""Every law, asked so that it answers at every resolution."""


@pytest.mark.parametrize("name", ANCHORED)
def test_anchored_laws_pass_through_the_8_bit_converter_of_isaac(name: str) -> None:
    cost = adc_law(name).cost(8, 1.2e9, 32e-9)
    assert cost.power_w == pytest.approx(2e-3, rel=1e-5)
    assert cost.area_m2 == pytest.approx(1200e-12, rel=1e-8)
    assert (cost.law, cost.bits, cost.rate_hz, cost.node_m) == (name, 8, 1.2e9, 32e-9)


@pytest.mark.parametrize("name", TOTAL)
def test_results_carry_law_source_and_validity(name: str) -> None:
    law = adc_law(name)
    cost = law.cost(8, **ISAAC)
    assert (cost.law, cost.source, cost.validity) == (law.name, law.source, law.validity)
    assert adc_law(law.name) == law
    assert "bits" in cost.validity
    assert cost.source


def test_every_law_is_held_to_the_shared_rules() -> None:
    assert {name.partition("+")[0] for name in TOTAL} == set(ADC_LAWS)


@pytest.mark.parametrize("name", TOTAL)
@given(bits=st.integers(1, MAX_ADC_BITS - 1), node_m=st.floats(5e-9, 200e-9))
def test_cost_grows_with_bits_and_node_and_stays_above_the_thermal_bound(
    name: str, bits: int, node_m: float
) -> None:
    law = adc_law(name)
    small, large = law.cost(bits, 1e9, node_m), law.cost(bits + 1, 1e9, node_m)
    # The survey, made monotone, has one price for all low resolutions.
    assert small.energy_j < large.energy_j or (bits < 5 and name.endswith("monotone"))
    assert small.energy_j <= large.energy_j
    assert small.area_m2 <= large.area_m2
    coarser = law.cost(bits, 1e9, node_m * 1.1)
    assert coarser.energy_j >= small.energy_j
    assert coarser.area_m2 >= small.area_m2


@pytest.mark.parametrize("name", TOTAL)
@given(rate_hz=st.floats(1e6, 1e11))
def test_every_law_lies_above_the_thermal_limit_at_32_nm(name: str, rate_hz: float) -> None:
    checks = check_floor(adc_law(name), range(1, 13), rate_hz, 32e-9)
    assert [check.bits for check in checks] == list(range(1, 13))
    assert all(check.is_possible for check in checks)


@pytest.mark.parametrize(
    ("name", "first"),
    [("imc_cap", 9), ("linear", 10), ("pow2", 11), ("saberi", 11), ("sar_split", 10)],
)
def test_laws_without_noise_promise_more_than_the_survey_from_some_resolution(
    name: str, first: int
) -> None:
    """At 1.28 GS/s; the regression over the survey itself stays above the envelope."""
    checks = check_floor(adc_law(name), range(1, 13), **ISAAC)
    assert [check.bits for check in checks if not check.is_published] == list(range(first, 13))
    survey = check_floor(adc_law("survey+extrapolate"), range(1, 13), **ISAAC)
    assert all(check.is_published for check in survey)


@pytest.mark.parametrize("name", ANCHORED)
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
