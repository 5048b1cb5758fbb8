"""`report.html`: one file that needs no network, no server and no program but a browser.

The figures are drawn by Plotly's own script, which lies in the page compressed, as does the data.
What is asked for most, the front with its export commands, is a plain table that needs neither.
"""

import base64
import gzip
import html
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.accelerator import CostModel
from hwmodel.cost_report import CostNode
from hwmodel.errors import OutOfRangeError
from hwmodel.extras import need
from hwmodel.layers import AnyLayer, split_layers
from search.environment import describe_environment
from search.figures import hardware_figures, search_figures, stored_layers
from search.objectives import COSTS
from search.report import over_seeds, ratios
from search.study import MEASURED, Study, candidate_of, status, values
from search.units import AXES, display_name, display_number
from trainers.progress import track

__all__ = ["write_report"]

_MOST_REASONS = 200
"""Failed and infeasible trials that are listed one by one."""


def write_report(study: Study) -> Path:
    """Writes `report.html` beside the study's records.

    Raises:
        ConfigError: what draws it is not installed.
    """
    need("report", "report.html")
    path = study.folder.path / "report.html"
    path.write_text(_page(study), encoding="utf-8")
    return path


def _page(study: Study) -> str:
    import plotly.offline

    stored = stored_layers(study)
    figures = [*hardware_figures(study, stored), *search_figures(study)]
    assets = files("search.assets")
    hardware, name = study.config.hardware, study.folder.name
    counts = ", ".join(f"{count} {what}" for what, count in study.counts().items() if count)
    return Template(assets.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        name=html.escape(name),
        counts=html.escape(counts or "no trial has ended"),
        hypervolume=f"{study.hypervolume():.4f}",
        law=html.escape(hardware.law),
        preset=html.escape(hardware.preset),
        front=_front_table(study),
        baseline=_baseline(study),
        figures="".join(
            f"<h3>{html.escape(_title(figure))}</h3>"
            f'<div class="figure" data-figure="{index}" role="img" '
            f'aria-label="{html.escape(_title(figure))}"></div>'
            for index, figure in enumerate(figures)
        ),
        reasons=_reasons(study),
        environment=_environment(study),
        style=assets.joinpath("report.css").read_text(encoding="utf-8"),
        script=assets.joinpath("report.js").read_text(encoding="utf-8"),
        plotly=_packed(plotly.offline.get_plotlyjs()),
        data=_packed(
            json.dumps(
                {
                    **_data(study, stored),
                    "figures": [json.loads(figure.to_json()) for figure in figures],
                },
                separators=(",", ":"),
            )
        ),
    )


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _title(figure: Any) -> str:
    return str(figure.layout.title.text or "figure")


def _data(study: Study, stored: Mapping[str, Sequence[AnyLayer]]) -> dict[str, Any]:
    """What the page's script draws the front from."""
    front = {trial.number for trial in study.front()}
    trials = [t for t in study.measured() if not t.user_attrs.get("scan")]
    names = [name for name in AXES if all(name in values(trial) for trial in trials)]
    columns: dict[str, list[Any]] = {
        "number": [trial.number for trial in trials],
        "kind": [_kind(trial, front) for trial in trials],
        "epochs": [trial.user_attrs["evaluation"]["epochs"] for trial in trials],
    }
    found = study.all_means(trials)
    axes = []
    for name in names:
        columns[name] = [float(f"{mean[name] * AXES[name][1]:.6g}") for mean in found]
        axes.append({"name": name, "label": display_name(name), "cost": name in COSTS})
    dense = {} if study.dense is None else dict(study.dense.values)
    model = study.config.hardware.cost_model()
    rows = track(zip(trials, found, strict=True), "report, candidates", len(trials))
    return {
        "objectives": list(study.config.study.objectives),
        "axes": axes,
        "dense": {name: dense[name] * AXES[name][1] for name in names if name in dense},
        "trials": columns,
        "details": {
            trial.number: _details(study, trial, mean, front, stored, model) for trial, mean in rows
        },
    }


def _kind(trial: FrozenTrial, front: set[int]) -> str:
    """How a trial is drawn."""
    if trial.number in front:
        return "front"
    return "uniform" if trial.user_attrs.get("uniform") else "other"


def _details(
    study: Study,
    trial: FrozenTrial,
    mean: dict[str, float],
    front: set[int],
    stored: Mapping[str, Sequence[AnyLayer]],
    model: CostModel,
) -> dict[str, Any]:
    """What is shown of a candidate that is looked at."""
    candidate, evaluation = candidate_of(trial), trial.user_attrs["evaluation"]
    layers = stored.get(f"trial {trial.number}", [])
    mapped = {layer.shape.name: layer for layer in split_layers(layers)[0]}
    rows = []
    for name, bits in evaluation["adc_bits"].items():
        spec, asked = candidate.plan[name], candidate.layers.get(name)
        plain = {} if asked is None else {k: v for k, v in asked.to_json().items() if v is not None}
        slices = list(mapped[name].adc_bits_per_slice) if name in mapped else None
        rows.append([name, f"{spec.wordlines} x {spec.bitlines}", plain, bits, slices])
    found: dict[str, Any] = {
        "method": candidate.method,
        "epochs": evaluation["epochs"],
        "status": status(trial),
        "layers": rows,
    }
    if study.dense is not None:
        shares = ratios(dict(study.dense.values), mean)
        found["ratios"] = {AXES[name][0]: float(f"{r:.4g}") for name, r in shares.items()}
    if trial.number in front:
        found["command"] = _command(study, trial)
    if layers:
        try:
            tree = model.evaluate(layers).tree
        except OutOfRangeError:
            return found
        found["tree"] = _node(tree)
    return found


def _node(node: CostNode) -> list[Any]:
    """Name, instances, mm2, mW and parts of a part of the accelerator."""
    numbers = (node.count, node.area_m2 * 1e6, node.power_w * 1e3)
    return [
        node.name,
        *(float(f"{number:.4g}") for number in numbers),
        [_node(child) for child in node.children],
    ]


def _command(study: Study, trial: FrozenTrial) -> str:
    storage = shlex.quote(str(study.folder.storage))
    name = study.folder.name
    return f"crossfront export {name} --storage {storage} --select {trial.number} --to out/"


def _front_table(study: Study) -> str:
    robust = ["robust_accuracy"] if study.config.robustness.device is not None else []
    columns = ["accuracy", *robust, *COSTS]
    head = "".join(f"<th>{html.escape(display_name(c))}</th>" for c in columns)
    front = study.front()
    varied = columns if any(study.repeats(trial) for trial in front) else []
    head += "".join(f"<th>{html.escape(display_name(c))} over seeds</th>" for c in varied)
    rows = "".join(
        f'<tr data-trial="{t.number}" tabindex="0"><td>{t.number}</td>'
        + "".join(f"<td>{display_number(c, mean[c])}</td>" for c in columns)
        + "".join(f"<td>{over_seeds(study, t, c)}</td>" for c in varied)
        + f"<td><code>{html.escape(_command(study, t))}</code></td></tr>"
        for t, mean in zip(front, study.all_means(front), strict=True)
    )
    return (
        f"<table><thead><tr><th>trial</th>{head}<th></th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _baseline(study: Study) -> str:
    if study.dense is None:
        return "There is no dense baseline yet."
    found = study.dense.values
    parts = ", ".join(
        f"{html.escape(display_name(name))} {display_number(name, found[name])}"
        for name in AXES
        if name in found
    )
    return f"The dense network with its own certified ADCs on the preset's own crossbars: {parts}."


def _reasons(study: Study) -> str:
    """Failures and infeasible candidates with their reasons, the most frequent first."""
    unlucky = [
        trial
        for trial in study.ended()
        if status(trial) not in (*MEASURED, "repeated", "interrupted")
    ]
    if not unlucky:
        return "<p>No trial failed, and no candidate broke a bound before training.</p>"
    counted = Counter(str(trial.user_attrs.get("reason", "no reason given")) for trial in unlucky)
    often = "".join(f"<li>{n} times: {html.escape(r)}</li>" for r, n in counted.most_common(10))
    rows = "".join(
        f"<tr><td>{trial.number}</td><td>{html.escape(status(trial))}</td>"
        f'<td class="text">{html.escape(str(trial.user_attrs.get("reason", "")))}</td></tr>'
        for trial in unlucky[-_MOST_REASONS:]
    )
    shown = f"The last {_MOST_REASONS} of {len(unlucky)}" if len(unlucky) > _MOST_REASONS else "All"
    return (
        f"<ul>{often}</ul><details><summary>{shown}</summary><table><thead><tr><th>trial</th>"
        f"<th>outcome</th><th>reason</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _environment(study: Study) -> str:
    facts = describe_environment()
    versions = facts.pop("packages")
    rows = {**facts, **versions}
    cells = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in rows.items()
    )
    settings = html.escape(study.config.to_toml())
    return (
        f"<table><tbody>{cells}</tbody></table>"
        f"<details><summary>Settings of the study</summary><pre>{settings}</pre></details>"
    )
