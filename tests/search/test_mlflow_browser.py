"""MLflow's own interface as a user of a study finds it: `crossfront ui`, in a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hwmodel.crossbar import SignEncoding
from search.cli import app
from search.page import write_report
from search.report import write_pictures
from search.study import Study
from search.tracking import MlflowMirror
from tests.browser import page
from tests.search.fakes import done, failed, new_study, try_one
from tests.search.servers import end, free_port, until
from tests.trainers.test_export import save
from tests.trainers.toys import MLP, toy_images
from trainers.data import Dataset

__all__ = ["page"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Study:
    """Nine trials, of which two are on the front; one of them has a network."""
    storage = tmp_path_factory.mktemp("studies")
    shutil.copy(empty_database, storage / "mlflow.db")
    study = new_study(storage, constraints=["area <= 0.99x"])
    study.enqueue([{"x": 100}])
    best = try_one(study, done(0.88, 0.4))
    try_one(study, done(0.8, 0.2))
    for index in range(5):
        try_one(study, done(0.7 - 0.02 * index, 0.5 + 0.05 * index))
    try_one(study, failed("loss is nan"))
    save(study.folder.checkpoint(best), MLP, SignEncoding.DIFFERENTIAL)
    mirror = MlflowMirror(study)
    dataset: Dataset[Any] = Dataset(name="toys", train=toy_images(), test=toy_images(8, seed=1))
    files, pictures = {"report": write_report(study)}, write_pictures(study)
    assert mirror.finish(files, pictures, complete=True, dataset=dataset)
    mirror.close()
    return study


@pytest.fixture(scope="module")
def served(
    study: Study, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of the parent run that `crossfront ui` prints, and its process."""
    command = [sys.executable, "-m", "search.cli", "ui", "tiny", "--port", str(free_port())]
    command += ["--storage", str(study.folder.storage)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = tmp_path_factory.mktemp("ui") / "said"
    with said.open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def found() -> re.Match[str] | None:
        return re.search(r"(http://127\.0\.0\.1:\d+)/#/experiments/\d+/runs/\w+", said.read_text())

    def answers() -> bool:
        printed = found()
        with suppress(OSError):
            return (
                printed is not None and urllib.request.urlopen(f"{printed[1]}/health") is not None
            )
        return False

    try:
        until(answers, server)
        printed = found()
        assert printed is not None
        yield printed[0], server
    finally:
        end(server, group=True)


@pytest.fixture
def address(served: tuple[str, subprocess.Popen[bytes]]) -> str:
    return served[0]


def test_user_of_mlflow_alone_finds_the_front_and_the_report(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_text("Show more").first.click()
    page.get_by_role("heading", name="Front").wait_for()
    shot(page, "note")
    member = page.get_by_role("link", name="1", exact=True).first.get_attribute("href")
    page.goto(address.split("/#")[0] + "/#" + member.partition("#")[2])
    page.get_by_text("tiny-0001 tinyadc 128x128").first.wait_for()
    page.get_by_text("fc1.nonzeros").first.wait_for()
    page.get_by_text("toys train").first.wait_for()
    shot(page, "member")


def test_front_members_are_found_by_their_tag(page: Any, address: str) -> None:
    runs = address.split("/runs/")[0] + "/runs"
    page.goto(runs)
    box = page.get_by_placeholder(re.compile("metrics.rmse"))
    box.wait_for(timeout=30_000)
    page.get_by_text("10 matching runs").wait_for()
    shot(page, "runs")
    box.fill("tags.pareto = 'true'")
    box.press("Enter")
    page.get_by_text("3 matching runs").wait_for()  # their parent comes along
    shot(page, "pareto")


def test_report_is_shown_among_the_artifacts(page: Any, address: str) -> None:
    page.goto(f"{address}/artifacts/report.html")
    frame = page.frame_locator("iframe")
    frame.locator("#front-plot .main-svg").first.wait_for(timeout=30_000)
    shot(page, "artifact")


def test_figures_are_shown_among_the_artifacts(page: Any, address: str) -> None:
    page.goto(f"{address}/artifacts/figures/front.png")
    page.wait_for_function(
        "width => [...document.images].some(image => image.naturalWidth === width)", arg=1000
    )
    shot(page, "figure")


def test_server_that_outlives_a_killed_command_is_found_again(
    study: Study, served: tuple[str, subprocess.Popen[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, server = served
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    port = address.split("/#")[0].rpartition(":")[2]
    storage = str(study.folder.storage)
    assert app(["ui", "tiny", "--port", port, "--storage", storage], standalone_mode=False) is None
    assert f"shows it already, on {address};" in capsys.readouterr().err


def shot(page: Any, name: str) -> None:
    """Keeps a picture where one is asked for: CROSSFRONT_SCREENSHOTS is a folder."""
    folder = os.environ.get("CROSSFRONT_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"mlflow-{name}.png")
