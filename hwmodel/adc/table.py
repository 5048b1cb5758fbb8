"""The user's own converters, from a CSV file.

    # Converters of our 28 nm test chip, report 12, table 3
    bits,energy_j,area_m2
    4,0.8e-12,360e-12
    8,1.7e-12,1200e-12

Lines that start with `#` are comments; the first one becomes the source. The columns may come in
any order.
"""

import csv
import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hwmodel.adc.base import MAX_ADC_BITS, AdcCost, check_converter
from hwmodel.adc.bound import thermal_j
from hwmodel.errors import ConfigError, OutOfRangeError

__all__ = ["Converter", "TableLaw", "read_table"]

_COLUMNS = ("bits", "energy_j", "area_m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """One row of a table."""

    line: int
    """Where in the file."""
    bits: int
    energy_j: float
    area_m2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLaw:
    """Answers for the resolutions of its rows alone, whatever the rate and the node.

    Source: the user's file.
    """

    rows: tuple[Converter, ...]
    """By rising resolution."""
    name: str = "table"
    source: str = "user's table"

    @property
    def validity(self) -> str:
        """The resolutions of the rows."""
        return f"{self._listed()} bits; any rate and node (unscaled)"

    def cost(self, bits: int, rate_hz: float, node_m: float) -> AdcCost:
        """The row of `bits`; neither the rate nor the node `node_m` (metres) changes it.

        Raises:
            OutOfRangeError: fewer than one bit, a rate or node that is not positive, or a
                resolution without a row.
        """
        check_converter(bits, rate_hz, node_m)
        row = next((row for row in self.rows if row.bits == bits), None)
        if row is None:
            raise OutOfRangeError(
                f"ADC law {self.name} asked for {bits} bits; allowed: {self._listed()}"
            )
        return AdcCost(
            law=self.name,
            bits=int(bits),
            rate_hz=rate_hz,
            node_m=node_m,
            energy_j=row.energy_j,
            area_m2=row.area_m2,
            extrapolated=False,
            source=self.source,
            validity=self.validity,
        )

    def _listed(self) -> str:
        return ", ".join(str(row.bits) for row in self.rows)


def read_table(path: Path) -> TableLaw:
    """The law of a CSV file; it is called `table:` and the path.

    Warns where a converter costs less than one of fewer bits, or less than thermal noise allows.

    Raises:
        ConfigError: a file that cannot be read, another header, no rows, two rows of one
            resolution, or a value that is no positive number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"ADC table {path}: {reason}") from None
    notes = [line.lstrip("# ").rstrip() for line in lines if line.startswith("#")]
    rows = _rows(path, lines)
    for warning in (*_falling(rows), *_impossible(rows)):
        warnings.warn(f"ADC table {path}: {warning}", UserWarning, stacklevel=2)
    return TableLaw(
        rows=rows,
        name=f"table:{path}",
        source=f"user's table {path.name}" + (f": {notes[0]}" if notes else ""),
    )


def _rows(path: Path, lines: list[str]) -> tuple[Converter, ...]:
    """The rows by rising resolution."""
    numbered = [
        (number, next(csv.reader([line], skipinitialspace=True)))
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    header = [cell.strip() for cell in numbered[0][1]] if numbered else []
    if sorted(header) != sorted(_COLUMNS):
        raise ConfigError(f"ADC table {path}: header is {header}; allowed: {', '.join(_COLUMNS)}")
    found: dict[int, Converter] = {}
    for number, cells in numbered[1:]:
        row = _converter(f"ADC table {path}, line {number}", number, header, cells)
        if row.bits in found:
            raise ConfigError(
                f"ADC table {path}: lines {found[row.bits].line} and {number} both give "
                f"{row.bits} bits; allowed: one row a resolution"
            )
        found[row.bits] = row
    if not found:
        raise ConfigError(f"ADC table {path} has no rows; allowed: one a resolution")
    return tuple(found[bits] for bits in sorted(found))


def _converter(where: str, number: int, header: list[str], cells: list[str]) -> Converter:
    """One row, checked."""
    if len(cells) != len(header):
        raise ConfigError(f"{where} has {len(cells)} values; allowed: {len(header)}")
    values = {}
    for column, cell in zip(header, cells, strict=True):
        try:
            values[column] = float(cell)
        except ValueError:
            values[column] = math.nan
        if not (math.isfinite(values[column]) and values[column] > 0):
            raise ConfigError(f"{where}: {column} is {cell!r}; allowed: a positive, finite number")
    bits = values["bits"]
    if not bits.is_integer() or bits > MAX_ADC_BITS:
        raise ConfigError(
            f"{where}: bits is {bits:g}; allowed: an integer from 1 to {MAX_ADC_BITS}"
        )
    return Converter(
        line=number, bits=int(bits), energy_j=values["energy_j"], area_m2=values["area_m2"]
    )


def _falling(rows: tuple[Converter, ...]) -> list[str]:
    """Says which rows cost less than the row of fewer bits."""
    return [
        f"not monotone: {what} falls from {getattr(fewer, what):g} at {fewer.bits} bits "
        f"(line {fewer.line}) to {getattr(more, what):g} at {more.bits} bits (line {more.line})"
        for fewer, more in pairwise(rows)
        for what in ("energy_j", "area_m2")
        if getattr(more, what) < getattr(fewer, what)
    ]


def _impossible(rows: tuple[Converter, ...]) -> list[str]:
    """Says which rows undercut thermal noise."""
    return [
        f"below the thermal limit: {row.energy_j:g} J at {row.bits} bits (line {row.line}), "
        f"limit {thermal_j(row.bits):.3g} J"
        for row in rows
        if row.energy_j < thermal_j(row.bits)
    ]
