"""The report as a reader has it: in a browser, without any network."""

from pathlib import Path
from typing import Any

import pytest

from hwmodel.crossbar import CrossbarSpec
from hwmodel.geometry import LayerShape, plan_layer
from search.evaluate import Evaluation
from search.page import write_report
from search.study import Study
from tests.browser import page
from tests.search.fakes import done, failed, new_study, try_one

__all__ = ["page"]

PLACES = """() => {
  const scene = document.getElementById("front-plot")._fullLayout.scene._scene;
  if (!scene || !scene.glplot || !scene.dataScale) return [];
  const { model, view, projection } = scene.glplot.cameraParams;
  const times = (matrix, place) => [0, 1, 2, 3].map((row) =>
    place.reduce((sum, value, column) => sum + matrix[4 * column + row] * value, 0));
  const along = (letter, value, index) => {
    const axis = scene.fullSceneLayout[`${letter}axis`];
    return (axis.type === "log" ? Math.log10(value) : value) * scene.dataScale[index];
  };
  const box = scene.glplot.canvas.getBoundingClientRect();
  const front = document.getElementById("front-plot").data.find(({ name }) => name === "front");
  return front.customdata.map((number, point) => {
    const place = ["x", "y", "z"].map((axis, index) => along(axis, front[axis][point], index));
    const clip = times(projection, times(view, times(model, [...place, 1])));
    const [right, up] = [clip[0] / clip[3], clip[1] / clip[3]];
    return [number, box.x + ((right + 1) / 2) * box.width, box.y + ((1 - up) / 2) * box.height];
  });
}"""
"""Each front member's number and place on the screen, through the scene's camera."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    def stored(accuracy: float, cost: float, nonzeros: int | None) -> Evaluation:
        shape = LayerShape(name="fc1", rows=784, outputs=128)
        layer = plan_layer(shape, CrossbarSpec(), nonzeros=nonzeros).to_json()
        return Evaluation.from_json({**done(accuracy, cost).to_json(), "layers": [layer]})

    study = new_study(tmp_path, sampler="random", trials=30)
    study.check_space({"x": list(range(101))})
    study.set_dense(stored(0.9, 1.0, None))
    study.enqueue([{"x": 60}], uniform=True)
    try_one(study, stored(0.88, 0.6, 42))
    for index in range(12):
        try_one(study, stored(0.6 + 0.02 * index, 0.2 + 0.05 * index, 2 + index))
    try_one(study, failed("loss is <nan>"))
    return study


def opened(page: Any, study: Study) -> list[str]:
    """Opens the report; what the browser complains of, and any request beyond the file."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)

    def request(route: Any) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            complaints.append(route.request.url)
            route.abort()

    page.route("**/*", request)
    page.goto(write_report(study).as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    page.wait_for_selector("#front-plot .main-svg")
    return complaints


def scroll_through(page: Any) -> int:
    figures = page.locator(".figure")
    for index in range(figures.count()):
        figures.nth(index).scroll_into_view_if_needed()
        figures.nth(index).locator(".main-svg").first.wait_for()
    return int(figures.count())


def test_every_figure_is_drawn_without_a_network(page: Any, study: Study) -> None:
    complaints = opened(page, study)
    assert scroll_through(page) >= 8
    assert complaints == []


def test_candidate_is_pinned_by_keyboard_and_by_click(page: Any, study: Study) -> None:
    complaints = opened(page, study)
    row = page.locator("tr[data-trial]").first
    row.focus()
    page.keyboard.press("Enter")
    pinned = page.locator("#pinned")
    number = row.get_attribute("data-trial")
    assert f"Trial {number}: tinyadc" in pinned.inner_text()
    assert "certified ADC bits" in pinned.inner_text()
    assert "network (1):" in pinned.inner_text()
    assert f"--select {number} --to out/" in pinned.inner_text()
    page.locator("#front-plot .points path").first.click(force=True)
    assert "Trial" in pinned.inner_text()
    assert complaints == []


def test_axes_can_be_chosen_and_three_objectives_shown(page: Any, study: Study) -> None:
    complaints = opened(page, study)
    page.select_option("#axis-x", "energy")
    assert "Energy per inference (uJ)" in page.locator("#front-plot .xtitle").text_content()
    page.locator("#three").check()
    page.wait_for_selector("#front-plot canvas, #front-plot .no-webgl", state="attached")
    assert [text for text in complaints if "WebGL" not in text] == []


def test_candidate_is_pinned_in_three_dimensions(page: Any, study: Study) -> None:
    opened(page, study)
    page.locator("#three").check()
    page.wait_for_selector("#front-plot canvas, #front-plot .no-webgl", state="attached")
    if page.locator("#front-plot .no-webgl").count():
        pytest.skip("this browser draws no WebGL")
    page.wait_for_function(f"({PLACES})().length > 0")
    number, x, y = page.evaluate(PLACES)[-1]
    page.mouse.move(x - 40, y - 40)
    page.mouse.move(x, y, steps=5)
    page.wait_for_timeout(300)  # Plotly's scene looks under the mouse when it next draws
    page.mouse.down()
    page.locator("#pinned").filter(has_text=f"Trial {number}: tinyadc").wait_for()
    page.mouse.up()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_follows_the_scheme_and_fits_a_phone(page: Any, study: Study, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, study)
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
    drawn = page.locator("#front-plot .main-svg").first.get_attribute("style")
    assert "rgb(255, 255, 255)" in drawn if scheme == "light" else "rgb(20, 23, 26)" in drawn
