"""Fronts of earlier studies as the first candidates of a new one."""

from dataclasses import dataclass

from hwmodel.errors import StudyError
from hwmodel.records import differences, listed
from search.config import StudyConfig
from search.folder import StudyFolder
from search.study import Study
from search.trials import candidate_of
from spaces.space import Space

__all__ = ["WarmStart", "warm_starts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What one earlier study has for a new one."""

    study: str
    parameters: list[dict[str, int]]
    """Of those front members that the space has."""
    left_out: int
    """Front members that it has not: another method, strength or crossbar."""

    @property
    def text(self) -> str:
        """One line about it."""
        members = len(self.parameters) + self.left_out
        return (
            f"warm start from {self.study!r}: {len(self.parameters)} of {members} front members "
            f"are tried first; {self.left_out} lie outside this space"
        )


def warm_starts(folder: StudyFolder, config: StudyConfig, space: Space) -> list[WarmStart]:
    """The front members of every study that `study.warm_start` names, in this space.

    Their measurements are not taken over: they are of other data, training or costs.

    Args:
        folder: of the new study; the others lie beside it.
        config: of the new study.
        space: of the new study.

    Raises:
        StudyError: a study that is not there, or one of another network.
    """
    return [_warm_start(folder, name, config, space) for name in config.study.warm_start]


def _warm_start(folder: StudyFolder, name: str, config: StudyConfig, space: Space) -> WarmStart:
    if name == folder.name:
        raise StudyError(f"study.warm_start names {name!r} itself; allowed: earlier studies")
    earlier = Study.open(StudyFolder(folder.storage, name))
    there, here = (
        {"name": network.name, "arguments": dict(network.arguments)}
        for network in (earlier.config.network, config.network)
    )
    differing = differences(there, here, "network.")
    if differing:
        raise StudyError(f"study.warm_start names {name!r}; {listed(differing)}")
    found = [space.parameters(candidate_of(trial)) for trial in earlier.front()]
    fitting = [parameters for parameters in found if parameters is not None]
    return WarmStart(study=name, parameters=fitting, left_out=len(found) - len(fitting))
