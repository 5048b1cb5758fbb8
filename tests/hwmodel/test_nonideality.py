"""The device by itself: what it refuses, what it draws, and its wires against a circuit solver."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import SpecError
from hwmodel.nonideality import (
    REFERENCE_WIRE_RATIO,
    STUCK_ON_SHARE,
    Nonideality,
    effective_levels,
)

SPEC = CrossbarSpec()
LEVELS = (torch.arange(400_000) % 4).byte()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stuck_on_rate": -0.1}, "stuck_on_rate is -0.1; allowed: 0 to 1"),
        ({"stuck_off_rate": 1.5}, "stuck_off_rate is 1.5; allowed: 0 to 1"),
        ({"stuck_on_rate": math.nan}, "stuck_on_rate is nan; allowed: 0 to 1"),
        ({"stuck_on_rate": 0.6, "stuck_off_rate": 0.6}, r"is 1\.2; allowed: at most 1"),
        ({"variation": -1.0}, "variation is -1.0; allowed: a finite number, at least 0"),
        ({"variation": math.nan}, "variation is nan"),
        ({"read_noise": math.inf}, "read_noise is inf"),
        ({"ir_drop": -1e-9}, "ir_drop is -1e-09"),
        ({"on_off_ratio": 1.0}, "on_off_ratio is 1.0; allowed: above 1"),
        ({"on_off_ratio": math.nan}, "on_off_ratio is nan"),
        ({"seed": -1}, "seed is -1; allowed: an integer, at least 0"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_impossible_device_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        Nonideality(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [-0.001, 1.001, math.nan])
def test_impossible_fault_rate_is_refused(rate: float) -> None:
    with pytest.raises(SpecError, match=f"fault rate is {rate}; allowed: 0 to 1"):
        Nonideality.with_faults(rate)


@given(st.floats(0, 1))
def test_faults_are_split_by_the_protocol(rate: float) -> None:
    device = Nonideality.with_faults(rate, seed=3)
    assert device.stuck_on_rate + device.stuck_off_rate == pytest.approx(rate)
    assert device.stuck_on_rate == pytest.approx(5.2 * device.stuck_off_rate)
    assert device.seed == 3
    assert device.ideal is (rate == 0)
    assert device.keeps_integers


def test_default_device_is_ideal_and_changes_no_level() -> None:
    assert Nonideality(seed=5).ideal
    assert torch.equal(effective_levels(LEVELS, SPEC, Nonideality()), LEVELS.float())


@pytest.mark.parametrize(
    "fields", [{"variation": 0.1}, {"read_noise": 0.1}, {"ir_drop": 1e-5}, {"on_off_ratio": 10.0}]
)
def test_analog_effects_leave_no_integers(fields: dict[str, Any]) -> None:
    device = Nonideality(**fields)
    assert not device.keeps_integers
    assert not device.ideal


def test_stuck_cells_come_at_their_rates_at_the_ends_of_a_cell() -> None:
    device = Nonideality(stuck_on_rate=0.02, stuck_off_rate=0.01)
    cells = effective_levels(torch.ones_like(LEVELS), SPEC, device)
    count = len(LEVELS)
    assert set(cells.unique().tolist()) == {0.0, 1.0, 3.0}
    for value, rate in ((3, 0.02), (0, 0.01)):
        found = int((cells == value).sum())
        assert abs(found - rate * count) < 5 * math.sqrt(rate * count)


@pytest.mark.parametrize(("name", "level"), [("stuck_on_rate", 3.0), ("stuck_off_rate", 0.0)])
def test_rate_of_one_spares_no_cell(name: str, level: float) -> None:
    cells = effective_levels(LEVELS, SPEC, Nonideality(**cast("dict[str, Any]", {name: 1.0})))
    assert bool((cells == level).all())


def test_higher_rate_keeps_the_faults_of_a_lower_one() -> None:
    few = effective_levels(LEVELS, SPEC, Nonideality.with_faults(0.001)) != LEVELS
    many = effective_levels(LEVELS, SPEC, Nonideality.with_faults(0.01)) != LEVELS
    assert 0 < int(few.sum()) < int(many.sum())
    assert bool((many | ~few).all())


def test_device_is_its_seed() -> None:
    settings: dict[str, Any] = {"stuck_on_rate": 0.01, "variation": 0.1}
    first, again, other = (
        effective_levels(LEVELS, SPEC, Nonideality(**settings, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_effect_has_its_own_stream() -> None:
    faults = Nonideality(stuck_on_rate=0.01)
    both = Nonideality(stuck_on_rate=0.01, variation=0.1)
    zeros = torch.zeros_like(LEVELS)
    assert torch.equal(
        effective_levels(zeros, SPEC, faults), effective_levels(zeros, SPEC, both)
    )  # a level of 0 that leaks nothing does not vary


def test_variation_is_log_normal_with_the_median_kept() -> None:
    cells = effective_levels(torch.full_like(LEVELS, 2), SPEC, Nonideality(variation=0.1))
    logs = (cells / 2).log()
    assert abs(float(logs.mean())) < 5 * 0.1 / math.sqrt(len(LEVELS))
    assert float(logs.std()) == pytest.approx(0.1, rel=0.01)


def test_finite_ratio_leaks_at_every_level() -> None:
    device = Nonideality(on_off_ratio=11.0)
    assert device.leak(SPEC) == pytest.approx(0.3)
    cells = effective_levels(LEVELS[:4], SPEC, device)
    assert cells.tolist() == pytest.approx([0.3, 1.3, 2.3, 3.3])
    assert float(cells[3] / cells[0]) == pytest.approx(11)


def test_json_has_no_infinity() -> None:
    assert Nonideality().to_json()["on_off_ratio"] is None
    assert Nonideality(on_off_ratio=10.0, seed=2).to_json() == {
        "stuck_off_rate": 0.0,
        "stuck_on_rate": 0.0,
        "on_off_ratio": 10.0,
        "variation": 0.0,
        "read_noise": 0.0,
        "ir_drop": 0.0,
        "seed": 2,
    }


def test_stuck_on_share_is_that_of_the_protocol() -> None:
    odds = STUCK_ON_SHARE / (1 - STUCK_ON_SHARE)
    assert odds == pytest.approx(5.2)


# Wires. Measured with badcrossbar: 1 ohm segments, 33 to 333 kohm, every row driven.
PUBLISHED = {64: 0.044, 128: 0.153, 256: 0.408}


@pytest.mark.parametrize(("size", "loss"), PUBLISHED.items())
def test_loss_is_within_a_tenth_of_the_published_one(size: int, loss: float) -> None:
    found = Nonideality(ir_drop=REFERENCE_WIRE_RATIO).current_loss(size)
    assert found == pytest.approx(loss, rel=0.10)


def test_loss_grows_with_height_width_and_wire() -> None:
    device = Nonideality(ir_drop=1e-5)
    losses = [device.current_loss(size) for size in (1, 8, 64, 512, 4096)]
    assert losses == sorted(losses)
    assert 0 < losses[0] < losses[-1] < 1
    assert device.current_loss(64, 128) == pytest.approx(device.current_loss(128, 64))
    assert device.current_loss(64, 128) > device.current_loss(64)
    assert Nonideality(ir_drop=2e-5).current_loss(64) > device.current_loss(64)
    assert Nonideality().current_loss(4096) == 0


def test_loss_is_first_order_in_the_wire() -> None:
    ratio = 1e-9
    loss = Nonideality(ir_drop=ratio).current_loss(64, 128)
    assert loss == pytest.approx(ratio * (64**2 + 128**2) / 3, rel=1e-3)


def test_ir_drop_scales_every_cell_alike() -> None:
    device = Nonideality(ir_drop=1e-5)
    kept = 1 - device.current_loss(SPEC.wordlines, SPEC.bitlines)
    torch.testing.assert_close(effective_levels(LEVELS, SPEC, device), LEVELS * kept)


@pytest.mark.parametrize("size", [64, 128])
def test_loss_is_that_of_a_nodal_analysis(size: int) -> None:
    generator = np.random.default_rng(0)
    cells = generator.uniform(1 / 333e3, 1 / 33e3, (size, size))
    loss = 1 - _solved_current(cells, wire_ohm=1.0) / cells.sum()
    found = Nonideality(ir_drop=REFERENCE_WIRE_RATIO).current_loss(size)
    assert found == pytest.approx(loss, rel=0.06)


def _solved_current(cells: np.ndarray, wire_ohm: float) -> float:
    """Total output current (A) at 1 V on every row, by Kirchhoff's laws over both wire grids."""
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    rows, columns = cells.shape
    word = np.arange(rows * columns).reshape(rows, columns)
    bit = word + rows * columns
    wire = 1 / wire_ohm
    links = [
        (word.ravel(), bit.ravel(), cells.ravel()),
        (word[:, :-1].ravel(), word[:, 1:].ravel(), np.full(rows * (columns - 1), wire)),
        (bit[:-1].ravel(), bit[1:].ravel(), np.full((rows - 1) * columns, wire)),
    ]
    ones, others, conductances = (np.concatenate(parts) for parts in zip(*links, strict=True))
    ends = np.concatenate([word[:, 0], bit[-1]])  # the driver's and the converter's segment
    diagonal = np.concatenate([ones, others, ends])
    values = np.concatenate([conductances, conductances, np.full(len(ends), wire)])
    system = sparse.coo_matrix((values, (diagonal, diagonal))) + sparse.coo_matrix(
        (
            np.concatenate([-conductances, -conductances]),
            (np.concatenate([ones, others]), np.concatenate([others, ones])),
        )
    )
    sources = np.zeros(2 * rows * columns)
    sources[word[:, 0]] = wire
    voltages = linalg.spsolve(system.tocsc(), sources)
    return float(voltages[bit[-1]].sum() * wire)


@pytest.mark.parametrize("size", [64, 128])
def test_loss_is_that_of_badcrossbar(size: int) -> None:
    badcrossbar = pytest.importorskip(
        "badcrossbar", reason="optional oracle: badcrossbar is not installed"
    )
    generator = np.random.default_rng(0)
    cells = generator.uniform(1 / 333e3, 1 / 33e3, (size, size))
    solved = badcrossbar.compute(np.ones((size, 1)), 1 / cells, 1.0)
    loss = 1 - float(np.sum(solved.currents.output)) / cells.sum()
    found = Nonideality(ir_drop=REFERENCE_WIRE_RATIO).current_loss(size)
    assert found == pytest.approx(loss, rel=0.10)


@pytest.mark.parametrize("size", [32, 64])
def test_current_loss_is_near_a_circuit_solvers(size: int) -> None:
    """The optional oracle: pip install badcrossbar."""
    badcrossbar = pytest.importorskip("badcrossbar", reason="badcrossbar is not installed")
    resistances = np.random.default_rng(0).choice([33e3, 333e3], (size, size))
    voltages = np.ones((size, 1))
    solved = badcrossbar.compute(voltages, resistances, r_i=1.0).currents.output.sum()
    ideal = (voltages / resistances).sum()
    ours = Nonideality(ir_drop=REFERENCE_WIRE_RATIO).current_loss(size)
    assert 1 - solved / ideal == pytest.approx(ours, rel=0.15)
