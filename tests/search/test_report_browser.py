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
    assert "network: " in pinned.inner_text()
    assert "1 crossbar: " not in pinned.inner_text()  # fc1 takes more than one
    assert "fc1, " in pinned.inner_text()
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


def numbers(page: Any) -> list[str]:
    """Trials of the front's table from top to bottom."""
    rows = page.locator("#members tbody tr").all()
    return [row.get_attribute("data-trial") for row in rows]


def test_table_is_sorted_by_keyboard_and_by_click(page: Any, study: Study) -> None:
    opened(page, study)
    accurate = numbers(page)
    head = page.locator("#members th").filter(has_text="Chip area")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    areas = {t.number: found["area"] for t, found in study.ranked_front()}
    assert numbers(page) == [str(n) for n in sorted(areas, key=lambda n: areas[n])]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers(page)[0] == str(max(areas, key=lambda n: areas[n]))
    accuracy = page.locator("#members th").filter(has_text="Accuracy")
    assert accuracy.get_attribute("aria-sort") is None
    accuracy.locator("button").click()
    assert numbers(page) == accurate


def test_candidate_off_the_front_is_looked_at_by_number(page: Any, study: Study) -> None:
    opened(page, study)
    off = {t.number for t in study.measured()} - {t.number for t in study.front()}
    number = min(off)
    page.locator("#look").fill(str(number))
    page.keyboard.press("Enter")
    assert f"Trial {number}: tinyadc" in page.locator("#pinned").inner_text()
    page.locator("#look").fill("999")
    page.keyboard.press("Enter")
    assert f"Trial {number}: tinyadc" in page.locator("#pinned").inner_text()
    why = page.locator("#look").evaluate("(input) => input.validationMessage")
    assert why == "Trial 999 has no measurement."


def test_stairs_join_the_members_that_are_best_in_both_axes(page: Any, study: Study) -> None:
    opened(page, study)
    for x, y in (("area", "accuracy"), ("accuracy", "power"), ("area", "power")):
        page.select_option("#axis-x", x)
        page.select_option("#axis-y", y)
        front = page.evaluate("""() => document.getElementById("front-plot").data
            .filter(({mode, name}) => mode === "lines" || name === "front")
            .map(({x, y}) => x.map((value, index) => [value, y[index]]))""")
        stairs, members = (sorted(map(tuple, points)) for points in front)
        signs = [-1 if name == "accuracy" else 1 for name in (x, y)]
        points = [dict(zip("xy", (signs[0] * a, signs[1] * b), strict=True)) for a, b in members]
        best = [members[index] for index in minimal(points)]
        assert stairs == sorted(set(best))


def minimal(points: list[dict[str, float]]) -> list[int]:
    """Indices of the points than which none is lower in x and in y; of equal ones, the first."""

    def beats(one: dict[str, float], other: dict[str, float]) -> bool:
        return one["x"] <= other["x"] and one["y"] <= other["y"] and one != other

    kept = [i for i, p in enumerate(points) if not any(beats(other, p) for other in points)]
    return [i for i in kept if points[i] not in points[:i]]


def test_view_of_a_figure_is_chosen_in_a_list(page: Any, study: Study) -> None:
    complaints = opened(page, study)
    scroll_through(page)
    panel = page.locator(".panel").filter(has_text="Times less than the dense network")
    assert panel.locator(".ytitle").text_content() == "times less chip power than dense"
    panel.locator("select").select_option(label="chip area")
    assert panel.locator(".ytitle").text_content() == "times less chip area than dense"
    assert complaints == []


def test_print_shows_every_figure_in_light_colours(page: Any, study: Study) -> None:
    page.emulate_media(color_scheme="dark")
    complaints = opened(page, study)
    page.evaluate("""() => addEventListener("beforeprint", () => {
        const figures = [...document.querySelectorAll(".figure")];
        window.printed = figures.map((figure) => [
            Boolean(figure.querySelector(".main-svg")),
            figure.getBoundingClientRect().width,
            figure.querySelector(".main-svg").style.background,
        ]);
    })""")
    assert page.pdf().startswith(b"%PDF")
    printed = page.evaluate("window.printed")
    assert len(printed) == page.locator(".figure").count()
    for is_drawn, _, background in printed:
        assert is_drawn
        assert background == "rgb(255, 255, 255)"
    drawn = page.locator("#front-plot .main-svg").first.get_attribute("style")
    assert "rgb(20, 23, 26)" in drawn  # the screen is dark again
    assert complaints == []


def test_report_of_a_study_without_results_opens(page: Any, tmp_path: Path) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(write_report(new_study(tmp_path / "empty", dense=False)).as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.locator(".figure").count() == 0
    assert complaints == []


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
