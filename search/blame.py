"""Why a front is empty."""

from collections import Counter

from search.evaluate import FAILED
from search.objectives import parse_bound
from search.repeats import repeat_by
from search.study import Study
from search.trials import status

__all__ = ["why_empty"]


def why_empty(study: Study) -> str:
    """What keeps every trial off the front, in one line.

    The bounds that exclude trials, the strictest first, each with the nearest value that any trial
    came to; then the failures, with the reason that most of them gave.
    """
    ended = [trial for trial in study.ended() if repeat_by(trial) is None]
    judged = [violations for trial in ended if (violations := study.violations(trial))]
    excluded = Counter(name for found in judged for name, by in found.items() if by > 0)
    parts = []
    for name, count in excluded.most_common():
        nearest = min(found[name] for found in judged if name in found)
        seen = "others keep it" if nearest <= 0 else f"nearest: {parse_bound(name).at(nearest)}"
        parts.append(f"{name!r} excludes {count} of {len(judged)} trials ({seen})")
    reasons = Counter(t.user_attrs.get("reason", "") for t in ended if status(t) == FAILED)
    if reasons:
        reason, count = reasons.most_common(1)[0]
        parts.append(f"{reasons.total()} trials failed, {count} of them: {reason}")
    return "; ".join(parts) or "no trial has been measured"
