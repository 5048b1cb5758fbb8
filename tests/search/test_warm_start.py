from pathlib import Path
from typing import Any

import pytest

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import StudyError
from search.study import Study
from search.warm_start import warm_starts
from spaces import JointSpace, SpaceConfig
from spaces.joint import LayerSpace
from tests.search.fakes import DENSE_VALUES, SHAPES, done, new_study


def space(**choices: Any) -> JointSpace:
    config = SpaceConfig(wordlines=(64, 128), bitlines=(128,), **choices)
    return JointSpace(config, SHAPES, CrossbarSpec(), network="mlp", methods=["tinyadc"])


MLP = {"network": {"name": "mlp"}}


def earlier(storage: Path, searched: JointSpace, strengths: list[int]) -> Study:
    """A finished study with one front member for each index of a strength in the layer `fc2`."""
    made = new_study(storage, MLP, name="earlier", trials=len(strengths))
    made.enqueue([{"wordlines": 1, "fc2.nonzeros": index} for index in strengths])
    for step in range(len(strengths)):
        proposal = made.propose(searched, lambda _: DENSE_VALUES, DENSE_VALUES)
        assert proposal is not None
        made.finish(proposal.number, done(0.8 + 0.01 * step, 0.3 + 0.1 * step))
    return made


def test_front_members_come_first(tmp_path: Path) -> None:
    before = earlier(tmp_path, space(nonzeros=(2, 5, 10)), [0, 2])
    study = new_study(tmp_path, MLP, warm_start=["earlier"])
    here = space(nonzeros=(1, 2, 5, 10))
    (found,) = warm_starts(study.folder, study.config, here)
    assert found.text == (
        "warm start from 'earlier': 2 of 2 front members are tried first; 0 lie outside this space"
    )
    study.enqueue(found.parameters, source=found.study)
    for trial in before.front():
        proposal = study.propose(here, lambda _: DENSE_VALUES, DENSE_VALUES)
        assert proposal is not None
        candidate = proposal.candidate
        assert candidate.to_json()["layers"] == trial.user_attrs["candidate"]["layers"]
        assert candidate.plan.to_json() == trial.user_attrs["candidate"]["plan"]
        assert study.trials()[proposal.number].user_attrs["warm_start"] == "earlier"


def test_members_outside_the_space_are_counted(tmp_path: Path) -> None:
    earlier(tmp_path, space(nonzeros=(2, 5, 10)), [0, 1, 2])
    study = new_study(tmp_path, MLP, warm_start=["earlier"])
    here = space(layers={"fc2": LayerSpace(nonzeros=(5,))}, nonzeros=(2, 5, 10))
    (found,) = warm_starts(study.folder, study.config, here)
    assert (len(found.parameters), found.left_out) == (1, 2)


def test_study_of_another_network_is_refused(tmp_path: Path) -> None:
    earlier(tmp_path, space(), [0])
    tables = {"network": {"name": "mlp", "arguments": {"hidden": 8}}}
    study = new_study(tmp_path, tables, warm_start=["earlier"])
    with pytest.raises(
        StudyError, match=r"'earlier'; network\.arguments\.hidden is not set there, 8"
    ):
        warm_starts(study.folder, study.config, space())


@pytest.mark.parametrize(
    ("name", "message"),
    [("tiny", "names 'tiny' itself"), ("none", "no study 'none' .*studies there: tiny")],
)
def test_study_that_is_not_there_is_refused(tmp_path: Path, name: str, message: str) -> None:
    study = new_study(tmp_path, MLP, warm_start=[name])
    with pytest.raises(StudyError, match=message):
        warm_starts(study.folder, study.config, space())
