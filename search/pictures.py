"""Pictures as files, for papers and slides. The only module that draws with matplotlib."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwmodel.adc import AdcCost, AdcLaw
from hwmodel.cost_report import CostReport
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.extras import need
from search.front import nondominated
from search.objectives import ACCURACIES, COSTS
from search.palette import COLOURS, SERIES
from search.stacks import COLUMNS, stacks
from search.units import AXES, display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["adc_curves", "bits_map", "cost_breakdown", "front_scatter", "volume_steps"]

_FORMATS = (".svg", ".png")
_SHOWN_BELOW_DENSE = 0.1
"""Accuracy; whoever loses more would press the rest of the picture together."""
_LABEL_PX = (18, 11)
"""Width and height of a trial's number."""
_STYLES = (("-", "o"), ("--", "s"), ("-.", "D"), (":", "v"))
"""Lines and markers in turn."""
_WIDEST, _NARROWEST = (3.2, 9.0), (1.0, 4.5)
"""Points of a line and of its markers. A curve is thinner than those below it, so that laws that
agree show all the same."""
_LABEL_WIDTH = 24
"""Letters in a line below a bar."""
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
    answers = {law.name: _answers(law, bits, rate_hz, node_m) for law in laws}
    with _figure(path, width=10, height=5) as figure:
        panels = figure.subplots(1, len(_PANELS))
        for axes, panel in zip(panels, _PANELS, strict=True):
            _panel(axes, answers, *panel)
        figure.suptitle(f"{rate_hz / 1e9:g} GS/s, {node_m * 1e9:g} nm; hollow: extrapolated")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)


def cost_breakdown(reports: Mapping[str, CostReport], path: Path) -> None:
    """Draws area and power of each report as one bar, stacked by component.

    Args:
        reports: by the name under its bar; of one law, which the title names.
        path: the file to write; its ending chooses SVG or PNG.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    first = next(iter(reports.values()))
    names = [textwrap.fill(name, _LABEL_WIDTH, break_on_hyphens=False) for name in reports]
    drawn = stacks(reports)
    with _figure(path, width=10, height=5.5) as figure:
        panels = figure.subplots(1, len(COLUMNS))
        for axes, column, objective in zip(panels, COLUMNS, ("area", "power"), strict=True):
            _, scale, _ = AXES[objective]
            below = [0.0] * len(names)
            for stack in drawn:
                heights = [height * scale for height in stack.heights[column]]
                axes.bar(names, heights, bottom=below, label=stack.name, color=stack.colour)
                below = [a + b for a, b in zip(below, heights, strict=True)]
            for index, whole in enumerate(below):
                label = f"{whole:.3g}"
                axes.annotate(
                    label, (index, whole), (0, 3), textcoords="offset points", ha="center"
                )
            axes.set(ylabel=display_name(objective), ylim=(0, 1.08 * max(below)))
        figure.suptitle(f"by component, ADC law {first.law}, policy {first.policy}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right center")


def bits_map(bits: Mapping[str, Sequence[int]], path: Path) -> None:
    """Draws the ADC resolution of every layer and bit slice as a map.

    Args:
        bits: ADC bits per slice, least significant first, by layer.
        path: the file to write; its ending chooses SVG or PNG.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    slices = max(map(len, bits.values()))
    rows = [[*row, *[float("nan")] * (slices - len(row))] for row in bits.values()]
    highest = max(max(row) for row in bits.values())
    with _figure(path, width=2.5 + 0.8 * slices, height=1.5 + 0.28 * len(rows)) as figure:
        axes = figure.subplots()
        axes.imshow(rows, aspect="auto", cmap="viridis", vmin=0)
        for y, row in enumerate(bits.values()):
            for x, count in enumerate(row):
                colour = "black" if count > 0.6 * highest else "white"
                axes.text(x, y, str(count), ha="center", va="center", color=colour)
        axes.set_yticks(range(len(rows)), list(bits))
        axes.set_xticks(range(slices))
        axes.set(xlabel="bit slice, least significant first", title="ADC bits")


def front_scatter(
    front: Mapping[int, Mapping[str, float]],
    others: Sequence[Mapping[str, float]],
    dense: Mapping[str, float],
    objectives: Sequence[str],
    path: Path,
) -> None:
    """Draws the first objective against each of the others, one panel each, costs on log scales.

    A line joins the members that are best in a panel's two objectives.

    Args:
        front: what each member stands for, by its trial's number, which is written beside it.
        others: measured candidates off the front.
        dense: the dense network.
        objectives: at least two.
        path: the file to write; its ending chooses SVG or PNG.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    goal, *rest = objectives
    floor = dense[goal] - _SHOWN_BELOW_DENSE if goal in ACCURACIES and dense else -math.inf
    with _figure(path, width=1 + 4.5 * len(rest), height=5) as figure:
        from matplotlib.ticker import LogLocator

        panels = figure.subplots(1, len(rest), squeeze=False)[0]
        members = list(front.values())
        if any(point[goal] < floor for point in (*members, *others)):
            figure.suptitle(f"candidates below {floor:.3g} are not shown", fontsize="small")
        for axes, name in zip(panels, rest, strict=True):
            for points, label, style in (
                (others, "other candidates", {"color": COLOURS["grey"], "marker": ".", "s": 30}),
                (members, "front", {"color": COLOURS["blue"], "marker": "o"}),
                (
                    [dense] if dense else [],
                    "dense",
                    {"color": COLOURS["vermilion"], "marker": "*", "s": 120},
                ),
            ):
                high = [point for point in points if point[goal] >= floor]
                if high:
                    axes.scatter(*_columns(high, name, goal), label=label, **style)
            best = [members[index] for index in nondominated(members, [goal, name])]
            best.sort(key=lambda point: point[name])
            line = {"color": COLOURS["blue"], "lw": 0.8, "zorder": 1}
            axes.step(*_columns(best, name, goal), where="post", **line)
            axes.set(xlabel=display_name(name), ylabel=display_name(goal), axisbelow=True)
            if name in COSTS:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            axes.set_ylim(bottom=max(floor, axes.get_ylim()[0]))
            axes.grid(visible=True, alpha=0.3)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        figure.draw_without_rendering()  # places are known from here on
        for axes, name in zip(panels, rest, strict=True):
            shown = {n: point for n, point in front.items() if point[goal] >= floor}
            _label(axes, {n: (p[name] * AXES[name][1], p[goal]) for n, p in shown.items()})


def _columns(points: Sequence[Mapping[str, float]], *names: str) -> tuple[list[float], ...]:
    """Objectives of points in the units that people read."""
    return tuple([point[name] * AXES[name][1] for point in points] for name in names)


def _label(axes: "Axes", places: Mapping[int, tuple[float, float]]) -> None:
    """Numbers beside places, where there is room for them."""
    taken: list[tuple[float, float]] = []
    for number, place in places.items():
        x, y = axes.transData.transform(place)
        if all(abs(x - a) > _LABEL_PX[0] or abs(y - b) > _LABEL_PX[1] for a, b in taken):
            taken.append((x, y))
            axes.annotate(str(number), place, (4, 4), textcoords="offset points", fontsize="small")


def volume_steps(volumes: Sequence[float], path: Path) -> None:
    """Draws the front's hypervolume after each measured trial.

    Args:
        volumes: the first before any trial.
        path: the file to write; its ending chooses SVG or PNG.

    Raises:
        ConfigError: another ending, or a file that cannot be written.
    """
    with _figure(path, width=7, height=4.5) as figure:
        axes = figure.subplots()
        axes.step(range(len(volumes)), volumes, where="post")
        axes.set(xlabel="measured trials", ylabel="hypervolume, share of the reference cube")
        axes.grid(visible=True, alpha=0.3)


@contextmanager
def _figure(path: Path, *, width: float, height: float) -> "Iterator[Figure]":
    """A figure of so many inches that is written to the file when the block ends.

    Raises:
        ConfigError: an ending that is neither SVG nor PNG, or a file that cannot be written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"picture is {str(path)!r}; allowed: a file {' or '.join(_FORMATS)}")
    need("report", f"picture {path}")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same picture makes the same bytes.
    with mpl.rc_context({"svg.hashsalt": "crossfront"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        dated = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            figure.savefig(path, metadata=dated)
        except OSError as error:
            raise ConfigError(f"picture {path}: {error.strerror or error}") from None


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

    for (name, costs), look in zip(answers.items(), _looks(len(answers)), strict=True):
        drawn = [cost for cost in costs if getattr(cost, field) > 0]
        bits = [cost.bits for cost in drawn]
        values = [getattr(cost, field) * scale for cost in drawn]
        axes.plot(bits, values, label=name, **look)
        hollow = [index for index, cost in enumerate(drawn) if cost.extrapolated]
        own = {**look, "linestyle": "none", "markerfacecolor": "white"}
        axes.plot([bits[i] for i in hollow], [values[i] for i in hollow], **own)
    axes.set(xlabel="ADC bits", ylabel=label, yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)


def _looks(count: int) -> Iterator[dict[str, Any]]:
    """So many curves' own lines and markers."""
    for index, (style, marker), colour in zip(
        range(count), cycle(_STYLES), cycle(SERIES), strict=False
    ):
        share = index / max(1, count - 1)
        width, size = (
            widest + share * (narrowest - widest)
            for widest, narrowest in zip(_WIDEST, _NARROWEST, strict=True)
        )
        yield {
            "linestyle": style,
            "linewidth": width,
            "marker": marker,
            "markersize": size,
            "color": colour,
            "zorder": 2 + index,
        }
