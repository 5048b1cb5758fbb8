import pytest

from hwmodel.errors import SpecError
from hwmodel.task_switch import CELL_WRITE_J, SRAM_WRITE_J, TaskSwitch


def test_a_switch_writes_its_mask_and_its_cells() -> None:
    switch = TaskSwitch(mask_bits=64, changed_cells=3, inference_j=1e-9)
    assert switch.switch_j == pytest.approx(10e-12 + 3 * 10e-12)
    assert (CELL_WRITE_J, SRAM_WRITE_J * 64) == (10e-12, 10e-12)


def test_the_switch_is_shared_by_the_inferences_between_two() -> None:
    switch = TaskSwitch(mask_bits=0, changed_cells=100, inference_j=1e-9)
    assert switch.energies_j([1, 10]) == pytest.approx([2e-9, 1.1e-9])


@pytest.mark.parametrize("name", ["mask_bits", "changed_cells", "inference_j", "cell_write_j"])
def test_a_negative_size_is_refused(name: str) -> None:
    fields = {"mask_bits": 1.0, "changed_cells": 1.0, "inference_j": 1.0, name: -1.0}
    with pytest.raises(SpecError, match=f"{name} is -1.0; allowed: 0 up"):
        TaskSwitch(**fields)


def test_no_inference_between_switches_is_refused() -> None:
    with pytest.raises(SpecError, match="0 inferences per switch; allowed: 1 up"):
        TaskSwitch(mask_bits=0, changed_cells=0, inference_j=0).energies_j([5, 0])
