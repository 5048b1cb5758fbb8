"""Fronts: which trials nothing dominates, how much they cover, and which one to take."""

from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from hwmodel.errors import ConfigError, StudyError
from search.objectives import ACCURACIES, OBJECTIVES, direction, parse_bound

__all__ = ["contributions", "dominance_counts", "hypervolume", "nondominated", "scaled", "select"]

Values = Mapping[str, float]


def nondominated(points: Sequence[Values], objectives: Sequence[str]) -> list[int]:
    """Indices of the points that no other point dominates; of equal points, the first."""
    if not points:
        return []
    kept = moocore.is_nondominated(_losses(points, objectives))
    return [int(index) for index in np.flatnonzero(kept)]


def hypervolume(points: Sequence[Values], reference: Values) -> float:
    """The share of the unit cube that the points dominate.

    Each cost is divided by the reference's; accuracy becomes the share of the reference's error
    that is left, `(1 - a) / (1 - a_ref)`. Points beyond the reference add nothing.
    """
    if not points:
        return 0.0
    losses = [[scaled(point, reference, name) for name in reference] for point in points]
    return float(moocore.hypervolume(np.array(losses), ref=np.ones(len(reference))))


def contributions(points: Sequence[Values], objectives: Sequence[str]) -> list[float]:
    """What the points' own hypervolume would lose without each.

    Each objective is scaled from the best of the points to the worst, and the reference lies a
    tenth beyond the worst.
    """
    if not points:
        return []
    losses = _losses(points, objectives)
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
    found = moocore.hv_contributions(scaled, ref=np.full(len(objectives), 1.1))
    return [float(share) for share in found]


def dominance_counts(points: Sequence[Values], objectives: Sequence[str]) -> list[int]:
    """How many of the points dominate each: no worse in any objective, and better in one."""
    if not points:
        return []
    losses = _losses(points, objectives)
    counts = []
    for row in losses:
        no_worse = (losses <= row).all(axis=1)
        counts.append(int((no_worse & (losses < row).any(axis=1)).sum()))
    return counts


def select(points: Sequence[Values], objectives: Sequence[str], rule: str) -> int:
    """Index of the front member that a rule picks.

    Args:
        points: the front.
        objectives: of the study, for `knee`.
        rule: an objective (its best member), `knee` (nearest to the ideal after scaling the front
            to the unit cube), or bounds and a goal such as `accuracy>=0.88,min:area`.

    Raises:
        ConfigError: a rule that is none of these.
        StudyError: an empty front, or bounds that no member keeps.
    """
    if not points:
        raise StudyError("the front is empty: no trial completed within the constraints")
    if rule == "knee":
        losses = _losses(points, objectives)
        span = np.ptp(losses, axis=0)
        scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
        return int(np.argmin(np.linalg.norm(scaled, axis=1)))
    goal, bounds = rule, []
    if ":" in rule:
        *conditions, last = [part.strip() for part in rule.split(",")]
        bounds = [parse_bound(text) for text in conditions]
        way, _, goal = last.partition(":")
        if goal in OBJECTIVES and way != direction(goal)[:3]:
            raise ConfigError(f"select is {rule!r}; allowed: {direction(goal)[:3]}:{goal}")
    if goal not in OBJECTIVES or any(bound.relative for bound in bounds):
        raise ConfigError(
            f"select is {rule!r}; allowed: knee, one of {', '.join(OBJECTIVES)}, or for example "
            "'accuracy>=0.88,min:area'"
        )
    for name in (goal, *(bound.objective for bound in bounds)):
        if name not in points[0]:
            raise StudyError(f"select is {rule!r}; this study did not measure {name}")
    kept = [i for i, p in enumerate(points) if all(b.violation(p, p) <= 0 for b in bounds)]
    if not kept:
        raise StudyError(f"no front member keeps {', '.join(bound.text for bound in bounds)}")
    sign = -1.0 if direction(goal) == "maximize" else 1.0
    return min(kept, key=lambda index: sign * points[index][goal])


def _losses(points: Sequence[Values], objectives: Sequence[str]) -> np.ndarray:
    signs = [-1.0 if direction(name) == "maximize" else 1.0 for name in objectives]
    return np.array([[s * p[n] for s, n in zip(signs, objectives, strict=True)] for p in points])


def scaled(point: Values, reference: Values, name: str) -> float:
    """One objective as a loss, the reference's being 1: see `hypervolume`."""
    if name in ACCURACIES:
        return (1.0 - point[name]) / max(1.0 - reference[name], 1e-12)
    return point[name] / reference[name] if reference[name] else 1.0
