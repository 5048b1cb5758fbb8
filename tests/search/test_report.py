import base64
import gzip
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pyarrow
import pyarrow.parquet
import pytest

from search import page as report_page
from search.note import study_note
from search.objectives import COSTS, OBJECTIVES
from search.page import write_report
from search.page_candidates import candidates_data
from search.report import pareto_json, ratios, write_pictures, write_tables
from search.study import Study
from search.units import display_name, display_value
from spaces import Candidate
from tests.search.fakes import done, failed, new_study, try_one


@pytest.fixture
def filled(tmp_path: Path) -> Study:
    """Infeasible, two on the front, one dominated, one failed, one running."""
    study = new_study(tmp_path, constraints=["area <= 0.99x"])
    study.enqueue([{"x": 100}, {"x": 10}, {"x": 20}, {"x": 30}, {"x": 40}, {"x": 50}])
    for evaluation in (done(0.85, 0.5), done(0.7, 0.25), done(0.6, 0.6), failed("<b>&nan")):
        try_one(study, evaluation)
    study.note("run.1", "abc123")
    return study


def test_pareto_json_has_exactly_the_documented_keys(filled: Study) -> None:
    found = json.loads(json.dumps(pareto_json(filled)))
    assert set(found) == {
        "study",
        "objectives",
        "reference",
        "hypervolume",
        "dense",
        "trials",
        "front",
    }
    assert found["study"] == "tiny"
    assert found["objectives"] == [
        {"name": "accuracy", "direction": "maximize"},
        {"name": "area", "direction": "minimize"},
        {"name": "power", "direction": "minimize"},
    ]
    assert found["reference"] == filled.reference
    assert found["hypervolume"] == filled.hypervolume() > 0
    assert found["dense"] == {"values": {"accuracy": 0.9, **dict.fromkeys(COSTS, 1.0)}}
    assert found["trials"] == {
        "complete": 3,
        "pruned": 0,
        "failed": 1,
        "infeasible": 1,
        "projected": 0,
    }
    first, second = found["front"]
    assert set(first) == {"number", "run_id", "values", "candidate", "adc_bits", "seeds"}
    assert (first["seeds"]["count"], first["seeds"]["failed"]) == (1, 0)
    assert first["seeds"]["values"]["accuracy"] == {"mean": 0.85, "min": 0.85, "max": 0.85}
    assert (first["number"], first["run_id"]) == (1, "abc123")
    assert set(first["values"]) == set(OBJECTIVES) - {"robust_accuracy"}
    assert first["adc_bits"] == {"fc1": 5, "fc2": 3}
    assert Candidate.from_json(first["candidate"]).layers["fc1"].nonzeros == 10
    assert (second["number"], second["run_id"]) == (2, None)
    assert second["values"] == done(0.7, 0.25).values


@pytest.fixture
def repeated(tmp_path: Path) -> Study:
    """One member over three seeds, one of which failed."""
    study = new_study(tmp_path, {"fidelity": {"seeds": 3}}, trials=1)
    for evaluation in (done(0.85, 0.5), done(0.83, 0.5), failed()):
        try_one(study, replace(evaluation, epochs=5))
    assert study.over
    return study


def test_pareto_json_says_what_a_member_came_to_over_its_seeds(repeated: Study) -> None:
    (member,) = json.loads(json.dumps(pareto_json(repeated)))["front"]
    assert member["values"]["accuracy"] == 0.85  # of the network that is exported
    assert (member["seeds"]["count"], member["seeds"]["failed"]) == (2, 1)
    spread = {"mean": pytest.approx(0.84), "min": 0.83, "max": 0.85}
    assert member["seeds"]["values"]["accuracy"] == spread


def test_report_and_tables_say_what_a_member_came_to_over_its_seeds(repeated: Study) -> None:
    page = read_page(write_report(repeated))
    assert "Accuracy over seeds" in page.text
    assert "0.8300 to 0.8500, n=2, 1 failed" in page.text
    rows = pyarrow.parquet.read_table(write_tables(repeated)["trials"]).to_pylist()
    assert [row["repeat_of"] for row in rows] == [None, 0, 0]
    assert [row["status"] for row in rows] == ["complete", "repeated", "failed"]


def test_pareto_json_of_a_study_that_has_only_begun(tmp_path: Path) -> None:
    found = json.loads(json.dumps(pareto_json(new_study(tmp_path, dense=False))))
    assert found["reference"] is None
    assert found["hypervolume"] == 0.0
    assert found["dense"] == {"values": {}}
    assert found["front"] == []
    assert set(found["trials"].values()) == {0}


def test_tables_read_back_with_types_and_values(filled: Study) -> None:
    written = write_tables(filled)
    assert set(written) == {"trials", "front"}
    assert written["trials"] == filled.folder.path / "trials.parquet"
    table = pyarrow.parquet.read_table(written["trials"])
    assert table.schema.names == [
        "number",
        "repeat_of",
        "status",
        "pareto",
        "reason",
        "accuracy",
        "robust_accuracy",
        *COSTS.values(),
        "candidate",
        "adc_bits",
        "seconds",
    ]
    assert table.schema.field("area_m2").type == pyarrow.float64()
    rows = table.to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["status"] for row in rows] == [
        "infeasible",
        "complete",
        "complete",
        "complete",
        "failed",
    ]
    assert [row["pareto"] for row in rows] == [False, True, True, False, False]
    assert rows[0]["accuracy"] is None
    assert rows[0]["reason"] == "breaks area <= 0.99x before training"
    assert rows[4]["reason"] == "<b>&nan"
    assert (rows[1]["accuracy"], rows[1]["area_m2"], rows[1]["seconds"]) == (0.85, 0.5, 2.5)
    candidate = Candidate.from_json(json.loads(rows[1]["candidate"]))
    assert candidate.layers["fc1"].nonzeros == 10
    assert json.loads(rows[1]["adc_bits"]) == {"fc1": 5, "fc2": 3}
    front = pyarrow.parquet.read_table(written["front"]).to_pylist()
    assert front == [row for row in rows if row["pareto"]]


def test_tables_of_an_empty_study_have_columns(study: Study) -> None:
    for path in write_tables(study).values():
        table = pyarrow.parquet.read_table(path)
        assert table.num_rows == 0
        assert "accuracy" in table.schema.names


class Outside(HTMLParser):
    """References that a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("script", "style"):
            self._inside.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster") and value:
                self.references.append(value)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["style"]:
            assert "url(" not in data
            assert "@import" not in data
        elif not self._inside:
            self.text += data


def read_page(path: Path) -> Outside:
    page = Outside()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_report_needs_nothing_from_outside(filled: Study) -> None:
    path = write_report(filled)
    assert path == filled.folder.path / "report.html"
    page = read_page(path)
    assert page.references == []
    assert "link" not in page.tags
    assert "iframe" not in page.tags


def test_report_shows_front_counts_and_law(filled: Study) -> None:
    page = read_page(write_report(filled))
    assert "3 complete, 1 failed, 1 infeasible" in page.text
    assert "breaks area <= 0.99x before training" in page.text
    assert "--select TRIAL --to out/" in page.text
    assert filled.config.hardware.law in page.text
    assert "<b>&nan" in page.text  # as text, not as a tag
    assert "<b>&nan" not in (filled.folder.path / "report.html").read_text(encoding="utf-8")


def test_front_table_is_ranked_and_says_ratios_crossbars_and_bits(filled: Study) -> None:
    text = write_report(filled).read_text(encoding="utf-8")
    table = text[text.index("<table id=members>") : text.index("</table>")]
    assert re.findall('data-trial="([0-9]+)"', table) == ["1", "2"]
    body, foot = table[table.index("<tbody>") :].split("<tfoot>")
    cells = re.findall("<td[^>]*>(.*?)</td>", body)
    assert cells[:6] == [
        "1",
        "0.8500 <small>-5.00</small>",
        "5e+05 <small>2x</small>",
        "500 <small>2x</small>",
        "128 x 128",
        "5 3",
    ]
    assert re.findall("<td>(.*?)</td>", foot)[:2] == ["dense", "0.9000"]
    heads = re.findall("<span>(.*?)</span><small>(.*?)</small>", table)
    assert ("Chip area", "mm2, times less") in heads
    assert ("Crossbar", "wordlines x bitlines") in heads


def test_front_table_gives_the_range_of_many_layers_bits(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    bits = {f"fc{index}": 3 + index % 4 for index in range(12)}
    try_one(study, replace(done(0.8, 0.5), adc_bits=bits))
    assert '<td data-value="4.5">3 to 6, mean 4.5</td>' in write_report(study).read_text()


def test_cost_of_nothing_is_written_so_that_a_browser_can_read_it(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    try_one(study, done(0.8, 0.5, energy=0.0))
    text = write_report(study).read_text(encoding="utf-8")
    packed = re.search('id="data">([^<]*)<', text)
    assert packed is not None
    data = gzip.decompress(base64.b64decode(packed[1])).decode()
    found = json.loads(data, parse_constant=pytest.fail)
    assert found["details"]["0"]["ratios"]["energy"] == "inf"


def test_plotly_s_script_is_read_at_once_as_far_as_it_is_known() -> None:
    known = (
        "(function(r, f) {f()} (r ? self : this, () => {\nlet a = f(() => {}));\nreturn a;\n}));\n"
    )
    assert (
        report_page._read_at_once(known)
        == known.replace("this, () =>", "this, (() =>")[:-4] + ")));\n"
    )
    for other in ("let a;", known + "more();", known.replace(": this", "")):
        assert report_page._read_at_once(other) == other
    own = plotly.offline.get_plotlyjs()
    assert len(report_page._read_at_once(own)) == len(own) + 2


def test_report_gives_commands_that_find_the_study(filled: Study) -> None:
    assert f"--storage {filled.folder.storage}" in read_page(write_report(filled)).text


@pytest.mark.parametrize("objectives", [["accuracy"], ["area", "latency"], ["accuracy", *COSTS]])
def test_report_is_written_for_any_objectives(tmp_path: Path, objectives: list[str]) -> None:
    study = new_study(tmp_path, objectives=objectives)
    try_one(study, done(0.8, 0.5))
    assert "Front" in read_page(write_report(study)).text


def test_report_of_a_study_without_results(tmp_path: Path) -> None:
    page = read_page(write_report(new_study(tmp_path, dense=False)))
    assert "no trial has ended" in page.text


def test_pictures_are_those_that_there_is_something_for(filled: Study, tmp_path: Path) -> None:
    empty = new_study(tmp_path / "empty")
    single = new_study(tmp_path / "single", objectives=["area"])
    try_one(single, done(0.9, 0.5))
    drawn = [[path.name for path in write_pictures(s)] for s in (empty, single, filled)]
    assert drawn == [[], ["hypervolume.png"], ["front.png", "hypervolume.png"]]
    for path in write_pictures(filled):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_ratios_say_how_many_times_less_a_trial_costs() -> None:
    dense, found = dict(done(0.9, 1.0).values), dict(done(0.8, 0.25, energy=0.0).values)
    expected = {**dict.fromkeys(COSTS, 4.0), "energy": math.inf}
    assert ratios(dense, found) == expected


def test_cost_that_neither_has_is_no_gain() -> None:
    nothing = dict(done(0.9, 0.0).values)
    assert set(ratios(nothing, nothing).values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "value", "text", "label"),
    [
        ("accuracy", 0.87654, "0.8765", "Accuracy"),
        ("area", 1.5e-6, "1.5 mm2", "Chip area (mm2)"),
        ("power", 0.0203, "20.3 mW", "Chip power (mW)"),
        ("energy", 2e-6, "2 uJ", "Energy per inference (uJ)"),
        ("latency", 3.8e-6, "3.8 us", "Latency (us)"),
    ],
)
def test_values_are_shown_in_units_that_people_read(
    name: str, value: float, text: str, label: str
) -> None:
    assert display_value(name, value) == text
    assert display_name(name) == label


def test_candidate_of_the_scan_is_drawn_if_it_is_on_the_front(tmp_path: Path) -> None:
    study = new_study(tmp_path, {"fidelity": {"projection": True, "scan": 2}})
    study.enqueue([{"x": 10}, {"x": 20}], scan=True)
    for accuracy in (0.8, 0.7):  # of the same cost
        try_one(study, done(accuracy, 0.5))
    drawn = candidates_data(study, {})["trials"]
    assert (drawn["number"], drawn["kind"]) == ([0], ["front"])


def test_early_stops_are_not_called_pruned(tmp_path: Path) -> None:
    study = new_study(
        tmp_path, {"fidelity": {"rungs": [1], "reduction": 2}, "train": {"epochs": 4}}
    )
    study.judge = lambda number: False
    try_one(study, replace(done(0.8, 0.5), epochs=1))
    assert "1 stopped early" in write_report(study).read_text(encoding="utf-8")
    assert "1 stopped early" in study_note(study, "It is over.")
