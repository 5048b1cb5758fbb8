"""A search that finds nothing to evaluate says so while it looks."""

from pathlib import Path

import pytest

from hwmodel.errors import OutOfRangeError, StudyError
from search.refusals import Refusals
from spaces import Candidate
from tests.search.fakes import DENSE_VALUES, Ladder, new_study, price


def test_bound_that_nothing_keeps_is_told_early_with_the_nearest_value(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["area <= 0.001x", "power <= 3x"])
    study.enqueue([{"x": 7}])
    told: list[str] = []
    with pytest.raises(StudyError, match=r"500 of 500 .* loosen that constraint"):
        study.propose(Ladder(), price, DENSE_VALUES, say=told.append)
    assert [text.split()[0] for text in told] == ["20", "100", "250"]
    # The smallest of the first twenty; later ones may come nearer.
    assert told[0].startswith("20 of 20 candidates in a row break 'area <= 0.001x' before any")
    assert "the nearest with 0.0" in told[0]
    assert told[0].endswith("x; still looking")


def test_candidates_that_keep_their_bounds_are_no_news(tmp_path: Path) -> None:
    study = new_study(tmp_path, constraints=["area <= 1x"])
    told: list[str] = []
    assert study.propose(Ladder(), price, DENSE_VALUES, say=told.append) is not None
    assert told == []


def test_candidates_without_a_price_are_told_likewise(tmp_path: Path) -> None:
    def refuse(candidate: Candidate) -> dict[str, float]:
        raise OutOfRangeError("fc1: ADC law table:x asked for 2 bits; allowed: 3, 4")

    told: list[str] = []
    with pytest.raises(OutOfRangeError, match="asked for 2 bits"):
        new_study(tmp_path).propose(Ladder(), refuse, DENSE_VALUES, say=told.append)
    assert told[0] == (
        "20 candidates in a row cannot be priced: fc1: ADC law table:x asked for 2 bits; "
        "allowed: 3, 4; still looking"
    )


def test_bound_that_most_break_is_named() -> None:
    refusals = Refusals()
    for accuracy in (0.1, -0.2):
        refusals.broke({"area <= 2 mm2": 0.5 - accuracy, "power <= 1x": accuracy})
    assert str(refusals) == (
        "2 of 2 candidates in a row break 'area <= 2 mm2' before any training, the nearest with "
        "2.8 mm2"
    )
