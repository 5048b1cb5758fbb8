"""What a study came to, as JSON, as Parquet tables and as pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.cost_report import gain
from hwmodel.errors import ConfigError, StudyError
from search.evaluate import FAILED
from search.objectives import ACCURACIES, COSTS, direction
from search.rescore import Rescored
from search.study import Study
from search.tracking import mirrored_runs
from search.trials import status, values
from search.units import display_number

__all__ = ["draw_front", "over_seeds", "pareto_json", "ratios", "write_pictures", "write_tables"]


def ratios(dense: dict[str, float], found: dict[str, float]) -> dict[str, float]:
    """How many times less a trial costs than the dense network, by cost."""
    return {name: gain(dense[name], found[name]) for name in COSTS}


def over_seeds(study: Study, trial: FrozenTrial, name: str) -> str:
    """Between what limits an objective lies over a trial's seeds; nothing of one seed alone."""
    repeats = study.repeats(trial)
    if not repeats:
        return ""
    spread = study.spreads(trial)[name]
    failed = sum(status(repeat) == FAILED for repeat in repeats)
    limits = f"{display_number(name, spread.min)} to {display_number(name, spread.max)}"
    return f"{limits}, n={1 + len(repeats) - failed}" + (f", {failed} failed" if failed else "")


def pareto_json(study: Study, rescored: Rescored | None = None) -> dict[str, Any]:
    """The JSON of `crossfront pareto --json`.

    Args:
        study: finished or running.
        rescored: the study under another ADC law; adds `law`, `left` and `joined`.
    """
    if rescored is not None:
        return _rescored_json(study, rescored)
    dense = study.dense
    return {
        "study": study.folder.name,
        "objectives": [
            {"name": name, "direction": direction(name)} for name in study.config.study.objectives
        ],
        "reference": None if dense is None else study.reference,
        "hypervolume": study.hypervolume(),
        "dense": {"values": {} if dense is None else dict(dense.values)},
        "trials": study.counts(),
        "front": _front_json(study, [(trial, values(trial)) for trial in study.front()]),
    }


def _rescored_json(study: Study, rescored: Rescored) -> dict[str, Any]:
    return {
        **pareto_json(study),
        "law": rescored.law,
        "reference": rescored.reference,
        "hypervolume": rescored.hypervolume,
        "dense": {"values": rescored.dense},
        "front": _front_json(study, rescored.front),
        "left": list(rescored.left),
        "joined": list(rescored.joined),
    }


def _front_json(
    study: Study, front: Sequence[tuple[FrozenTrial, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    runs = mirrored_runs(study)
    return [
        {
            "number": trial.number,
            "run_id": runs.get(trial.number),
            "values": dict(found),
            "candidate": trial.user_attrs["candidate"],
            "adc_bits": trial.user_attrs["evaluation"]["adc_bits"],
            "seeds": _seeds_json(study, trial),
        }
        for trial, found in front
    ]


def _seeds_json(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """What a member came to over its seeds, its own included."""
    failed = sum(status(repeat) == FAILED for repeat in study.repeats(trial))
    spreads = {name: asdict(spread) for name, spread in study.spreads(trial).items()}
    return {"count": 1 + len(study.repeats(trial)) - failed, "failed": failed, "values": spreads}


def write_tables(study: Study) -> dict[str, Path]:
    """Writes `trials.parquet` and `front.parquet` beside the study; returns both by name."""
    front = study.front()
    written = {}
    for name, trials in (("trials", study.ended()), ("front", front)):
        path = study.folder.path / f"{name}.parquet"
        _write_table(trials, {trial.number for trial in front}, path)
        written[name] = path
    return written


def write_pictures(study: Study) -> list[Path]:
    """Draws the front and its hypervolume beside the study; returns the files.

    They are those that there is something for: a front needs two objectives.
    """
    from search.figures import volumes
    from search.pictures import volume_steps

    folder = study.folder.path / "figures"
    folder.mkdir(exist_ok=True)
    if not study.measured():
        return []
    volume = folder / "hypervolume.png"
    volume_steps(volumes(study), volume)
    if len(study.config.study.objectives) < 2:
        return [volume]
    picture = folder / "front.png"
    draw_front(study, picture)
    return [picture, volume]


def draw_front(study: Study, path: Path, rescored: Rescored | None = None) -> None:
    """Draws the front of a study, finished or running, over each of its costs.

    Args:
        study: with two objectives or more.
        path: the file to write; its ending chooses SVG or PNG.
        rescored: the study under another ADC law; its front alone is drawn, and the dense network.

    Raises:
        ConfigError: one objective, another ending, or a file that cannot be written.
        StudyError: nothing is measured yet.
    """
    from search.pictures import front_scatter

    objectives = sorted(study.config.study.objectives, key=lambda name: name in COSTS)
    if len(objectives) < 2:
        raise ConfigError(f"study.objectives is {objectives}; a picture needs two or more")
    if not study.measured():
        raise StudyError(f"study {study.folder.name!r} has no measured trial to draw yet")
    if rescored is not None:
        members = {trial.number: found for trial, found in rescored.front}
        front_scatter(members, [], rescored.dense, objectives, path)
        return
    front = study.front()  # once: the study may be running
    members = dict(zip([t.number for t in front], study.all_means(front), strict=True))
    others = study.all_means([t for t in study.measured() if t.number not in members])
    dense = {} if study.dense is None else study.dense.values
    front_scatter(members, others, dense, objectives, path)


def _write_table(trials: Sequence[FrozenTrial], front: set[int], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = []
    for trial in trials:
        evaluation = trial.user_attrs.get("evaluation", {})
        measured = evaluation.get("values", {})
        rows.append(
            {
                "number": trial.number,
                "repeat_of": trial.user_attrs.get("repeat_of"),
                "status": status(trial),
                "pareto": trial.number in front,
                "reason": trial.user_attrs.get("reason", ""),
                **{name: measured.get(name) for name in ACCURACIES},
                **{field: measured.get(name) for name, field in COSTS.items()},
                "candidate": json.dumps(trial.user_attrs.get("candidate")),
                "adc_bits": json.dumps(evaluation.get("adc_bits", {})),
                "seconds": evaluation.get("seconds", {}).get("total"),
            }
        )
    schema = pyarrow.schema(
        [
            ("number", pyarrow.int64()),
            ("repeat_of", pyarrow.int64()),
            ("status", pyarrow.string()),
            ("pareto", pyarrow.bool_()),
            ("reason", pyarrow.string()),
            *[(name, pyarrow.float64()) for name in ACCURACIES],
            *[(field, pyarrow.float64()) for field in COSTS.values()],
            ("candidate", pyarrow.string()),
            ("adc_bits", pyarrow.string()),
            ("seconds", pyarrow.float64()),
        ]
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
