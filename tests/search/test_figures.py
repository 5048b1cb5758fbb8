from pathlib import Path

import pytest

from hwmodel.crossbar import CrossbarSpec
from hwmodel.geometry import LayerShape, plan_layer
from search.evaluate import Evaluation
from search.figures import front_figures, hardware_figures
from search.study import Study
from tests.search.fakes import done, new_study, try_one

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


def test_front_has_a_figure_for_every_cost(study: Study) -> None:
    titles = [figure.layout.xaxis.title.text for figure in front_figures(study)]
    assert titles == ["Chip area (mm2)", "Chip power (mW)"]


def test_breakdown_adds_up_to_the_priced_totals(study: Study) -> None:
    area, power, _ = hardware_figures(study)
    model = study.config.hardware.cost_model()
    for nonzeros, bar in ((None, "dense"), (5, "trial 0")):
        totals = model.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=nonzeros)]).totals
        for figure, whole in ((area, totals.area_m2 * 1e6), (power, totals.power_w * 1e3)):
            stacked = sum(trace.y[list(trace.x).index(bar)] for trace in figure.data)
            assert stacked == pytest.approx(whole)


def test_bits_figure_shows_one_network_at_a_time(study: Study) -> None:
    figure = hardware_figures(study)[-1]
    assert [trace.visible for trace in figure.data] == [True, False]
    assert [list(row) for row in figure.data[1].z] == [[4, 4, 4, 3]]
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["dense", "trial 0"]
    assert buttons[1].args[0]["visible"] == [False, True]


def test_study_that_stored_no_layers_has_no_hardware_figures(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    assert hardware_figures(study) == []
    study.set_dense(evaluation(0.9, None, stored=False))
    assert hardware_figures(study) == []
