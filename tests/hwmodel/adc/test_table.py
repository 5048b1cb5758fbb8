import warnings
from pathlib import Path

import pytest

from hwmodel.adc import TableLaw, read_table
from hwmodel.errors import ConfigError, OutOfRangeError

ISAAC = {"rate_hz": 1.28e9, "node_m": 32e-9}
GOOD = """# Test chip, report 12
# second note
bits,energy_j,area_m2
8,1.7e-12,1200e-12

4,0.8e-12,360e-12
# late note
6,1.2e-12,360e-12
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    law = read_table(path)
    assert [row.bits for row in law.rows] == [4, 6, 8]
    cost = law.cost(6, **ISAAC)
    assert (cost.energy_j, cost.area_m2, cost.extrapolated) == (1.2e-12, 360e-12, False)
    assert cost.law == law.name == f"table:{path}"
    assert cost.source == law.source == "user's table mine.csv: Test chip, report 12"
    assert cost.validity == law.validity == "4, 6, 8 bits; any rate and node (unscaled)"


def test_columns_may_come_in_any_order_behind_a_byte_order_mark(tmp_path: Path) -> None:
    law = read_table(written(tmp_path, "\ufeffarea_m2, bits, energy_j\n1e-9, 4, 1e-12\n"))
    assert law.cost(4, **ISAAC).area_m2 == 1e-9
    assert law.source == "user's table mine.csv"


@pytest.mark.parametrize("bits", [3, 5, 9])
def test_a_resolution_without_a_row_is_refused(tmp_path: Path, bits: int) -> None:
    with pytest.raises(OutOfRangeError, match=f"asked for {bits} bits; allowed: 4, 6, 8"):
        read_table(written(tmp_path, GOOD)).cost(bits, **ISAAC)


def test_impossible_bits_are_named() -> None:
    with pytest.raises(OutOfRangeError, match="ADC bits is 0"):
        TableLaw(rows=()).cost(0, **ISAAC)


HEAD = "bits,energy_j,area_m2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"header is \[\]; allowed: bits, energy_j, area_m2"),
        ("bits,energy_pj,area_m2\n4,1,1\n", r"header is \['bits', 'energy_pj'"),
        (HEAD, "has no rows; allowed: one a resolution"),
        (HEAD + "4,1e-12\n", "line 2 has 2 values; allowed: 3"),
        (HEAD + "4,much,1e-9\n", "line 2: energy_j is 'much'; allowed: a positive"),
        (HEAD + "4,1e-12,-1\n", "line 2: area_m2 is '-1'; allowed: a positive"),
        (HEAD + "4,inf,1e-9\n", "line 2: energy_j is 'inf'; allowed: a positive"),
        (HEAD + "4.5,1e-12,1e-9\n", "line 2: bits is 4.5; allowed: an integer from 1 to 32"),
        (HEAD + "33,1e-12,1e-9\n", "line 2: bits is 33; allowed: an integer from 1 to 32"),
        (HEAD + "4,1e-12,1e-9\n#\n4,2e-12,1e-9\n", "lines 2 and 4 both give 4 bits; allowed: one"),
    ],
)
def test_bad_tables_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_table(written(tmp_path, text))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_table(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.csv"):
        read_table(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "4,2e-12,1e-9\n6,1e-12,1e-9\n",
            r"not monotone: energy_j falls from 2e-12 at 4 bits \(line 2\) to 1e-12 at 6 bits "
            r"\(line 3\)",
        ),
        (
            "6,2e-12,1e-9\n4,1e-12,2e-9\n",
            r"not monotone: area_m2 falls from 2e-09 at 4 bits \(line 3\) to 1e-09 at 6 bits "
            r"\(line 2\)",
        ),
        (
            "8,1e-15,1e-9\n",
            r"below the thermal limit: 1e-15 J at 8 bits \(line 2\), limit 3.26e-15",
        ),
    ],
)
def test_odd_tables_are_read_with_a_warning(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        law = read_table(written(tmp_path, HEAD + rows))
    assert len(law.rows) == rows.count("\n")


def test_every_odd_row_has_its_own_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_table(written(tmp_path, HEAD + "4,3e-12,3e-9\n5,2e-12,2e-9\n6,1e-12,1e-9\n"))
    assert len(caught) == 4
