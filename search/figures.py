"""The plotly figures of a study's report that need no hand on them.

The front itself is drawn in the page (`search/assets/report.js`), where axes are chosen and
candidates are looked at.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from hwmodel.compare import breakdown, under_laws
from hwmodel.errors import OutOfRangeError
from hwmodel.layers import AnyLayer, layer_from_json, split_layers
from search.evaluate import COMPLETE, Evaluation
from search.importance import importances, sensitivities
from search.objectives import COSTS
from search.study import MEASURED, Study, status
from search.units import AXES, display_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["hardware_figures", "search_figures", "stored_layers", "volumes"]

_PUBLISHED = {"area": 2.9, "power": 3.5}
"""TinyADC's headline (DATE 2021, abstract): times less chip area and power, on ImageNet, against
other pruned networks."""
_MOST_DIMENSIONS = 12
"""Of the space, in the parallel coordinates."""
_MOST_COMPONENTS = 6
"""That have a colour of their own."""
_MOST_MEMBERS = 40
"""Of the front, in figures with a bar or a row for each."""


def search_figures(study: Study) -> "list[go.Figure]":
    """How the search went, and what it says about the space; those that there are data for."""
    shares = importances(study)
    figures = [
        _volume_figure(study),
        _rung_figure(study),
        _importance_figure(shares),
        _coordinates_figure(study, shares),
        _sensitivity_figure(study),
    ]
    return [figure for figure in figures if figure is not None]


def stored_layers(study: Study) -> dict[str, list[AnyLayer]]:
    """The layers of the dense network and the front's members, as far as they stored them."""
    networks = {} if study.dense is None else {"dense": study.dense}
    for trial in study.front()[:_MOST_MEMBERS]:
        evaluation = Evaluation.from_json(trial.user_attrs["evaluation"])
        networks[f"trial {trial.number}"] = evaluation
    return {
        name: [layer_from_json(layer) for layer in evaluation.layers]
        for name, evaluation in networks.items()
        if evaluation.layers
    }


def hardware_figures(study: Study, stored: Mapping[str, list[AnyLayer]]) -> "list[go.Figure]":
    """What the dense network and the front's members are made of.

    Times less area and power than dense, under the study's law and under all others; area and power
    stacked by component; ADC bits by layer and bit slice of one network at a time.

    Args:
        study: with its front.
        stored: of `stored_layers`.
    """
    if not stored:
        return []
    figures = [*_breakdown_figures(study, stored), _bits_figure(stored)]
    if "dense" in stored and len(stored) > 1:
        figures = [_ratio_figure(study, stored), *figures]
    return figures


def _volume_figure(study: Study) -> "go.Figure | None":
    """The hypervolume over trials that count, or over epochs of training."""
    import plotly.graph_objects as go

    measured = _by_end(study)
    if not measured:
        return None
    spent = [trial.user_attrs["evaluation"]["epochs"] for trial in measured]
    epochs = list(accumulate(spent, initial=0))
    trials = list(range(len(epochs)))
    figure = go.Figure()
    for name, x, shown in (("trials", trials, True), ("epochs", epochs, False)):
        figure.add_scatter(x=x, y=volumes(study), line_shape="hv", name=name, visible=shown)
    buttons = [
        {
            "label": f"over {label}",
            "method": "update",
            "args": [
                {"visible": [label == "measured trials", label != "measured trials"]},
                {"xaxis.title.text": label},
            ],
        }
        for label in ("measured trials", "epochs of training")
    ]
    figure.update_layout(
        title="Hypervolume of the front",
        xaxis_title="measured trials",
        yaxis_title="share of the reference cube",
        showlegend=False,
        updatemenus=[_menu(buttons)],
    )
    return figure


def volumes(study: Study) -> list[float]:
    """The front's hypervolume before any trial, and after each measured one."""
    after = [trial.user_attrs.get("hypervolume", 0.0) for trial in _by_end(study)]
    return list(accumulate(after, max, initial=0.0))


def _by_end(study: Study) -> list[FrozenTrial]:
    """Measured trials but repeats, in the order in which they ended."""
    return sorted(study.measured(), key=_ended_at)


def _ended_at(trial: FrozenTrial) -> float:
    return 0.0 if trial.datetime_complete is None else trial.datetime_complete.timestamp()


def _rung_figure(study: Study) -> "go.Figure | None":
    """How many candidates each rung measured, and what became of them there."""
    import plotly.graph_objects as go

    rungs = study.config.rungs
    fates: list[Counter[str]] = [Counter() for _ in rungs]
    for trial in study.ended():
        done = sum(key.startswith("rung.") for key in trial.user_attrs)
        if trial.user_attrs.get("scan") or status(trial) not in MEASURED or not done:
            continue
        for index in range(min(done, len(rungs))):
            last = index == done - 1
            finished = status(trial) == COMPLETE
            fates[index]["went on" if not last else "complete" if finished else "stopped"] += 1
    if not any(fates):
        return None
    figure = go.Figure()
    labels = [f"{epochs} epochs" if epochs else "projected" for epochs in rungs]
    for fate in ("went on", "complete", "stopped"):
        figure.add_bar(x=labels, y=[counts[fate] for counts in fates], name=fate)
    figure.update_layout(
        title="Rungs and early stops", barmode="stack", yaxis_title="candidates measured"
    )
    return figure


def _importance_figure(shares: Mapping[str, Mapping[str, float]]) -> "go.Figure | None":
    """What decides each objective on the first rung."""
    import plotly.graph_objects as go

    if not shares:
        return None
    sums = Counter[str]()
    for own in shares.values():
        sums.update(own)
    names = [name for name, _ in sums.most_common(2 * _MOST_DIMENSIONS)][::-1]
    figure = go.Figure()
    for objective, own in shares.items():
        figure.add_bar(
            y=names, x=[own.get(n, 0.0) for n in names], orientation="h", name=AXES[objective][0]
        )
    figure.update_layout(
        title="What decides the best tenth of each objective (PED-ANOVA)",
        xaxis_title="share",
        height=160 + 26 * len(names),
    )
    return figure


def _coordinates_figure(
    study: Study, shares: Mapping[str, Mapping[str, float]]
) -> "go.Figure | None":
    """Measured trials as lines over dimensions and objectives; drag along an axis to choose."""
    import plotly.graph_objects as go

    trials = [trial for trial in study.measured() if not trial.user_attrs.get("scan")]
    every = study.choices
    names = [
        name for name in every if len({trial.params.get(name) for trial in trials} - {None}) > 1
    ]
    if len(trials) < 2 or not names:
        return None
    weight = {name: sum(own.get(name, 0.0) for own in shares.values()) for name in names}
    names = sorted(names, key=lambda name: -weight[name])[:_MOST_DIMENSIONS]
    found = study.all_means(trials)
    goal = next((n for n in study.config.study.objectives if n not in COSTS), "accuracy")
    dimensions: list[dict[str, Any]] = []
    for name in names:
        choices = every[name]
        own = [trial.params.get(name, -1) for trial in trials]
        ticks = range(min(own), len(choices))
        dimensions.append(
            {
                "label": name,
                "values": own,
                "range": [ticks[0], ticks[-1]],
                "tickvals": list(ticks),
                "ticktext": [str(choices[tick]) if tick >= 0 else "-" for tick in ticks],
            }
        )
    for objective in study.config.study.objectives:
        factor = AXES[objective][1]
        column = [values[objective] * factor for values in found]
        dimensions.append({"label": display_name(objective), "values": column})
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": [v[goal] for v in found], "colorscale": "Cividis", "showscale": True},
            labelangle=-25,
            labelside="bottom",
        )
    )
    title = f"Candidates, coloured by {AXES[goal][0].lower()}"
    figure.update_layout(title=title, height=520, margin={"b": 120, "l": 60, "r": 60})
    return figure


def _sensitivity_figure(study: Study) -> "go.Figure | None":
    """Accuracy lost by each choice of each layer's dimensions alone."""
    import plotly.graph_objects as go

    lost = sensitivities(study)
    if not lost:
        return None
    width = max(map(len, lost.values()))
    rows = [sorted(own.items(), key=lambda item: -item[1]) for own in lost.values()]
    blank: list[None] = [None]
    figure = go.Figure(
        go.Heatmap(
            z=[[100 * value for _, value in row] + blank * (width - len(row)) for row in rows],
            text=[[str(key) for key, _ in row] + [""] * (width - len(row)) for row in rows],
            y=list(lost),
            texttemplate="%{text}: %{z:.1f}",
            hovertemplate="%{y} = %{text}<br>%{z:.2f} points lost<extra></extra>",
            colorscale="Cividis",
            colorbar={"title": "points lost"},
        )
    )
    figure.update_layout(
        title="Sensitivity: one dimension of one layer alone, projected",
        yaxis_autorange="reversed",
        xaxis_visible=False,
        height=160 + 30 * len(rows),
    )
    return figure


def _ratio_figure(study: Study, stored: Mapping[str, list[AnyLayer]]) -> "go.Figure":
    """Times less than dense under each law: what the choice of law does to the headline."""
    import plotly.graph_objects as go

    model = study.config.hardware.cost_model()
    totals = {
        name: {law: found["totals"] for law, found in under_laws(model, layers)["laws"].items()}
        for name, layers in stored.items()
    }
    members = [name for name in stored if name != "dense"]
    laws = dict.fromkeys(law for name in members for law in totals[name])
    figure = go.Figure()
    for objective, column in (("power", "power_w"), ("area", "area_m2")):
        for law in laws:
            if law not in totals["dense"]:
                continue
            dense = totals["dense"][law][column]
            figure.add_scatter(
                x=members,
                y=[
                    dense / totals[name][law][column] if law in totals[name] else None
                    for name in members
                ],
                mode="markers",
                marker={"size": 12 if law == model.law.name else 7},
                name=f"{law} (this study's)" if law == model.law.name else law,
                visible=objective == "power",
            )
        figure.add_scatter(
            x=members,
            y=[_PUBLISHED[objective]] * len(members),
            mode="lines",
            line={"dash": "dot"},
            name="published: TinyADC, ImageNet, against pruned networks",
            visible=objective == "power",
        )
    half = len(figure.data) // 2
    buttons = [
        {
            "label": f"chip {name}",
            "method": "update",
            "args": [
                {"visible": [(index < half) == (name == "power") for index in range(2 * half)]},
                {"yaxis.title.text": f"times less chip {name} than dense"},
            ],
        }
        for name in ("power", "area")
    ]
    figure.update_layout(
        title="Times less than the dense network, under every ADC law",
        yaxis_title="times less chip power than dense",
        yaxis_type="log",
        updatemenus=[_menu(buttons)],
        height=520,
    )
    return figure


def _menu(buttons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.0, "yanchor": "bottom"}


def _breakdown_figures(study: Study, stored: Mapping[str, list[AnyLayer]]) -> "list[go.Figure]":
    """One figure for area and one for power, a bar a network."""
    import plotly.graph_objects as go

    model = study.config.hardware.cost_model()
    try:
        parts = {name: breakdown(model.evaluate(layers)) for name, layers in stored.items()}
    except OutOfRangeError:  # stored under another law's range; the tables still stand
        return []
    figures = []
    for column, objective in (("area_m2", "area"), ("power_w", "power")):
        sums = Counter[str]()
        for part in parts.values():
            sums.update({name: values[column] for name, values in part.items()})
        largest = [name for name, _ in sums.most_common(_MOST_COMPONENTS)]
        figure = go.Figure()
        for component in ("adc", *(name for name in largest if name != "adc"), "all others"):
            rest = [component] if component in sums else [n for n in sums if n not in largest]
            figure.add_bar(
                x=list(parts),
                y=[
                    math.fsum(part.get(name, {}).get(column, 0.0) for name in rest)
                    * AXES[objective][1]
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


def _bits_figure(stored: Mapping[str, list[AnyLayer]]) -> "go.Figure":
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
            colorscale="Cividis",
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
        xaxis_type="category",
        yaxis_autorange="reversed",
        height=200 + 24 * layers_count,
        updatemenus=[_menu(buttons)],
    )
    return figure
