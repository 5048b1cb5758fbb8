import statistics
from pathlib import Path
from typing import Any

import pytest

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.geometry import LayerShape, plan_layer
from search.evaluate import Evaluation
from search.figures import hardware_figures, search_figures, stored_layers
from search.objectives import COSTS
from search.study import Study
from spaces import Candidate, Suggester
from tests.search.fakes import DENSE_VALUES, done, new_study, try_one


class Layers:
    """Parameters by name, of no consequence."""

    def suggest(self, trial: Suggester, seed: int) -> Candidate:
        trial.suggest_int("fc1.nonzeros", 0, 2)
        trial.suggest_int("fc2.nonzeros", 0, 1)
        return Candidate(network="mlp", method="tinyadc", plan=CrossbarPlan(), seed=seed)


SHAPE = LayerShape(name="conv", rows=200, outputs=16, positions=4)


def evaluation(accuracy: float, nonzeros: int | None, *, stored: bool = True) -> Evaluation:
    layer = plan_layer(SHAPE, CrossbarSpec(), nonzeros=nonzeros)
    found = done(accuracy, 1.0)
    layers = [layer.to_json()] if stored else []
    fields = {**found.to_json(), "layers": layers}
    return Evaluation.from_json(fields)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = new_study(tmp_path)
    study.set_dense(evaluation(0.9, None))
    try_one(study, evaluation(0.8, 5))
    return study


def hardware(study: Study) -> list[Any]:
    return hardware_figures(study, stored_layers(study))


def titles(study: Study) -> list[str]:
    return [figure.layout.title.text for figure in search_figures(study)]


def test_breakdown_adds_up_to_the_priced_totals(study: Study) -> None:
    _, area, power, _ = hardware(study)
    model = study.config.hardware.cost_model()
    for nonzeros, bar in ((None, "dense"), (5, "trial 0")):
        totals = model.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=nonzeros)]).totals
        for figure, whole in ((area, totals.area_m2 * 1e6), (power, totals.power_w * 1e3)):
            stacked = sum(trace.y[list(trace.x).index(bar)] for trace in figure.data)
            assert stacked == pytest.approx(whole)


def test_bits_figure_shows_one_network_at_a_time(study: Study) -> None:
    figure = hardware(study)[-1]
    assert [trace.visible for trace in figure.data] == [True, False]
    assert [list(row) for row in figure.data[1].z] == [[4, 4, 4, 3]]
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["dense", "trial 0"]
    assert buttons[1].args[0]["visible"] == [False, True]


def test_study_that_stored_no_layers_has_no_hardware_figures(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    assert hardware(study) == []
    study.set_dense(evaluation(0.9, None, stored=False))
    assert hardware(study) == []


def test_ratios_are_under_every_law_and_beside_what_was_published(study: Study) -> None:
    figure = hardware(study)[0]
    power = [trace for trace in figure.data if trace.visible]
    assert len(figure.data) == 2 * len(power)
    assert power[-1].name.startswith("published: TinyADC")
    assert set(power[-1].y) == {3.5}
    own = next(trace for trace in power if "this study" in trace.name)
    model = study.config.hardware.cost_model()
    dense, pruned = (
        model.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=count)]).totals.power_w
        for count in (None, 5)
    )
    assert list(own.y) == [pytest.approx(dense / pruned)]


def test_search_without_trials_has_no_figures(tmp_path: Path) -> None:
    assert search_figures(new_study(tmp_path)) == []


def test_search_figures_show_volume_rungs_importances_and_candidates(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=20, sampler="random")
    study.check_space({"x": list(range(101))})
    for index in range(14):
        try_one(study, done(0.6 + 0.02 * index, 1 - 0.05 * index))
    assert titles(study) == [
        "Hypervolume of the front",
        "Rungs and early stops",
        "What decides the best tenth of each objective (PED-ANOVA)",
        "Candidates, coloured by accuracy",
    ]
    volume, rungs, importances, candidates = search_figures(study)
    assert list(volume.data[0].y) == sorted(volume.data[0].y)
    assert volume.data[0].y[-1] == pytest.approx(study.hypervolume())
    assert {bar.name: sum(bar.y) for bar in rungs.data}["complete"] == 14
    assert all(sum(bar.x) == pytest.approx(1.0) for bar in importances.data)
    lines = candidates.data[0].dimensions
    assert [line.label for line in lines] == ["x", "Accuracy", "Chip area (mm2)", "Chip power (mW)"]
    assert statistics.mean(lines[1]["values"]) == pytest.approx(0.73)


def test_scan_becomes_a_map_of_points_lost(tmp_path: Path) -> None:
    study = new_study(tmp_path, {"fidelity": {"projection": True, "scan": 1}}, sampler="random")
    study.check_space({"fc1.nonzeros": [1, 5, 42], "fc2.nonzeros": [1, 42]})
    mildest = {"fc1.nonzeros": 2, "fc2.nonzeros": 1}
    scan = [mildest, {**mildest, "fc1.nonzeros": 0}, {**mildest, "fc2.nonzeros": 0}]
    study.enqueue(scan, scan=True)
    for accuracy in (0.9, 0.4, 0.8):
        proposal = study.propose(Layers(), lambda _: dict.fromkeys(COSTS, 0.5), DENSE_VALUES)
        assert proposal is not None
        study.finish(proposal.number, done(accuracy, 0.5))
    (figure,) = [f for f in search_figures(study) if f.layout.title.text.startswith("Sensitivity")]
    heat = figure.data[0]
    rows = zip(heat.y, heat.text, heat.z, strict=True)
    lost = {name: dict(zip(text, row, strict=True)) for name, text, row in rows}
    assert lost == {
        "fc1.nonzeros": {"1": pytest.approx(50.0)},
        "fc2.nonzeros": {"1": pytest.approx(10.0)},
    }
