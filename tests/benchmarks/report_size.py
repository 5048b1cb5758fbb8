"""How large `report.html` is for a long study, and how fast a browser opens it.

    python -m tests.benchmarks.report_size [--trials 1000] [--openings 5]

A made-up study of the demo's LeNet-5 space with exact plans, as `search_growth.py` makes it. Times
are from the start of loading to the drawn front, in a headless Chromium. Writes
`results/report_size.json`.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import sync_playwright

from search.config import load_config
from search.evaluate import Evaluation, load_problem
from search.folder import StudyFolder
from search.page import write_report
from search.run import make_space
from search.study import Study
from tests.benchmarks.search_growth import DENSE, HERE, pretend
from tests.benchmarks.search_overhead import spread
from tests.browser import arguments, program

RESULT = HERE / "results" / "report_size.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--openings", type=int, default=5)
    options = parser.parse_args()
    own = {"name": "long", "trials": options.trials, "sampler": "random", "uniform_starts": False}
    config = load_config(HERE / "thrift" / "lenet5.toml", {"study": own})
    problem = load_problem(config)
    space, planned_dense = make_space(problem), problem.planned_dense()
    with tempfile.TemporaryDirectory() as scratch:
        study = Study.create(StudyFolder(Path(scratch), "long"), config)
        study.check_space(space.describe())
        values = {"accuracy": DENSE, **planned_dense}
        study.set_dense(Evaluation(status="complete", values=values, epochs=0))
        while (proposal := study.propose(space, problem.planned_costs, planned_dense)) is not None:
            planned = proposal.candidate.planned(problem.shapes)
            bits = {layer.shape.name: max(layer.adc_bits_per_slice) for layer in planned}
            stored = [layer.to_json() for layer in planned]
            found = pretend(problem, proposal.candidate, config.rungs[proposal.rung])
            study.finish(proposal.number, replace(found, adc_bits=bits, layers=stored))
        started = time.perf_counter()
        path = write_report(study)
        written = time.perf_counter() - started
        opened = [opening(path) for _ in range(options.openings)]
        result = {
            "trials": options.trials,
            "front": len(study.front()),
            "megabytes": path.stat().st_size / 1e6,
            "written_s": written,
            "opened_s": spread(opened),
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def opening(path: Path) -> float:
    """Seconds until the front is drawn, in a browser that has just been started."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program(), args=arguments())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("#front-plot .main-svg")
        spent = time.perf_counter() - started
        browser.close()
    return spent


if __name__ == "__main__":
    main()
