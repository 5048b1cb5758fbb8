"""The report's figures of how the search went, and of what it says about the space.

The front itself is drawn in the page (`search/assets/report.js`), where axes are chosen and
candidates are looked at.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from optuna.trial import FrozenTrial

from search.evaluate import COMPLETE
from search.importance import Importances, importances, sensitivities
from search.objectives import COSTS
from search.palette import COLOURS, SERIES
from search.panels import Panel, View
from search.study import Study
from search.trials import MEASURED, RUNG, status
from search.units import AXES, counted, display_name

__all__ = ["search_panels", "volumes"]

_MOST_DIMENSIONS = 12
"""Of the space, in the parallel coordinates."""
_AXIS_PX = 78
"""Least width of one of their axes."""
_FATES = {"went on": "blue", "complete": "green", "stopped": "orange"}
"""What becomes of a candidate on a rung, and its colour."""


def search_panels(study: Study) -> list[Panel]:
    """How the search went, and what it says about the space; those that there are data for."""
    found = importances(study)
    panels = [
        _volume_panel(study),
        _rung_panel(study),
        None if found is None else _importance_panel(found),
        _coordinates_panel(study, {} if found is None else found.shares),
        _sensitivity_panel(study),
    ]
    return [panel for panel in panels if panel is not None]


def _volume_panel(study: Study) -> Panel | None:
    """The hypervolume over trials that count, or over epochs of training."""
    import plotly.graph_objects as go

    measured = _by_end(study)
    if not measured:
        return None
    spent = [trial.user_attrs["evaluation"]["epochs"] for trial in measured]
    epochs = list(accumulate(spent, initial=0))
    trials = list(range(len(epochs)))
    figure = go.Figure()
    for x in (trials, epochs):
        figure.add_scatter(x=x, y=volumes(study), line_shape="hv", line_color=COLOURS["blue"])
    figure.update_layout(yaxis_title="share of the reference cube", showlegend=False, height=400)
    names = [AXES[name][0].lower() for name in study.config.study.objectives]
    return Panel(
        title="Hypervolume of the front",
        caption=f"The share of what lies between perfect and the reference in {', '.join(names)} "
        "that the front dominates. Projected candidates count as trials and cost no epoch.",
        figure=figure,
        views=[
            View(
                label=f"over {label}",
                visible=[first, not first],
                layout={"xaxis": {"title": {"text": label}}},
            )
            for label, first in (("measured trials", True), ("epochs of training", False))
        ],
    )


def volumes(study: Study) -> list[float]:
    """The front's hypervolume before any trial, and after each measured one."""
    after = [trial.user_attrs.get("hypervolume", 0.0) for trial in _by_end(study)]
    return list(accumulate(after, max, initial=0.0))


def _by_end(study: Study) -> list[FrozenTrial]:
    """Measured trials but repeats, in the order in which they ended."""
    return sorted(study.measured(), key=_ended_at)


def _ended_at(trial: FrozenTrial) -> float:
    return 0.0 if trial.datetime_complete is None else trial.datetime_complete.timestamp()


def _rung_panel(study: Study) -> Panel | None:
    """How many candidates each rung measured, and what became of them there."""
    import plotly.graph_objects as go

    rungs = study.config.rungs
    fates: list[Counter[str]] = [Counter() for _ in rungs]
    for trial in study.ended():
        done = sum(key.startswith(RUNG) for key in trial.user_attrs)
        if trial.user_attrs.get("scan") or status(trial) not in MEASURED or not done:
            continue
        for index in range(min(done, len(rungs))):
            last = index == done - 1
            finished = status(trial) == COMPLETE
            fates[index]["went on" if not last else "complete" if finished else "stopped"] += 1
    if not any(fates):
        return None
    figure = go.Figure()
    labels = [counted(epochs, "epoch") if epochs else "projected" for epochs in rungs]
    for fate, colour in _FATES.items():
        counts = [found[fate] for found in fates]
        if any(counts):
            figure.add_bar(x=labels, y=counts, name=fate, marker_color=COLOURS[colour])
    figure.update_layout(barmode="stack", yaxis_title="candidates measured", height=400)
    return Panel(
        title="Rungs and early stops",
        caption="Each rung measures a candidate after so much training; dominance decides who goes "
        "on. Whoever is stopped keeps what it measured, and may be on the front.",
        figure=figure,
    )


def _importance_panel(found: Importances) -> Panel:
    """What decides each objective on the first rung."""
    import plotly.graph_objects as go

    sums = Counter[str]()
    for own in found.shares.values():
        sums.update(own)
    names = [name for name, _ in sums.most_common(2 * _MOST_DIMENSIONS)][::-1]
    figure = go.Figure()
    for (objective, own), colour in zip(found.shares.items(), SERIES, strict=False):
        shares = [own.get(name, 0.0) for name in names]
        figure.add_bar(
            y=names, x=shares, orientation="h", name=AXES[objective][0], marker_color=colour
        )
    figure.update_layout(xaxis_title="share", height=160 + 34 * len(names))
    best = max(1, round(found.candidates / 10))
    caption = (
        f"PED-ANOVA over the {found.candidates} candidates of the first rung: how much of what "
        f"tells the best tenth, about {best}, from the rest each dimension of the space explains."
    )
    if found.doubtful:
        caption += " Beware: so few candidates rank the dimensions mostly by chance."
    return Panel(
        title="What decides the best tenth of each objective", caption=caption, figure=figure
    )


def _coordinates_panel(study: Study, shares: Mapping[str, Mapping[str, float]]) -> Panel | None:
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
                "label": name.replace(".", ".<br>"),
                "values": own,
                "range": [ticks[0], ticks[-1]],
                "tickvals": list(ticks),
                "ticktext": [str(choices[tick]) if tick >= 0 else "-" for tick in ticks],
            }
        )
    for objective in study.config.study.objectives:
        factor = AXES[objective][1]
        column = [values[objective] * factor for values in found]
        label = display_name(objective).replace(" ", "<br>", 1)
        dimensions.append({"label": label, "values": column})
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": [v[goal] for v in found], "showscale": True},
            rangefont_color="rgba(0, 0, 0, 0)",  # it would lie over the names; ticks say as much
        )
    )
    figure.update_layout(height=460, margin={"t": 90, "b": 40, "l": 50, "r": 100})
    return Panel(
        title=f"Candidates, coloured by {AXES[goal][0].lower()}",
        caption="One line a measured candidate; a dash: this dimension is not in it. The "
        f"{counted(len(names), 'dimension')} with the largest shares above stand first. Drag along "
        "an axis to choose a range, drag its name to move it.",
        figure=figure,
        least_width=_AXIS_PX * (len(dimensions) + 1),
    )


def _sensitivity_panel(study: Study) -> Panel | None:
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
            showscale=False,
        )
    )
    figure.update_layout(
        yaxis_autorange="reversed", xaxis_visible=False, height=100 + 30 * len(rows)
    )
    return Panel(
        title="Sensitivity: one dimension of one layer alone",
        caption="Points of accuracy lost by each choice, projected without training, against the "
        "mildest candidate. A cell says CHOICE: POINTS.",
        figure=figure,
        least_width=150 + 90 * width,
    )
