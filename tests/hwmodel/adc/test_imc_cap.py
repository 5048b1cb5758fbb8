import pytest

from hwmodel.adc import ImcCapLaw


@pytest.mark.parametrize(
    ("bits", "energy_pj", "area_um2"),
    [(8, 0.70, 2085), (6, 0.49, 618), (5, 0.41, 336), (4, 0.32, 183), (3, 0.24, 100)],
)
def test_published_model_is_reproduced(bits: int, energy_pj: float, area_um2: float) -> None:
    cost = ImcCapLaw().cost(bits, 1.28e9, 28e-9)
    assert cost.energy_j * 1e12 == pytest.approx(energy_pj, abs=0.005)
    assert cost.area_m2 * 1e12 == pytest.approx(area_um2, abs=0.5)


@pytest.mark.parametrize("bits", range(1, 12))
def test_closed_form_holds_up_to_11_bits(bits: int) -> None:
    cost = ImcCapLaw().cost(bits, 1e9, 32e-9)
    assert cost.energy_j * 1e15 == pytest.approx((100 * bits + 0.001 * 4**bits) * 0.81)
    assert cost.area_m2 * 1e12 == pytest.approx(2**bits * 10 ** (1.206 - 0.0369 * bits))


@pytest.mark.parametrize(("bits", "expected"), [(3, True), (4, False), (11, False), (12, True)])
def test_flag_ends_where_the_area_curve_does(bits: int, expected: bool) -> None:
    assert ImcCapLaw().cost(bits, 1e9, 28e-9).extrapolated is expected


def test_area_does_not_fall_at_12_bits() -> None:
    areas = [ImcCapLaw().cost(bits, 1e9, 28e-9).area_m2 for bits in (11, 12)]
    assert areas[0] < areas[1]


def test_energy_follows_the_supply_and_nothing_else() -> None:
    base = ImcCapLaw().cost(8, 1e9, 28e-9)
    assert ImcCapLaw(supply_v=1.8).cost(8, 1e9, 28e-9).energy_j == pytest.approx(4 * base.energy_j)
    other = ImcCapLaw().cost(8, 2e9, 65e-9)
    assert (other.energy_j, other.area_m2) == (base.energy_j, base.area_m2)
