"""Who goes on from a rung: successive halving with several objectives.

A rung's candidates are ranked by how many others of it dominate them: are at least as accurate and
as cheap, and better in something. Counting needs no scaling of the objectives and keeps the cheap
end of the front, which a rule on accuracy alone deletes. Candidates that nothing dominates are
ranked by what the rung's own hypervolume would lose without them, against the worst of the rung in
each objective, for what is measured early may lie far from the study's reference. Of equals the
newest goes last. A rung fills up: what a good sampler proposes late adds less to it than what it
proposed early. So while fewer than one in so many have gone on, a candidate also does that ranks
before the last few.

Source: the asynchronous rule is that of ASHA (Li et al., MLSys 2020, algorithm 2), in its variant
that stops instead of promoting later.
"""

import math
from collections.abc import Mapping, Sequence

from search.front import contributions, dominance_counts

__all__ = ["goes_on"]

Values = Mapping[str, float]


def goes_on(
    point: Values,
    mates: Sequence[Values],
    objectives: Sequence[str],
    reduction: int,
    *,
    gone_on: int,
) -> bool | None:
    """Whether a candidate goes on from its rung.

    Args:
        point: what it measured.
        mates: what the others of the rung measured, oldest first.
        objectives: the objectives that count.
        reduction: one in so many goes on.
        gone_on: how many of the others did.

    Returns:
        None while the rung has fewer than `reduction` candidates.
    """
    everyone = [*mates, point]
    if len(everyone) < reduction:
        return None
    counts = dominance_counts(everyone, objectives)
    worth = contributions(everyone, objectives)
    ranks = [(count, -share) for count, share in zip(counts, worth, strict=True)]
    quota = math.ceil(len(everyone) / reduction)
    ahead = sum(1 for rank in ranks[:-1] if rank <= ranks[-1])
    before_the_last = all(rank > ranks[-1] for rank in ranks[-reduction:-1])
    return ahead < quota or (gone_on < quota and before_the_last)
