"""The note on a study's parent run: what MLflow's own interface shows first."""

import shlex

from search.folder import DEFAULT_STORAGE
from search.objectives import ACCURACIES, direction
from search.study import Study
from search.trials import counted_outcomes
from search.units import AXES, display_name, display_number

__all__ = ["study_note"]

_MEMBERS = 30
"""Rows that fit: MLflow refuses a tag above 8,000 characters."""


def study_note(study: Study, state: str) -> str:
    """Markdown: what is searched, the front, how to find it here, and the next commands.

    Args:
        study: finished or running.
        state: how the search stands, as a sentence.

    Returns:
        The text; a front member's trial is `[NUMBER](run)`, for the store to link.
    """
    config = study.config
    aims = ", ".join(f"{direction(o)[:3]} {AXES[o][0].lower()}" for o in config.study.objectives)
    counts = counted_outcomes(study.counts())
    return "\n\n".join(
        [
            f"**{state}** `tags.pareto = 'true'` in the search box of the runs shows the "
            f"{len(study.front())} front members.",
            f"Network `{config.network.name}` on `{config.data.name}`: {aims}, under the ADC law "
            f"`{config.hardware.law}`. Trials: {counts or 'none yet'}.",
            "### Front",
            _front_table(study),
            "### Next",
            _commands(study),
            _guide(study),
        ]
    )


def _front_table(study: Study) -> str:
    """The front's members, the most accurate first, and the dense network."""
    columns = study.config.study.objectives
    members = study.ranked_front()
    if not members:
        return "No trial has completed within the constraints yet."
    rows = [("trial", *map(display_name, columns), "ADC bits"), ("---:",) * (len(columns) + 2)]
    for trial, found in members[:_MEMBERS]:
        bits = trial.user_attrs["evaluation"]["adc_bits"].values()
        cells = [display_number(column, found[column]) for column in columns]
        rows.append((f"[{trial.number}](run)", *cells, _span(list(bits))))
    if study.dense is not None:
        dense = study.dense.values
        cells = [display_number(c, dense[c]) if c in dense else "" for c in columns]
        rows.append(("dense", *cells, _span(list(study.dense.adc_bits.values()))))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    left = len(members) - _MEMBERS
    return table if left <= 0 else f"{table}\n\n{left} more are in `report.html`."


def _span(bits: list[int]) -> str:
    if not bits:
        return ""
    return f"{min(bits)}" if min(bits) == max(bits) else f"{min(bits)} to {max(bits)}"


def _guide(study: Study) -> str:
    """How to find the front among the runs."""
    accuracies = ", ".join(f"`{name}`" for name in ACCURACIES)
    return (
        "``tags.pareto = 'true' and tags.`crossfront.study` = "
        f"'{study.folder.name}'`` finds this study's front alone. Metrics end in their SI unit "
        f"(`area_m2`, `power_w`) or are shares ({accuracies}). Once the search ends, `report.html` "
        "is among this run's artifacts, and each front member carries its finalised integer "
        'network as a model, `mlflow.pytorch.load_model("runs:/RUN_ID/network")`, which takes '
        "float32 images in 0..1."
    )


def _commands(study: Study) -> str:
    storage = study.folder.storage
    where = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(str(storage))}"
    name = study.folder.name
    return "\n".join(
        [
            "```",
            f"crossfront pareto {name}{where}",
            f"crossfront export {name} --select knee --to out/{where}",
            "crossfront verify out/",
            f"crossfront export {name} --to out/ --register MODEL{where}",
            f"crossfront resume {name} --max-trials {2 * study.config.study.trials}{where}",
            "```",
        ]
    )
