import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.adc import SurveyLaw
from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.errors import OutOfRangeError

RATE_HZ, NODE_M = 1.28e9, 32e-9
GOLDEN = Path(__file__).parents[2] / "golden" / "adc_accelergy_coefficients.csv"
FIELDS = {
    "foms_intercept_db": "fom_at_1_hz_db",
    "foms_slope_db_per_ln_hz": "fom_per_ln_hz_db",
    "foms_cap_intercept_db": "fom_cap_db",
    "foms_cap_slope_db_per_bit": "fom_cap_per_bit_db",
    "energy_ln_intercept": "energy_ln",
    "energy_ln_best20pct_residual": "energy_best_ln",
    "energy_ln_tech_exponent": "energy_node_exponent",
    "energy_ln_enob_exponent": "energy_bits_exponent",
    "area_ln_intercept": "area_ln",
    "area_tech_exponent": "area_node_exponent",
    "area_freq_exponent": "area_rate_exponent",
    "area_energy_exponent": "area_energy_exponent",
}


def test_spot_value_of_the_plug_in() -> None:
    cost = SurveyLaw().cost(8, RATE_HZ, NODE_M)
    assert cost.energy_j * 1e12 == pytest.approx(1.929212, abs=5e-7)
    assert cost.area_m2 * 1e12 == pytest.approx(6469.268, abs=5e-4)
    assert not cost.extrapolated


def test_coefficients_are_those_of_the_plug_in() -> None:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["name"] for row in rows} == set(FIELDS)
    for row in rows:
        assert getattr(SurveyLaw(), FIELDS[row["name"]]) == pytest.approx(float(row["value"]))


@pytest.mark.parametrize(
    ("bits", "energy_pj", "area_um2"),
    [(8, 1.93, 6469), (6, 1.07, 5416), (5, 0.94, 5211), (4, 0.92, 5190), (3, 1.09, 5460)],
)
def test_published_closed_form_is_reproduced(bits: int, energy_pj: float, area_um2: float) -> None:
    cost = SurveyLaw(extrapolate=True).cost(bits, RATE_HZ, NODE_M)
    assert cost.energy_j * 1e12 == pytest.approx(energy_pj, abs=0.006)
    assert cost.area_m2 * 1e12 == pytest.approx(area_um2, abs=0.6)


UNKNOWN = [(3, RATE_HZ), (20, RATE_HZ), (8, 1.1e10)]


@pytest.mark.parametrize(("bits", "rate_hz"), UNKNOWN)
def test_what_the_survey_cannot_know_is_refused(bits: int, rate_hz: float) -> None:
    with pytest.raises(OutOfRangeError, match=r"4 to 19 bits, up to 1e\+10 Hz, or .*extrapolate"):
        SurveyLaw().cost(bits, rate_hz, NODE_M)


@pytest.mark.parametrize(("bits", "rate_hz"), UNKNOWN)
def test_what_is_asked_for_all_the_same_is_flagged(bits: int, rate_hz: float) -> None:
    assert SurveyLaw(extrapolate=True).cost(bits, rate_hz, NODE_M).extrapolated


@pytest.mark.parametrize(("bits", "rate_hz"), [(4, RATE_HZ), (19, 1e6), (8, 1e10)])
def test_edges_of_the_survey_are_known(bits: int, rate_hz: float) -> None:
    known, asked = (
        SurveyLaw(extrapolate=asked).cost(bits, rate_hz, NODE_M) for asked in (False, True)
    )
    assert not known.extrapolated
    assert not asked.extrapolated
    assert known.energy_j == asked.energy_j


def test_closed_form_grows_again_below_4_bits_and_monotone_does_not() -> None:
    plain, monotone = (
        [SurveyLaw(extrapolate=True, monotone=m).cost(b, RATE_HZ, NODE_M) for b in range(1, 13)]
        for m in (False, True)
    )
    assert plain[0].energy_j > plain[1].energy_j > plain[2].energy_j > plain[3].energy_j
    assert len({cost.energy_j for cost in monotone[:4]}) == 1
    assert len({cost.area_m2 for cost in monotone[:4]}) == 1
    assert [c.energy_j for c in monotone[3:]] == [c.energy_j for c in plain[3:]]
    assert [c.area_m2 for c in monotone[3:]] == [c.area_m2 for c in plain[3:]]


@given(
    bits=st.integers(1, MAX_ADC_BITS - 1), rate_hz=st.floats(1, 1e13), node_m=st.floats(1e-9, 1e-6)
)
def test_monotone_is_the_least_over_all_higher_resolutions(
    bits: int, rate_hz: float, node_m: float
) -> None:
    law, plain = SurveyLaw(extrapolate=True, monotone=True), SurveyLaw(extrapolate=True)
    higher = range(bits, MAX_ADC_BITS + 1)
    least = min(plain.cost(count, rate_hz, node_m).energy_j for count in higher)
    assert law.cost(bits, rate_hz, node_m).energy_j == least


@given(rate_hz=st.floats(1e3, 1e12), bits=st.integers(1, 20))
def test_cost_grows_with_the_rate(rate_hz: float, bits: int) -> None:
    law = SurveyLaw(extrapolate=True)
    slow, fast = law.cost(bits, rate_hz, NODE_M), law.cost(bits, 2 * rate_hz, NODE_M)
    assert slow.energy_j <= fast.energy_j
    assert slow.area_m2 < fast.area_m2


def test_energy_beyond_the_corner_grows_with_the_rate_to_the_two_thirds() -> None:
    law = SurveyLaw()
    slow, fast = (law.cost(12, rate_hz, NODE_M).energy_j for rate_hz in (1e9, 2e9))
    assert math.log2(fast / slow) == pytest.approx(0.66, abs=5e-3)


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (SurveyLaw(), "survey"),
        (SurveyLaw(monotone=True), "survey+monotone"),
        (SurveyLaw(monotone=True, extrapolate=True), "survey+extrapolate+monotone"),
    ],
)
def test_name_tells_the_options(law: SurveyLaw, name: str) -> None:
    assert law.name == name
