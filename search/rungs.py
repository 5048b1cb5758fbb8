"""Who goes on from a rung: successive halving with several objectives.

A rung's candidates are ranked by how many others of it dominate them: are at least as accurate and
as cheap, and better in something. Counting needs no scaling of the objectives and keeps the cheap
end of the front, which a rule on accuracy alone deletes. Candidates that nothing dominates are
ranked by what the rung's hypervolume would lose without them, and of equals the newest goes last.

Source: the asynchronous rule is that of ASHA (Li et al., MLSys 2020, algorithm 2), in its variant
that stops instead of promoting later.
"""

import math
from collections.abc import Mapping, Sequence

from search.front import contributions, dominance_counts

__all__ = ["goes_on"]

Values = Mapping[str, float]


def goes_on(
    point: Values, mates: Sequence[Values], reference: Values, reduction: int
) -> bool | None:
    """Whether a candidate goes on from its rung.

    Args:
        point: what it measured.
        mates: what the others of the rung measured.
        reference: the hypervolume's reference point, naming the objectives.
        reduction: one in so many goes on.

    Returns:
        None while the rung has fewer than `reduction` candidates.
    """
    everyone = [*mates, point]
    if len(everyone) < reduction:
        return None
    counts = dominance_counts(everyone, tuple(reference))
    worth = contributions(everyone, reference)
    ranks = [(count, -share) for count, share in zip(counts, worth, strict=True)]
    ahead = sum(1 for rank in ranks[:-1] if rank <= ranks[-1])
    return ahead < math.ceil(len(everyone) / reduction)
