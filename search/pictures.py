"""Pictures as files, for papers and slides. The only module that draws with matplotlib."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from hwmodel.adc import AdcCost, AdcLaw
from hwmodel.errors import ConfigError, OutOfRangeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["adc_curves"]

_FORMATS = (".svg", ".png")
_STYLES = ("-", "--", "-.", ":")
"""In turn, since two laws may agree in one panel."""
_PANELS = (
    ("energy_j", 1e12, "energy of a conversion (pJ)"),
    ("area_m2", 1e12, "area of a converter (um2)"),
)


def adc_curves(
    laws: Sequence[AdcLaw], bits: Sequence[int], rate_hz: float, node_m: float, path: Path
) -> None:
    """Draws energy and area of a converter against its resolution, one curve a law.

    Hollow points are extrapolated. What a law refuses is left out, and so are areas of zero.

    Args:
        laws: drawn in this order.
        bits: resolutions.
        rate_hz: conversions per second.
        node_m: technology node, metres.
        path: the file to write; its ending chooses SVG or PNG.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"picture is {str(path)!r}; allowed: a file {' or '.join(_FORMATS)}")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    answers = {law.name: _answers(law, bits, rate_hz, node_m) for law in laws}
    # A fixed salt and no date: the same curves make the same bytes.
    with mpl.rc_context({"svg.hashsalt": "crossfront"}):
        figure = Figure(figsize=(10, 5), layout="constrained")
        panels = figure.subplots(1, len(_PANELS))
        for axes, panel in zip(panels, _PANELS, strict=True):
            _panel(axes, answers, *panel)
        figure.suptitle(f"{rate_hz / 1e9:g} GS/s, {node_m * 1e9:g} nm; hollow: extrapolated")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
        dated = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            figure.savefig(path, metadata=dated)
        except OSError as error:
            raise ConfigError(f"picture {path}: {error}") from None


def _answers(
    law: AdcLaw, bits: Sequence[int], rate_hz: float, node_m: float
) -> tuple[AdcCost, ...]:
    """What the law answers, without what it refuses."""
    found = []
    for count in bits:
        try:
            found.append(law.cost(count, rate_hz, node_m))
        except OutOfRangeError:
            continue
    return tuple(found)


def _panel(
    axes: "Axes", answers: dict[str, tuple[AdcCost, ...]], field: str, scale: float, label: str
) -> None:
    """One quantity of every law."""
    from matplotlib.ticker import MaxNLocator

    for (name, costs), style in zip(answers.items(), cycle(_STYLES), strict=False):
        drawn = [cost for cost in costs if getattr(cost, field) > 0]
        values = [getattr(cost, field) * scale for cost in drawn]
        (line,) = axes.plot([cost.bits for cost in drawn], values, style, label=name)
        for cost, value in zip(drawn, values, strict=True):
            fill = "white" if cost.extrapolated else line.get_color()
            axes.plot(cost.bits, value, "o", color=line.get_color(), markerfacecolor=fill)
    axes.set(xlabel="ADC bits", ylabel=label, yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
