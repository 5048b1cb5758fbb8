"""The report's figures of what the dense network and the front's members are made of."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwmodel.accelerator import CostModel
from hwmodel.adc import ADC_LAWS
from hwmodel.compare import under_laws
from hwmodel.errors import OutOfRangeError
from hwmodel.layers import AnyLayer, layer_from_json, split_layers
from search.evaluate import Evaluation
from search.palette import COLOURS, SERIES
from search.panels import Panel, View
from search.stacks import COLUMNS, stacks
from search.study import Study
from search.units import AXES, counted, display_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["hardware_panels", "stored_layers"]

_PUBLISHED = {"power_w": 3.5, "area_m2": 2.9}
"""TinyADC's headline (DATE 2021, abstract): times less chip power and area, on ImageNet, against
other pruned networks."""
_MOST_MEMBERS = 40
"""Of the front, in figures with a bar or a point for each."""
_MEMBER_PX = 26
"""Least width of a member in such a figure."""
_DENSE = "dense"
_SYMBOLS = ("circle", "square", "diamond", "triangle-down", "cross", "x", "triangle-up", "star")


def stored_layers(study: Study) -> dict[str, list[AnyLayer]]:
    """The layers of the networks that stored them, by name.

    They are `dense` and `trial NUMBER` of the front's members, the most accurate first.
    """
    networks = {} if study.dense is None else {_DENSE: study.dense}
    for trial, _ in study.ranked_front():
        evaluation = Evaluation.from_json(trial.user_attrs["evaluation"])
        networks[f"trial {trial.number}"] = evaluation
    return {
        name: [layer_from_json(layer) for layer in evaluation.layers]
        for name, evaluation in networks.items()
        if evaluation.layers
    }


def hardware_panels(model: CostModel, stored: Mapping[str, list[AnyLayer]]) -> list[Panel]:
    """What the dense network and the front's members are made of.

    Times less area and power than dense, under the study's law and under all others; area and power
    stacked by component; ADC bits by layer and bit slice of one network at a time.

    Args:
        model: prices as the study does.
        stored: of `stored_layers`.
    """
    if not stored:
        return []
    members = [name for name in stored if name != _DENSE]
    step = -(-len(members) // _MOST_MEMBERS) or 1
    shown = {name: stored[name] for name in (_DENSE, *members[::step]) if name in stored}
    left = f" {counted(len(members[::step]), 'member')} of {len(members)}." if step > 1 else ""
    panels = [*_breakdown_panels(model, shown, left), _bits_panel(stored)]
    if _DENSE in shown and len(shown) > 1:
        panels = [_ratio_panel(model, shown, left), *panels]
    return panels


def _ratio_panel(model: CostModel, shown: Mapping[str, list[AnyLayer]], left: str) -> Panel:
    """Times less than dense under each law: what the choice of law does to the headline."""
    import plotly.graph_objects as go

    own = model.law.name
    laws = {**ADC_LAWS, own: model.law}
    totals = {
        name: {
            law: found["totals"] for law, found in under_laws(model, layers, laws)["laws"].items()
        }
        for name, layers in shown.items()
    }
    members = [name for name in shown if name != _DENSE]
    ticks = [_tick(name) for name in members]
    figure = go.Figure()
    for column, published in _PUBLISHED.items():
        ratios = {
            law: [
                dense[column] / totals[name][law][column] if law in totals[name] else None
                for name in members
            ]
            for law, dense in totals[_DENSE].items()
        }
        _add_bands(figure, ticks, list(ratios.values()))
        for index, (law, row) in enumerate(ratios.items()):
            figure.add_scatter(
                x=ticks,
                y=row,
                mode="markers",
                marker={
                    "size": 13 if law == own else 8,
                    "symbol": _SYMBOLS[index % len(_SYMBOLS)],
                    "color": SERIES[index % len(SERIES)],
                },
                name=f"{law}, this study's" if law == own else law,
            )
        figure.add_scatter(
            x=ticks,
            y=[published] * len(ticks),
            mode="lines",
            line={"dash": "dot", "color": COLOURS["vermilion"]},
            name=f"published: TinyADC, {published}",
        )
    figure.update_layout(xaxis=_members_axis(), yaxis_type="log", height=520)
    half = len(figure.data) // 2
    return Panel(
        title="Times less than the dense network, under every ADC law",
        caption=f"The large points are under this study's law, {own}; a bar spans what the laws "
        "say, as far as they answer. Dotted, for orientation and not as a comparison: TinyADC's "
        "headline (DATE 2021), on ImageNet and against other pruned networks." + left,
        figure=figure,
        views=[
            View(
                label=label,
                visible=[(index < half) == first for index in range(2 * half)],
                layout={"yaxis": {"title": {"text": f"times less {label} than dense"}}},
            )
            for label, first in (("chip power", True), ("chip area", False))
        ],
        least_width=_width(members),
    )


def _add_bands(
    figure: "go.Figure", ticks: Sequence[str], rows: Sequence[Sequence[float | None]]
) -> None:
    """A bar from the lowest to the highest ratio of each member, over all laws."""
    x: list[str | None] = []
    y: list[float | None] = []
    for tick, *ratios in zip(ticks, *rows, strict=True):
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            x += [tick, tick, None]
            y += [min(known), max(known), None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 6, "color": COLOURS["grey"]},
        opacity=0.4,
        name="all laws",
        hoverinfo="skip",
    )


def _breakdown_panels(
    model: CostModel, shown: Mapping[str, list[AnyLayer]], left: str
) -> list[Panel]:
    """One figure for area and one for power, a bar a network."""
    import plotly.graph_objects as go

    try:
        stacked = stacks({name: model.evaluate(layers) for name, layers in shown.items()})
    except OutOfRangeError:  # stored under another law's range; the tables still stand
        return []
    panels = []
    for column, objective in zip(COLUMNS, ("area", "power"), strict=True):
        _, factor, unit = AXES[objective]
        figure = go.Figure()
        for stack in stacked:
            figure.add_bar(
                x=[_tick(name) for name in shown],
                y=[height * factor for height in stack.heights[column]],
                name=stack.name,
                marker_color=stack.colour,
                hovertemplate=f"%{{x}}, {stack.name}: %{{y:.4g}}<extra></extra>",
            )
        figure.update_layout(xaxis=_members_axis(), barmode="stack", height=480)
        label = display_name(objective)
        shares = {"barnorm": "percent", "yaxis": {"title": {"text": "share (%)"}}}
        panels.append(
            Panel(
                title=f"{label} by component, ADC law {model.law.name}",
                caption="A component has one colour here and everywhere." + left,
                figure=figure,
                views=[
                    View(label=f"in {unit}", layout={"yaxis": {"title": {"text": label}}}),
                    View(label="as shares", layout=shares),
                ],
                least_width=_width(shown),
            )
        )
    return panels


def _bits_panel(stored: Mapping[str, list[AnyLayer]]) -> Panel:
    """ADC bits by layer and bit slice, of the network that is chosen."""
    import plotly.graph_objects as go

    figure = go.Figure()
    every: list[int] = []
    for layers in stored.values():
        mapped, _ = split_layers(layers)
        rows = [list(layer.adc_bits_per_slice) for layer in mapped]
        width = max(map(len, rows))
        every += [bits for row in rows for bits in row]
        figure.add_heatmap(
            z=[[*row, *[None] * (width - len(row))] for row in rows],
            y=[layer.shape.name for layer in mapped],
            x=[str(column) for column in range(width)],
            texttemplate="%{z}",
            hovertemplate="%{y}, bit slice %{x}: %{z} bits<extra></extra>",
            colorscale="Cividis",
            showscale=False,
        )
    figure.update_traces(zmin=min(every) - 1, zmax=max(every))
    figure.update_layout(
        xaxis={"title": {"text": "bit slice, least significant first"}, "type": "category"},
        yaxis_autorange="reversed",
        height=140 + 24 * max(map(len, stored.values())),
    )
    return Panel(
        title="Certified ADC bits by layer and bit slice",
        caption="What each bit slice's ADCs must resolve so that no input can cause an error.",
        figure=figure,
        views=[View(label=name, visible=[other == name for other in stored]) for name in stored],
    )


def _members_axis() -> dict[str, Any]:
    return {"title": {"text": "trials, the most accurate first"}, "type": "category"}


def _tick(name: str) -> str:
    """A network's name below its bar, where there is little room."""
    return name.removeprefix("trial ")


def _width(networks: Sequence[str] | Mapping[str, Any]) -> int:
    return 80 + _MEMBER_PX * len(networks)
