"""What a trial's records say: what came of it, what it measured, and whose files it goes on with.

A trial is Optuna's; what is ours are its user attributes, which `search.study` writes.
"""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.errors import StudyError
from search.evaluate import COMPLETE
from spaces.candidate import Candidate

__all__ = [
    "INFEASIBLE",
    "INTERRUPTED",
    "MEASURED",
    "PROJECTED",
    "PRUNED",
    "RUNG",
    "candidate_of",
    "counted_outcomes",
    "epochs_of",
    "is_feasible",
    "outcome_word",
    "root_of",
    "rows_of",
    "rungs_of",
    "seconds_of",
    "status",
    "values",
]

RUNG = "rung."
"""What the user attributes begin with that say what was measured on a rung."""
INFEASIBLE = "infeasible"
INTERRUPTED = "interrupted"
PRUNED = "pruned"
PROJECTED = "projected"
MEASURED = (COMPLETE, PRUNED, PROJECTED)
"""Outcomes of trials that have values."""
_WORDS = {PRUNED: "stopped early"}
"""Outcomes whose names in records mean something else to people who prune networks."""


def outcome_word(outcome: str) -> str:
    """What people are told of an outcome."""
    return _WORDS.get(outcome, outcome)


def counted_outcomes(counts: Mapping[str, int]) -> str:
    """How many trials came to what, in words; empty if none did."""
    return ", ".join(f"{count} {outcome_word(name)}" for name, count in counts.items() if count)


def status(trial: FrozenTrial) -> str:
    """What came of a trial: a status of this module, or `running` or `waiting`."""
    if not trial.state.is_finished():
        return trial.state.name.lower()
    found: str = trial.user_attrs.get("status", INTERRUPTED)
    return found


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps every hard bound, by its measured values."""
    return all(violation <= 0 for violation in trial.constraints.values())


def values(trial: FrozenTrial) -> dict[str, float]:
    """Everything that a complete trial measured, by objective."""
    return dict(_recorded(trial, "evaluation")["values"])


def seconds_of(trial: FrozenTrial) -> dict[str, float]:
    """Time that workers spent on a trial, all rungs together: `train` and `total`."""
    if status(trial) == INTERRUPTED:  # its retry has what it measured
        return {}
    spent = [row.get("seconds", {}) for row in rows_of(trial.user_attrs)]
    return {name: sum(row.get(name, 0.0) for row in spent) for name in ("train", "total")}


def root_of(trial: FrozenTrial) -> int:
    """The trial whose files a trial goes on with: itself, or what it is the retry of."""
    return int(trial.user_attrs.get("root", trial.number))


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate of a trial."""
    return Candidate.from_json(_recorded(trial, "candidate"))


def epochs_of(attributes: Mapping[str, Any]) -> int:
    """How long a trial has trained; a failed evaluation says nothing of the rungs before it."""
    known = [*rows_of(attributes), attributes.get("evaluation", {})]
    return max(int(row.get("epochs", 0)) for row in known)


def rungs_of(attributes: Mapping[str, Any]) -> int:
    """On how many rungs a trial was measured, by its user attributes."""
    return len(rows_of(attributes))


def rows_of(attributes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a trial measured on each of its rungs."""
    return [row for key, row in attributes.items() if key.startswith(RUNG)]


def _recorded(trial: FrozenTrial, name: str) -> Any:
    """What the study recorded of a trial that was measured.

    Raises:
        StudyError: it did not.
    """
    try:
        return trial.user_attrs[name]
    except KeyError:
        raise StudyError(
            f"trial {trial.number} has no {name}: records of the study are missing",
            "take the journal from a copy, or search anew under another name",
        ) from None
