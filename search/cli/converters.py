"""What the `adc` command asks of the laws, and how it shows what they answer."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from hwmodel.adc import ADC_LAWS, AdcCost, AdcLaw, BoundLaw, adc_law
from hwmodel.adc.bound import envelope_j
from hwmodel.errors import OutOfRangeError
from search.cli.messages import say

__all__ = ["ask", "choose_laws", "cost_json", "print_costs"]

_BOUND = BoundLaw()
_MARKS = (
    "* extrapolated beyond what the law rests on; - refused; "
    "! less energy than the best published converters"
)


def choose_laws(name: str) -> list[AdcLaw]:
    """The law called `name`; the floor for `bound`; every law and the floor for `all`.

    What a table warns of goes to standard error.

    Raises:
        ConfigError: no such law.
    """
    if name == "all":
        return [*ADC_LAWS.values(), _BOUND]
    if name == _BOUND.name:
        return [_BOUND]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        law = adc_law(name)
    for warning in caught:
        say(f"warning: {warning.message}")
    return [law]


def ask(
    laws: Iterable[AdcLaw], bits: Sequence[int], rate_hz: float, node_m: float
) -> tuple[list[AdcCost], list[OutOfRangeError]]:
    """Every answer, and every refusal.

    Raises:
        OutOfRangeError: no law answers at all.
    """
    costs, refusals = [], []
    for law in laws:
        for count in bits:
            try:
                costs.append(law.cost(count, rate_hz, node_m))
            except OutOfRangeError as error:
                refusals.append(error)
    if not costs:
        raise refusals[0]
    return costs, refusals


def cost_json(cost: AdcCost, node_nm: float) -> dict[str, Any]:
    """One answer as other programs read it."""
    return {
        "law": cost.law,
        "bits": cost.bits,
        "rate_hz": cost.rate_hz,
        "node_nm": node_nm,
        "energy_j": cost.energy_j,
        "area_m2": cost.area_m2,
        "extrapolated": cost.extrapolated,
        "source": cost.source,
    }


def print_costs(laws: Sequence[AdcLaw], bits: Sequence[int], costs: Sequence[AdcCost]) -> None:
    """Energy and area side by side, a row a resolution, and where each law comes from."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    found = {(cost.law, cost.bits): cost for cost in costs}
    shown = [law for law in laws if law != _BOUND]
    # The floor has no area; asked alone, it has nothing to say there.
    for title, columns, cell in (
        ("pJ per conversion", laws, _energy),
        ("um2 per converter", shown, _area),
    ):
        if columns:
            table = Table("bits", title=title, title_justify="left")
            for law in columns:
                table.add_column(law.name, justify="right", overflow="fold")
            for count in bits:
                table.add_row(str(count), *[cell(found.get((x.name, count))) for x in columns])
            console.print(table)
    for line in (_MARKS, *[f"{x.name}: {x.source}; valid for {x.validity}" for x in laws]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _energy(cost: AdcCost | None) -> str:
    """Picojoules with their marks."""
    if cost is None:
        return "-"
    record = "!" if cost.energy_j < envelope_j(cost.bits, cost.rate_hz) else ""
    return f"{cost.energy_j * 1e12:.4g}{_flag(cost)}{record}"


def _area(cost: AdcCost | None) -> str:
    """Square micrometres with their mark."""
    return "-" if cost is None else f"{cost.area_m2 * 1e12:.5g}{_flag(cost)}"


def _flag(cost: AdcCost) -> str:
    return "*" if cost.extrapolated else ""
