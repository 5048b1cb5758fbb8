import statistics
from pathlib import Path
from typing import Any

import pytest

from hwmodel.adc import adc_law
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.geometry import LayerShape, plan_layer
from search import hardware_figures
from search.evaluate import Evaluation
from search.figures import search_panels
from search.hardware_figures import hardware_panels, stored_layers
from search.objectives import COSTS
from search.panels import Panel
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


def hardware(study: Study) -> list[Panel]:
    return hardware_panels(study.config.hardware.cost_model(), stored_layers(study))


def drawn(panel: Panel, view: int) -> list[Any]:
    """The traces that a view shows."""
    chosen = panel.views[view].visible
    assert chosen is not None
    return [trace for trace, shown in zip(panel.figure.data, chosen, strict=True) if shown]


def test_breakdown_adds_up_to_the_priced_totals(study: Study) -> None:
    _, area, power, _ = hardware(study)
    model = study.config.hardware.cost_model()
    for nonzeros, bar in ((None, "dense"), (5, "0")):
        totals = model.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=nonzeros)]).totals
        for panel, whole in ((area, totals.area_m2 * 1e6), (power, totals.power_w * 1e3)):
            stacked = sum(trace.y[list(trace.x).index(bar)] for trace in panel.figure.data)
            assert stacked == pytest.approx(whole)


def test_component_has_one_colour_in_area_and_in_power(study: Study) -> None:
    _, *panels, _ = hardware(study)
    area, power = ({bar.name: bar.marker.color for bar in p.figure.data} for p in panels)
    assert area == power
    assert len(set(area.values())) == len(area)


def test_bits_figure_shows_one_network_at_a_time(study: Study) -> None:
    panel = hardware(study)[-1]
    assert [view.label for view in panel.views] == ["dense", "trial 0"]
    assert drawn(panel, 0) == [panel.figure.data[0]]
    (pruned,) = drawn(panel, 1)
    assert [list(row) for row in pruned.z] == [[4, 4, 4, 3]]


def test_members_are_shown_most_accurate_first_and_a_share_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware_figures, "_MOST_MEMBERS", 2)
    study = new_study(tmp_path)
    study.set_dense(evaluation(0.9, None))
    for accuracy, cost in ((0.6, 0.2), (0.8, 0.4), (0.7, 0.3)):
        found = evaluation(accuracy, 5).to_json()
        values = {**found["values"], **dict.fromkeys(COSTS, cost)}
        try_one(study, Evaluation.from_json({**found, "values": values}))
    ratio, area, _, bits = hardware(study)
    assert [view.label for view in bits.views] == ["dense", "trial 1", "trial 2", "trial 0"]
    assert list(area.figure.data[0].x) == ["dense", "1", "0"]
    assert "2 members of 3" in ratio.caption


def test_study_that_stored_no_layers_has_no_hardware_figures(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    assert hardware(study) == []
    study.set_dense(evaluation(0.9, None, stored=False))
    assert hardware(study) == []


def test_ratios_are_under_every_law_and_beside_what_was_published(study: Study) -> None:
    panel = hardware(study)[0]
    power, area = drawn(panel, 0), drawn(panel, 1)
    assert len(panel.figure.data) == len(power) + len(area)
    assert power[-1].name.startswith("published: TinyADC")
    assert (set(power[-1].y), set(area[-1].y)) == ({3.5}, {2.9})
    own = next(trace for trace in power if "this study" in trace.name)
    model = study.config.hardware.cost_model()
    dense, pruned = (
        model.evaluate([plan_layer(SHAPE, CrossbarSpec(), nonzeros=count)]).totals.power_w
        for count in (None, 5)
    )
    assert list(own.y) == [pytest.approx(dense / pruned)]
    ratios = [trace.y[0] for trace in power[1:-1] if trace.y[0] is not None]
    assert list(power[0].y)[:2] == [min(ratios), max(ratios)]


def test_ratios_are_also_under_a_law_of_the_study_s_own(study: Study) -> None:
    model = study.config.hardware.cost_model().under(law=adc_law("pow2+sense_amp"))
    panel = hardware_panels(model, stored_layers(study))[0]
    names = [trace.name for trace in panel.figure.data]
    assert names.count("pow2+sense_amp, this study's") == 2


def test_search_without_trials_has_no_figures(tmp_path: Path) -> None:
    assert search_panels(new_study(tmp_path)) == []


def test_search_figures_show_volume_rungs_importances_and_candidates(tmp_path: Path) -> None:
    study = new_study(tmp_path, trials=20, sampler="random")
    study.check_space({"x": list(range(101))})
    for index in range(14):
        try_one(study, done(0.6 + 0.02 * index, 1 - 0.05 * index))
    panels = search_panels(study)
    assert [panel.title for panel in panels] == [
        "Hypervolume of the front",
        "Rungs and early stops",
        "What decides the best tenth of each objective",
        "Candidates, coloured by accuracy",
    ]
    volume, rungs, importances, candidates = (panel.figure for panel in panels)
    assert list(volume.data[0].y) == sorted(volume.data[0].y)
    assert volume.data[0].y[-1] == pytest.approx(study.hypervolume())
    assert {bar.name: sum(bar.y) for bar in rungs.data} == {"complete": 14}
    assert all(sum(bar.x) == pytest.approx(1.0) for bar in importances.data)
    lines = candidates.data[0].dimensions
    labels = ["x", "Accuracy", "Chip<br>area (mm2)", "Chip<br>power (mW)"]
    assert [line.label for line in lines] == labels
    assert statistics.mean(lines[1]["values"]) == pytest.approx(0.73)


@pytest.mark.parametrize(("trusted", "beware"), [(15, True), (14, False)])
def test_importances_of_few_candidates_come_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: int, beware: bool
) -> None:
    monkeypatch.setattr("search.importance._TRUSTED_TRIALS", trusted)
    study = new_study(tmp_path, trials=20, sampler="random")
    study.check_space({"x": list(range(101))})
    for index in range(14):
        try_one(study, done(0.6 + 0.02 * index, 1 - 0.05 * index))
    (caption,) = [p.caption for p in search_panels(study) if p.title.startswith("What decides")]
    assert "over the 14 candidates" in caption
    assert ("mostly by chance" in caption) == beware


def test_rungs_name_one_epoch_and_several(tmp_path: Path) -> None:
    study = new_study(
        tmp_path, {"fidelity": {"projection": True, "rungs": [1]}, "train": {"epochs": 3}}
    )
    for index in range(8):
        try_one(study, done(0.6 + 0.02 * index, 0.5))
    (rungs,) = [p.figure for p in search_panels(study) if p.title.startswith("Rungs")]
    assert list(rungs.data[0].x) == ["projected", "1 epoch", "3 epochs"]


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
    (figure,) = [p.figure for p in search_panels(study) if p.title.startswith("Sensitivity")]
    heat = figure.data[0]
    rows = zip(heat.y, heat.text, heat.z, strict=True)
    lost = {name: dict(zip(text, row, strict=True)) for name, text, row in rows}
    assert lost == {
        "fc1.nonzeros": {"1": pytest.approx(50.0)},
        "fc2.nonzeros": {"1": pytest.approx(10.0)},
    }
