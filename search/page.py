"""`report.html`: one file that needs no network, no server and no program but a browser.

The figures are drawn by Plotly's own script, which lies in the page compressed, as does the data.
What is asked for most, the front with its export commands, is a plain table that needs neither.
"""

import base64
import gzip
import html
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from string import Template

from hwmodel.extras import need
from search.environment import describe_environment
from search.figures import search_panels
from search.hardware_figures import hardware_panels, stored_layers
from search.page_candidates import candidates_data, export_command, front_table
from search.palette import COLOURS, SERIES
from search.panels import Panel
from search.study import Study
from search.trials import MEASURED, counted_outcomes, status

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
    hardware, name = study.config.hardware, study.folder.name
    panels = [*hardware_panels(hardware.cost_model(), stored), *search_panels(study)]
    assets = files("search.assets")
    counts = counted_outcomes(study.counts())
    data = {
        **candidates_data(study, stored),
        "colours": COLOURS,
        "series": SERIES,
        "panels": [_panel_data(panel) for panel in panels],
    }
    return Template(assets.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        name=html.escape(name),
        counts=html.escape(counts or "no trial has ended"),
        hypervolume=f"{study.hypervolume():.4f}",
        law=html.escape(hardware.law),
        preset=html.escape(hardware.preset),
        baseline=_baseline(study),
        front=front_table(study),
        command=html.escape(export_command(study, "TRIAL")),
        figures="".join(_panel(panel, index) for index, panel in enumerate(panels)),
        reasons=_reasons(study),
        environment=_environment(study),
        style=assets.joinpath("report.css").read_text(encoding="utf-8"),
        script=assets.joinpath("report.js").read_text(encoding="utf-8"),
        plotly=_packed(_read_at_once(plotly.offline.get_plotlyjs())),
        data=_packed(json.dumps(data, separators=(",", ":"))),
    )


def _read_at_once(library: str) -> str:
    """Plotly's script with brackets around the function that holds all of it.

    A browser puts off reading a function that is not in brackets, and then reads these 5 MB twice:
    1.9 instead of 1.5 s until they have run (medians of 7 in Chromium 150 on a busy machine).
    """
    head, opened, rest = library.partition(": this, () => {\n")
    body, closed, tail = rest.rpartition("}));")
    if not opened or not closed or tail.strip():
        return library
    return f"{head}: this, (() => {{\n{body}}})));{tail}"


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _panel(panel: Panel, index: int) -> str:
    """A figure's place in the page, and what stands around it."""
    title = html.escape(panel.title)
    caption = f'<p class="hint">{html.escape(panel.caption)}</p>' if panel.caption else ""
    options = "".join(
        f'<option value="{number}">{html.escape(view.label)}</option>'
        for number, view in enumerate(panel.views)
    )
    chooser = f'<label class="controls">show <select class="view">{options}</select></label>'
    width = f' style="min-width:{panel.least_width}px"' if panel.least_width else ""
    reached = ' tabindex="0"' if panel.least_width else ""  # a keyboard scrolls what is in focus
    return (
        f'<section class="panel"><h3>{title}</h3>{caption}{chooser if panel.views else ""}'
        f'<div class="scroll" role="group" aria-label="{title}"{reached}>'
        f'<div class="figure" data-panel="{index}" role="img" aria-label="{title}"{width}></div>'
        "</div></section>"
    )


def _panel_data(panel: Panel) -> dict[str, object]:
    views = [{"visible": view.visible, "layout": view.layout} for view in panel.views]
    return {**json.loads(panel.figure.to_json()), "views": views}


def _baseline(study: Study) -> str:
    if study.dense is None:
        return "There is no dense baseline yet."
    return (
        "Dense is the same network unpruned, with its own certified ADCs on the preset's own "
        "crossbars; <b>x</b> says how many times less than it a candidate costs."
    )


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
