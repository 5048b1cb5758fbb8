"""What the networks of a study take on disk: those off its front are deleted as it goes."""

import shutil

from search.endings import Endings
from search.exchange import Exchange
from search.study import Study
from search.trials import MEASURED, root_of, status

__all__ = ["Checkpoints"]


class Checkpoints:
    """Deletes checkpoints of trials off the front, and training states of trials that ended.

    Args:
        study: a study that this process drives.
        exchange: where nodes without a shared folder have copies.
    """

    def __init__(self, study: Study, exchange: Exchange) -> None:
        self._study = study
        self._exchange = exchange
        self._endings = Endings()
        self._front: set[int] = set()

    def tidy(self) -> None:
        """Looks at what has ended or left the front since the last call; at first, at everything.

        Likewise at what a killed worker had half written for a trial that has ended since. While
        members are still to be repeated, whoever was measured may take the place of one.
        """
        study, folder = self._study, self._study.folder
        ended = self._endings.look(study.trials())
        # Read in this order: who ends in between is under way, or on the front, or both.
        settled = study.settled
        under_way = {root_of(trial) for trial in study.resumable()}
        front = {root_of(trial) for trial in study.front()}
        left, self._front = self._front - front, front
        looked = left | {root_of(trial) for trial in ended}
        kept = front | under_way
        if not settled:
            kept |= left | {root_of(trial) for trial in ended if status(trial) in MEASURED}
        off, over = looked - kept, looked - under_way
        networks, trained = ({folder.checkpoint(r).name for r in roots} for roots in (off, over))
        for path in (folder.path / "checkpoints").iterdir():
            root = path.name.removeprefix(".").split(".")[0]
            # Beside a network lie its drafts, and what its training goes on from.
            if root not in (networks if path.name == root else trained):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._exchange.drop(
            [*map(folder.checkpoint, sorted(off)), *map(folder.training, sorted(over))]
        )
