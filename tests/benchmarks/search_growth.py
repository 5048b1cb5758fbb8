"""What a trial costs the driver as a study grows, without training or Ray.

    python tests/benchmarks/search_growth.py [--trials 10000] [--running 1000] [--samplers ...]
        [--rungs]

Candidates of the demo's LeNet-5 space with exact planned costs and a made-up accuracy, which grows
with what their layers keep. For each sampler, at some sizes of the study: milliseconds to propose
and to record a trial (median of the last hundred), resident memory, and seconds to open the study
anew. `--running` trials (0: none) are open at once in one more study, as with so many workers;
`--rungs` is a random study whose candidates are projected, trained a little, and in full, until
`--trials` have trained. Writes `results/search_growth.json`.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil

from search.config import load_config
from search.evaluate import Evaluation, Problem, load_problem
from search.folder import StudyFolder
from search.run import make_space
from search.study import Proposal, Study
from search.surrogate import SurrogateSampler
from spaces.candidate import Candidate

HERE = Path(__file__).parent
RESULT = HERE / "results" / "search_growth.json"
SIZES = (100, 300, 1000, 3000, 10000)
DENSE = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--running", type=int, default=1000)
    parser.add_argument("--samplers", nargs="*", default=["random", "tpe", "nsga2"])
    parser.add_argument("--rungs", action="store_true")
    options = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for sampler in options.samplers:
        found[sampler] = grow(sampler, options.trials, 2)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.running:
        name = f"random, {options.running} running"
        found[name] = grow("random", 3 * options.running, options.running)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.rungs:
        found["random on rungs"] = grow(
            "random", options.trials, 2, {"projection": True, "rungs": [1]}
        )
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def grow(
    sampler: str, trials: int, workers: int, fidelity: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One study up to its budget; a row at each size.

    Candidates that are only projected count against no budget, but among the trials of a row.
    """
    own = {"name": "growth", "trials": trials, "sampler": sampler, "uniform_starts": False}
    tables = {"study": own, "fidelity": fidelity or {}}
    config = load_config(HERE / "thrift" / "lenet5.toml", tables)
    problem = load_problem(config)
    space = make_space(problem)
    dense = Candidate(network=config.network.name, method="dense", plan=problem.dense_plan())
    planned_dense = problem.planned_costs(dense)
    rows, running = [], deque[Proposal]()
    asked, told = deque[float](maxlen=100), deque[float](maxlen=100)
    with tempfile.TemporaryDirectory() as scratch:
        folder = StudyFolder(Path(scratch), "growth")
        study = Study.create(folder, config)
        study.set_dense(
            Evaluation(status="complete", values={"accuracy": DENSE, **planned_dense}, epochs=0)
        )
        own_sampler = SurrogateSampler(study, space, problem) if sampler == "surrogate" else None
        while not study.over:
            started = time.perf_counter()
            proposal = study.propose(space, problem.planned_costs, planned_dense, own_sampler)
            asked.append(1000 * (time.perf_counter() - started))
            if proposal is not None:
                running.append(proposal)
            if proposal is None or len(running) >= workers:
                ended = running.popleft()
                result = pretend(problem, ended.candidate, config.rungs[ended.rung])
                started = time.perf_counter()
                study.finish(ended.number, result)
                study.hypervolume()
                told.append(1000 * (time.perf_counter() - started))
                count = len(study.ended())
                if count >= [*SIZES, math.inf][len(rows)] or study.over:
                    started = time.perf_counter()
                    again = Study.open(folder)
                    again.hypervolume()
                    row = {
                        "trials": count,
                        "ask_ms": statistics.median(asked),
                        "tell_ms": statistics.median(told),
                        "memory_mb": psutil.Process(os.getpid()).memory_info().rss / 2**20,
                        "open_s": time.perf_counter() - started,
                        "front": len(study.front()),
                    }
                    rows.append(row)
                    print(sampler, workers, row, flush=True)
    return rows


def pretend(problem: Problem, candidate: Candidate, epochs: int) -> Evaluation:
    """Planned costs, and an accuracy that falls with what is pruned, the less the more epochs."""
    lost = 0.0
    for name, shape in problem.shapes.items():
        setting = candidate.layers[name]
        height = min(candidate.plan.default.wordlines, shape.rows)
        bits = setting.adc_bits or math.log2(3 * (setting.nonzeros or height) + 1)
        lost += 0.02 * max(0.0, 7 - bits) + 0.05 * (2 - setting.kept_shapes - setting.kept_filters)
    values = {
        "accuracy": DENSE * math.exp(-lost * (1 + 1 / (1 + epochs))),
        **problem.planned_costs(candidate),
    }
    return Evaluation(status="complete", values=values, epochs=epochs)


if __name__ == "__main__":
    main()
