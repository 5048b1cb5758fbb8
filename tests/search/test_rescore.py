"""Studies priced anew, on layers made by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError, OutOfRangeError, StudyError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer
from search.evaluate import COMPLETE, Evaluation
from search.objectives import COSTS, cost_values
from search.report import draw_front, pareto_json
from search.rescore import rescore
from search.study import Study
from tests.search.fakes import DENSE_VALUES, Ladder, done, new_study, price

SHAPE = LayerShape(name="fc1", rows=256, outputs=40)


def measured(study: Study, accuracy: float, nonzeros: int | None, outputs: int = 40) -> Evaluation:
    """An evaluation whose costs are those of one planned layer under the study's own law."""
    layer = plan_layer(SHAPE, CrossbarSpec(), nonzeros=nonzeros, outputs=outputs)
    report = study.config.hardware.cost_model().evaluate([layer])
    return Evaluation(
        status=COMPLETE,
        values={"accuracy": accuracy, **cost_values(report)},
        adc_bits={"fc1": layer.adc_bits},
        layers=[layer.to_json()],
    )


def study_of(storage: Path, *points: tuple[float, int | None, int], **config: Any) -> Study:
    study = new_study(storage, dense=False, **config)
    study.set_dense(measured(study, 0.9, None))
    for accuracy, nonzeros, outputs in points:
        proposal = study.propose(Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        study.finish(proposal.number, measured(study, accuracy, nonzeros, outputs))
    return study


def test_mapped_layer_survives_json() -> None:
    spec = CrossbarSpec(sign_encoding=SignEncoding.FLIPPED)
    layer = plan_layer(SHAPE, spec, rows=200, nonzeros=9)
    assert MappedLayer.from_json(layer.to_json()) == layer


def test_own_law_gives_the_same_front(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.88, 42, 40), (0.85, 5, 40), (0.8, 10, 40))
    again = rescore(study, study.config.hardware.law)
    assert [trial.number for trial, _ in again.front] == [t.number for t in study.front()]
    assert (again.left, again.joined) == ((), ())
    assert again.hypervolume == pytest.approx(study.hypervolume())
    assert again.reference == pytest.approx(study.reference)


def test_repeated_members_stand_by_their_means(tmp_path: Path) -> None:
    study = new_study(tmp_path, {"fidelity": {"seeds": 2}}, dense=False, trials=2)
    study.set_dense(measured(study, 0.9, None))
    for accuracy, nonzeros in ((0.88, 5), (0.86, 5), (0.82, 5), (0.86, 5)):
        proposal = study.propose(Ladder(), price, DENSE_VALUES)
        assert proposal is not None
        study.finish(proposal.number, replace(measured(study, accuracy, nonzeros), epochs=1))
    assert study.over
    again = rescore(study, study.config.hardware.law)
    assert [trial.number for trial, _ in again.front] == [1] == [t.number for t in study.front()]
    assert again.hypervolume == pytest.approx(study.hypervolume())


def test_law_without_area_of_bits_moves_the_front(tmp_path: Path) -> None:
    # Many bits on few crossbars against few bits on many: which is smaller, the law decides.
    study = study_of(tmp_path, (0.84, None, 16), (0.85, 2, 40), objectives=["accuracy", "adc_area"])
    assert [trial.number for trial in study.front()] == [1]
    under = rescore(study, "linear")  # an ADC of any resolution has the same area
    assert [trial.number for trial, _ in under.front] == [0, 1]
    assert (under.left, under.joined) == ((), (0,))
    assert under.law == "linear"
    assert set(under.front[0][1]) == {"accuracy", *COSTS}


def test_json_under_a_law_adds_who_moved(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.88, 42, 40), (0.85, 5, 40))
    plain, under = pareto_json(study), pareto_json(study, rescore(study, "pow2"))
    assert set(under) == set(plain) | {"law", "left", "joined"}
    assert under["dense"]["values"]["adc_area"] != plain["dense"]["values"]["adc_area"]


def test_bounds_are_held_under_the_new_law(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.85, 5, 40), constraints=["adc_area <= 0.5x"])
    (member,) = study.front()
    assert rescore(study, "linear").left == (member.number,)


def test_front_under_another_law_is_drawn(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.85, 1, 40), (0.86, 5, 40))
    rescored = rescore(study, "pow2")
    draw_front(study, tmp_path / "own.svg")
    draw_front(study, tmp_path / "pow2.svg", rescored)
    own, other = ((tmp_path / f"{name}.svg").read_text() for name in ("own", "pow2"))
    assert own != other
    assert all(f"<!-- {trial.number} -->" in other for trial, _ in rescored.front)


def test_law_that_refuses_or_is_unknown_is_one_of_our_errors(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.85, 1, 40))
    with pytest.raises(OutOfRangeError):
        rescore(study, "survey")
    with pytest.raises(ConfigError):
        rescore(study, "guess")


def test_trial_without_its_layers_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    proposal = study.propose(Ladder(), price, DENSE_VALUES)
    assert proposal is not None
    study.finish(proposal.number, done(0.8, 0.5))
    with pytest.raises(StudyError, match="trial 0 stored no layers"):
        rescore(study, "pow2")


def test_study_without_a_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no dense baseline"):
        rescore(new_study(tmp_path, dense=False), "pow2")
