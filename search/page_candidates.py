"""What the report says of candidates: the front as a table, and what is looked at one by one."""

import html
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.accelerator import CostModel
from hwmodel.cost_report import CostNode, gain
from hwmodel.errors import OutOfRangeError
from hwmodel.layers import AnyLayer, split_layers
from search.objectives import ACCURACIES, COSTS
from search.report import over_seeds, ratios
from search.study import Study
from search.trials import candidate_of, status, values
from search.units import AXES, counted, display_name, display_number
from spaces import Candidate
from trainers.progress import track

__all__ = ["candidates_data", "export_command", "front_table"]

_MOST_BITS = 8
"""Layers whose ADC bits are written one by one."""


def candidates_data(study: Study, stored: Mapping[str, Sequence[AnyLayer]]) -> dict[str, Any]:
    """What the page's script draws the front from, and what it shows of a candidate.

    Args:
        study: finished or running.
        stored: of `stored_layers`; candidates without layers have no cost tree.
    """
    front = {trial.number for trial in study.front()}
    trials = [t for t in study.measured() if t.number in front or not t.user_attrs.get("scan")]
    names = [name for name in AXES if all(name in values(trial) for trial in trials)]
    columns: dict[str, list[Any]] = {
        "number": [trial.number for trial in trials],
        "kind": [_kind(trial, front) for trial in trials],
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
    epochs = counted(evaluation["epochs"], "epoch")
    found: dict[str, Any] = {
        "summary": f"{candidate.method}, {epochs}, {status(trial)}",
        "crossbars": _crossbars(candidate, evaluation["adc_bits"]),
        "bits": _bits(evaluation["adc_bits"]),
        "layers": rows,
    }
    if study.dense is not None:
        shares = ratios(dict(study.dense.values), mean)
        found["ratios"] = {name: f"{share:.3g}" for name, share in shares.items()}
    if trial.number in front:
        found["command"] = export_command(study, str(trial.number))
    if layers:
        try:
            tree = model.evaluate(layers).tree
        except OutOfRangeError:
            return found
        found["tree"] = _node(tree)
    return found


def _node(node: CostNode) -> list[Any]:
    """Name, how many, mm2, mW and parts of a part of the accelerator."""
    if not node.children:
        count = f"{node.count:.3g}"
    elif any(child.children for child in node.children) and node.name != "network":
        count = counted(round(node.count), "crossbar")  # a layer
    else:
        count = ""
    numbers = (node.area_m2 * AXES["area"][1], node.power_w * AXES["power"][1])
    return [
        node.name,
        count,
        *(float(f"{number:.4g}") for number in numbers),
        [_node(child) for child in node.children],
    ]


def export_command(study: Study, select: str) -> str:
    """The command that exports one of the front's members."""
    storage = shlex.quote(str(study.folder.storage))
    name = study.folder.name
    return f"crossfront export {name} --storage {storage} --select {select} --to out/"


def front_table(study: Study) -> str:
    """The front, the most accurate first, over the dense network; a script makes it sortable.

    Costs are followed by how many times less than dense they are, accuracies by how many points
    above. A cell's `data-value` is what its column is sorted by, a head's `data-first` the
    direction that puts the best first.
    """
    config, dense = study.config, study.dense
    robust = config.robustness.device is not None
    shown = [name for name in AXES if name in COSTS or name == "accuracy" or robust]
    objectives = config.study.objectives
    first = [name for name in shown if name in ACCURACIES or name in objectives]
    last = [name for name in shown if name not in first]
    front = study.ranked_front()
    varied = objectives if any(study.repeats(trial) for trial, _ in front) else ()
    head = [
        _head("trial"),
        *map(_objective_head, first),
        _head("Crossbar", "wordlines x bitlines"),
        _head("ADC bits", "by layer"),
        *map(_objective_head, last),
        *(f"<th scope=col>{html.escape(display_name(name))} over seeds</th>" for name in varied),
    ]
    base = {} if dense is None else dict(dense.values)
    rows = []
    for trial, mean in front:
        candidate, bits = candidate_of(trial), trial.user_attrs["evaluation"]["adc_bits"]
        rows.append(
            f'<tr data-trial="{trial.number}" tabindex="0">'
            + _cell(str(trial.number), trial.number)
            + "".join(_objective_cell(name, mean[name], base) for name in first)
            + _cell(_crossbars(candidate, bits), _cells(candidate, bits))
            + _cell(_bits(bits), statistics.fmean(bits.values()) if bits else 0)
            + "".join(_objective_cell(name, mean[name], base) for name in last)
            + "".join(f"<td>{over_seeds(study, trial, name)}</td>" for name in varied)
            + "</tr>"
        )
    return (
        f"<table id=members><thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>{_dense_foot(study, first, last)}</table>"
    )


def _dense_foot(study: Study, first: Sequence[str], last: Sequence[str]) -> str:
    if study.dense is None:
        return ""
    found = study.dense.values
    before, after = (
        "".join(f"<td>{display_number(n, found[n]) if n in found else ''}</td>" for n in names)
        for names in (first, last)
    )
    preset = study.config.hardware.cost_model().preset.crossbar
    return (
        f"<tfoot><tr><td>dense</td>{before}<td>{preset.wordlines} x {preset.bitlines}</td>"
        f"<td>{_bits(study.dense.adc_bits)}</td>{after}</tr></tfoot>"
    )


def _head(label: str, unit: str = "", *, first: str = "ascending") -> str:
    small = f"<small>{html.escape(unit)}</small>" if unit else ""
    return f'<th scope=col data-first="{first}"><span>{html.escape(label)}</span>{small}</th>'


def _objective_head(name: str) -> str:
    if name in COSTS:
        label, _, unit = AXES[name]
        return _head(label, f"{unit}, times less")
    return _head(display_name(name), "points above dense", first="descending")


def _cell(text: str, value: float) -> str:
    return f'<td data-value="{value:g}">{html.escape(text)}</td>'


def _objective_cell(name: str, value: float, dense: Mapping[str, float]) -> str:
    """A value, and beside it how it compares with the dense network's."""
    text = f'<td data-value="{value!r}">{display_number(name, value)}'
    if name in ACCURACIES and name in dense:
        text += f" <small>{100 * (value - dense[name]):+.2f}</small>"
    elif name in COSTS and dense:
        text += f" <small>{gain(dense[name], value):.3g}x</small>"
    return f"{text}</td>"


def _crossbars(candidate: Candidate, layers: Iterable[str]) -> str:
    """The sizes that a candidate's layers are laid on, the tallest first."""
    specs = [candidate.plan[name] for name in layers]
    sizes = sorted({(spec.wordlines, spec.bitlines) for spec in specs}, reverse=True)
    return ", ".join(f"{wordlines} x {bitlines}" for wordlines, bitlines in sizes)


def _cells(candidate: Candidate, layers: Iterable[str]) -> int:
    """Wordlines of the tallest crossbar."""
    return max((candidate.plan[name].wordlines for name in layers), default=0)


def _bits(bits: Mapping[str, int]) -> str:
    """ADC bits of a few layers, or their range."""
    counts = list(bits.values())
    if len(counts) <= _MOST_BITS:
        return " ".join(map(str, counts))
    return f"{min(counts)} to {max(counts)}, mean {statistics.fmean(counts):.1f}"
