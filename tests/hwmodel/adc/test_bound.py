import math

import pytest

from hwmodel.adc import ADC_LAWS, BoundLaw, SarSplitLaw, check_floor
from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.adc.bound import envelope_j, thermal_j
from hwmodel.errors import OutOfRangeError


def test_thermal_limit_has_its_published_values() -> None:
    assert thermal_j(8) == pytest.approx(3.3e-15, rel=0.02)
    assert thermal_j(12) == pytest.approx(0.83e-12, rel=0.01)
    assert thermal_j(9) == pytest.approx(4 * thermal_j(8))


def test_envelope_has_its_published_values() -> None:
    # At 8 bits and 1.28 GS/s: 0.27 pJ by Schreier's figure of merit, 0.18 pJ by Walden's.
    assert envelope_j(8, 1.28e9) == pytest.approx(0.27e-12, rel=0.01)
    # Below 8 bits Walden's is the larger.
    assert envelope_j(4, 1.28e9) == pytest.approx(0.18e-12 / 16, rel=0.01)


def test_envelope_is_flat_below_its_corners() -> None:
    assert envelope_j(12, 1e6) == envelope_j(12, 50e6) < envelope_j(12, 60e6)
    assert envelope_j(2, 1e6) == envelope_j(2, 1.2e9) < envelope_j(2, 1.3e9)


@pytest.mark.parametrize("bits", [1, 4, 8, 12, MAX_ADC_BITS])
@pytest.mark.parametrize("rate_hz", [1.0, 1e6, 1.28e9, 1e11])
def test_floor_is_the_larger_of_both(bits: int, rate_hz: float) -> None:
    cost = BoundLaw().cost(bits, rate_hz, 32e-9)
    assert cost.energy_j == max(thermal_j(bits), envelope_j(bits, rate_hz))
    assert (cost.law, cost.bits, cost.area_m2, cost.extrapolated) == ("bound", bits, 0.0, False)
    assert (cost.source, cost.validity) == (BoundLaw().source, BoundLaw().validity)


def test_floor_is_no_law_that_prices_accelerators() -> None:
    assert BoundLaw().name not in ADC_LAWS


@pytest.mark.parametrize("bits", [0, math.nan])
def test_impossible_bits_are_named(bits: int) -> None:
    with pytest.raises(OutOfRangeError, match="ADC bits is"):
        BoundLaw().cost(bits, 1e9, 32e-9)


def test_a_law_below_the_floor_is_caught() -> None:
    free = SarSplitLaw(energy_per_bit_j=0.0, energy_per_level_j=1e-18)
    possible = {check.bits: check.is_possible for check in check_floor(free, (1, 8), 1e9, 32e-9)}
    assert possible == {1: True, 8: False}
    # Below the best published converters, but above thermal noise.
    record = SarSplitLaw(energy_per_bit_j=0.0, energy_per_level_j=5e-16)
    (check,) = check_floor(record, [8], 1e9, 32e-9)
    assert check.is_possible
    assert not check.is_published
    assert (check.law, check.bits, check.energy_j) == ("sar_split", 8, pytest.approx(1.28e-13))
