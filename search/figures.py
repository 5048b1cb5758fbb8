"""The plotly figures of a study's report."""

import html
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from hwmodel.compare import breakdown
from hwmodel.errors import OutOfRangeError
from hwmodel.layers import AnyLayer, layer_from_json, split_layers
from search.evaluate import Evaluation
from search.objectives import ACCURACIES, COSTS
from search.study import MEASURED, Study, candidate_of, status
from search.units import AXES, display_name, display_value

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["front_figures", "hardware_figures"]


def front_figures(study: Study) -> "list[go.Figure]":
    """Accuracy against each cost: the front, the other trials and the dense network."""
    complete = [trial for trial in study.ended() if status(trial) in MEASURED]
    objectives = study.config.study.objectives
    costs = [name for name in objectives if name in COSTS] or ["area"]
    goals = [name for name in objectives if name in ACCURACIES] or ["accuracy"]
    front = {trial.number for trial in study.front()}
    return [_front_figure(study, goal, name, complete, front) for goal in goals for name in costs]


def hardware_figures(study: Study) -> "list[go.Figure]":
    """What the dense network and the front's members are made of, as far as they stored it.

    Area and power stacked by component, and ADC bits by layer and bit slice of one network at a
    time. None at all before there is a dense baseline.
    """
    networks = {} if study.dense is None else {"dense": study.dense}
    for trial in study.front():
        evaluation = Evaluation.from_json(trial.user_attrs["evaluation"])
        networks[f"trial {trial.number}"] = evaluation
    stored = {
        name: [layer_from_json(layer) for layer in evaluation.layers]
        for name, evaluation in networks.items()
        if evaluation.layers
    }
    if not stored:
        return []
    return [*_breakdown_figures(study, stored), _bits_figure(stored)]


def _front_figure(
    study: Study, goal: str, name: str, complete: list[FrozenTrial], front: set[int]
) -> "go.Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    for label, chosen, marker in (
        ("other trials", [t for t in complete if t.number not in front], "circle-open"),
        ("front", [t for t in complete if t.number in front], "diamond"),
    ):
        figure.add_scatter(
            x=[study.means(t)[name] * AXES[name][1] for t in chosen],
            y=[study.means(t)[goal] for t in chosen],
            text=[_hover(study, t) for t in chosen],
            mode="markers",
            marker={"symbol": marker, "size": 10},
            name=label,
            hovertemplate="%{text}<extra></extra>",
        )
    if study.dense is not None:
        dense = study.dense.values
        figure.add_scatter(
            x=[dense[name] * AXES[name][1]],
            y=[dense[goal]],
            mode="markers",
            marker={"symbol": "star", "size": 14},
            name="dense",
        )
    figure.update_layout(
        xaxis_title=display_name(name),
        yaxis_title=display_name(goal),
        xaxis_type="log",
        height=480,
    )
    return figure


def _breakdown_figures(study: Study, stored: dict[str, list[AnyLayer]]) -> "list[go.Figure]":
    """One figure for area and one for power, a bar a network."""
    import plotly.graph_objects as go

    model = study.config.hardware.cost_model()
    try:
        parts = {name: breakdown(model.evaluate(layers)) for name, layers in stored.items()}
    except OutOfRangeError:  # stored under another law's range; the tables still stand
        return []
    components = dict.fromkeys(name for part in parts.values() for name in part)
    figures = []
    for column, objective in (("area_m2", "area"), ("power_w", "power")):
        figure = go.Figure()
        for component in components:
            figure.add_bar(
                x=list(parts),
                y=[
                    part.get(component, {}).get(column, 0.0) * AXES[objective][1]
                    for part in parts.values()
                ],
                name=component,
            )
        title = f"{display_name(objective)} by component, ADC law {model.law.name}"
        figure.update_layout(
            barmode="stack", title=title, yaxis_title=display_name(objective), height=480
        )
        figures.append(figure)
    return figures


def _bits_figure(stored: dict[str, list[AnyLayer]]) -> "go.Figure":
    """ADC bits by layer and bit slice, of the network chosen in a menu."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, stored_layers in enumerate(stored.values()):
        layers, _ = split_layers(stored_layers)
        rows = [list(layer.adc_bits_per_slice) for layer in layers]
        width = max(map(len, rows))
        figure.add_heatmap(
            z=[[*row, *[None] * (width - len(row))] for row in rows],
            y=[layer.shape.name for layer in layers],
            x=[str(column) for column in range(width)],
            texttemplate="%{z}",
            colorscale="Viridis",
            zmin=0,
            visible=index == 0,
            showscale=False,
        )
    buttons: list[dict[str, Any]] = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [other == name for other in stored]}],
        }
        for name in stored
    ]
    layers_count = max(map(len, stored.values()))
    figure.update_layout(
        title="ADC bits by layer and bit slice",
        xaxis_title="bit slice, least significant first",
        yaxis_autorange="reversed",
        height=200 + 24 * layers_count,
        updatemenus=[{"buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.15}],
    )
    return figure


def _hover(study: Study, trial: FrozenTrial) -> str:
    found = study.means(trial)
    bits = trial.user_attrs["evaluation"]["adc_bits"]
    spec = candidate_of(trial).plan.default
    lines = [f"trial {trial.number}", f"crossbar {spec.wordlines} x {spec.bitlines}"]
    lines += [
        f"{display_name(n).split(' (')[0]}: {display_value(n, found[n])}"
        for n in AXES
        if n in found
    ]
    lines += [f"ADC bits {', '.join(f'{name} {count}' for name, count in bits.items())}"]
    return "<br>".join(html.escape(line) for line in lines)
