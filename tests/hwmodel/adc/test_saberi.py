import pytest

from hwmodel.adc import SaberiLaw
from hwmodel.errors import OutOfRangeError

LAW = SaberiLaw()
CLOCK_HZ = 1.2e9


@pytest.mark.parametrize(
    ("bits", "energy", "speed"), [(1, 28.4, 8.0), (3, 14.2, 2.67)], ids=["1 bit", "3 bits"]
)
def test_published_savings_from_8_bits_follow(bits: int, energy: float, speed: float) -> None:
    """Bit-slice L1 (arXiv 1909.08496): savings of 1-bit and 3-bit ADCs over ISAAC's 8 bits."""
    eight, few = (LAW.cost(count, 1.28e9, 32e-9) for count in (8, bits))
    assert eight.energy_j / few.energy_j == pytest.approx(energy, abs=0.05)
    times = [LAW.conversion_time_s(count, CLOCK_HZ) for count in (8, bits)]
    assert times[0] / times[1] == pytest.approx(speed, abs=0.005)


def test_area_is_that_of_the_capacitors() -> None:
    areas = [LAW.cost(bits, 1.28e9, 32e-9).area_m2 for bits in (3, 4)]
    assert areas[1] / areas[0] == pytest.approx(2)


def test_conversion_takes_a_cycle_a_bit() -> None:
    assert LAW.conversion_time_s(8, 8e9) == pytest.approx(1e-9)


@pytest.mark.parametrize(("bits", "clock_hz"), [(0, 1e9), (8, 0.0), (8, float("nan"))])
def test_impossible_conversions_are_refused(bits: int, clock_hz: float) -> None:
    with pytest.raises(OutOfRangeError, match="allowed"):
        LAW.conversion_time_s(bits, clock_hz)
