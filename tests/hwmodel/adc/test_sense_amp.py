import pytest

from hwmodel.adc import SarSplitLaw, SenseAmpLaw, SurveyLaw
from hwmodel.errors import OutOfRangeError

ISAAC = {"rate_hz": 1.28e9, "node_m": 32e-9}


def test_one_bit_takes_a_sense_amplifier() -> None:
    cost = SenseAmpLaw(law=SarSplitLaw()).cost(1, **ISAAC)
    assert (cost.energy_j, cost.area_m2) == (1.6e-15, 1e-12)
    assert (cost.law, cost.bits, cost.extrapolated) == ("sar_split+sense_amp", 1, False)
    assert "sense amplifier" in cost.source
    assert "unscaled" in cost.validity


@pytest.mark.parametrize("bits", [2, 8])
def test_more_bits_cost_what_the_other_law_says(bits: int) -> None:
    law = SenseAmpLaw(law=SarSplitLaw())
    wrapped, plain = law.cost(bits, **ISAAC), SarSplitLaw().cost(bits, **ISAAC)
    assert (wrapped.energy_j, wrapped.area_m2) == (plain.energy_j, plain.area_m2)
    assert wrapped.extrapolated == plain.extrapolated
    assert (wrapped.law, wrapped.source, wrapped.validity) == (law.name, law.source, law.validity)


def test_refusals_of_the_other_law_stand_from_2_bits_on() -> None:
    law = SenseAmpLaw(law=SurveyLaw())
    assert law.cost(1, **ISAAC).energy_j == 1.6e-15
    with pytest.raises(OutOfRangeError, match="2 bits"):
        law.cost(2, **ISAAC)


@pytest.mark.parametrize("bits", [0, True])
def test_impossible_bits_are_named(bits: int) -> None:
    with pytest.raises(OutOfRangeError, match="ADC bits is"):
        SenseAmpLaw(law=SarSplitLaw()).cost(bits, **ISAAC)
