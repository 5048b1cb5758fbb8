"""What is known of the dense baseline before it is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hwmodel.errors import OutOfRangeError
from search.baseline import check_price, kept_weights
from search.config import read_config
from search.evaluate import load_problem

TABLES: dict[str, dict[str, Any]] = {"network": {"name": "mlp", "arguments": {"hidden": 4}}}
"""The layers fc1 and fc2 take ADCs of 9 and 4 bits at their worst."""


def note_of(path: Path, *bits: int, policy: str = "layer", **study: object) -> str | None:
    """What is said of a table of converters with these resolutions."""
    rows = [f"{n},{n}e-12,{n}e-10" for n in bits]
    path.write_text("\n".join(["bits,energy_j,area_m2", *rows]) + "\n")
    hardware = {"law": f"table:{path}", "policy": policy}
    return check_price(load_problem(read_config({**TABLES, "hardware": hardware, "study": study})))


def test_table_up_to_the_worst_case_needs_no_note(tmp_path: Path) -> None:
    assert note_of(tmp_path / "adc.csv", 3, 4, 5, 6, 7, 8, 9) is None


def test_what_the_trained_weights_may_need_and_the_table_lacks_is_said(tmp_path: Path) -> None:
    note = note_of(tmp_path / "adc.csv", 3, 4, 5, 7, 8)
    assert note is not None
    assert "no converter of 6, 9 bits; the dense network needs up to 9 (fc1)" in note


def test_layer_that_no_converter_fits_is_named_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(OutOfRangeError, match=r"fc2 needs ADCs of 4 bits or fewer; .*: 8, 9 bits"):
        note_of(tmp_path / "adc.csv", 8, 9)


def test_layers_that_share_the_largest_converter_need_no_smaller_one(tmp_path: Path) -> None:
    assert note_of(tmp_path / "adc.csv", 8, 9, policy="chip_max") is None


def test_relative_bound_on_a_cost_needs_the_worst_case(tmp_path: Path) -> None:
    with pytest.raises(OutOfRangeError, match=r"relative constraints .*: fc1: .* 9 bits; allowed"):
        note_of(tmp_path / "adc.csv", 4, 8, constraints=["area <= 0.5x"])
    assert note_of(tmp_path / "adc.csv", 4, 5, 6, 7, 8, 9, constraints=["area <= 0.5x"]) is None
    note = note_of(tmp_path / "adc.csv", 4, 8, constraints=["accuracy >= 0.9x", "area <= 1e-6"])
    assert note is not None


def kept(**tables: Mapping[str, object]) -> Path:
    return kept_weights(read_config({**TABLES, **tables}), Path("here"))


def test_kept_weights_are_those_of_the_same_training_alone(tmp_path: Path) -> None:
    assert kept().parent == Path("here") / ".crossfront"
    same: list[dict[str, Mapping[str, object]]] = [
        {"train": {"epochs": 0, "reconstruct": True, "distillation": 0.5}},
        {"hardware": {"law": "pow2"}, "method": {"name": "level-sum"}, "candidate": {"seed": 4}},
    ]
    assert {kept(**tables) for tables in same} == {kept()}
    other: list[dict[str, Mapping[str, object]]] = [
        {"train": {"dense_epochs": 3}},
        {"data": {"test_count": 10}},
        {"network": {"name": "mlp", "arguments": {"hidden": 5}}},
        {"study": {"seed": 1}},
    ]
    assert len({kept(**tables) for tables in other} | {kept()}) == 5


def test_kept_weights_follow_the_files_that_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = set()
    for text in ("", "# another\n", "# and another\n"):
        Path("mine.py").write_text(text)
        found.add(kept(network={"name": "mine:network"}))
    assert len(found) == 3
