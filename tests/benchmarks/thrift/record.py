"""A table of candidates at every fidelity, for rank agreement and for replaying strategies.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.thrift.record [--candidates 300] [--twice 30]

Candidates are drawn evenly from the space of `lenet5.toml`, no two alike but for their bitlines
(which change costs but no accuracy), and trained by the product's own rungs: projected without
training, after one epoch, after the full schedule. The first `--twice` are trained again from a
second seed, which says how much of a difference is luck. Every candidate is appended at once to
`results/lenet5-table.jsonl`, so a run that was cut off goes on. `ranks.py` and `replay.py` read it.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from search.evaluate import Problem, evaluate, load_problem
from search.run import make_space
from spaces.candidate import Candidate
from spaces.space import Drawn
from tests.benchmarks.thrift.run import RESULTS, RUNGS, Task, dense_baseline

TABLE = RESULTS / "lenet5-table.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--twice", type=int, default=30)
    parser.add_argument("--work", type=Path, default=Path("thrift-work"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = Task().config({"fidelity": RUNGS})
    problem = load_problem(config)
    weights, _ = dense_baseline(problem, options.work / Task().name)
    drawn = draw(problem, options.candidates)
    todo = [(index, 0) for index in range(len(drawn))]
    todo[options.twice : options.twice] = [(index, 1) for index in range(options.twice)]
    TABLE.parent.mkdir(exist_ok=True)
    done = {(row["candidate"], row["seed"]) for row in rows()}
    for index, seed in todo:
        if (index, seed) not in done:
            parameters, candidate = drawn[index]
            row = {
                "candidate": index,
                "seed": seed,
                "parameters": parameters,
                "method": candidate.method,
                "wordlines": candidate.plan.default.wordlines,
                "planned": dict(problem.planned_costs(candidate)),
                "rungs": measure(problem, replace(candidate, seed=seed), weights),
            }
            with TABLE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def rows() -> list[dict[str, Any]]:
    """What has been recorded."""
    if not TABLE.exists():
        return []
    return [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]


def draw(problem: Problem, count: int) -> list[tuple[dict[str, int], Candidate]]:
    """Distinct candidates of the space, always the same ones first."""
    space, random = make_space(problem), Random(0)
    found: dict[str, tuple[dict[str, int], Candidate]] = {}
    while len(found) < count:
        drawn = Drawn(random)
        candidate = space.suggest(drawn, seed=0)
        key = json.dumps(drawn.parameters | {"bitlines": 0}, sort_keys=True)
        found.setdefault(key, (drawn.parameters, candidate))
    return list(found.values())


def measure(problem: Problem, candidate: Candidate, weights: Path) -> list[dict[str, Any]]:
    """Accuracy, costs and seconds of every rung."""
    found = []
    with TemporaryDirectory() as scratch:
        state = Path(scratch) / "state"
        for rung in range(len(problem.config.rungs)):
            started = time.process_time()
            result = evaluate(
                problem, candidate, weights, Path(scratch) / "checkpoint", rung=rung, state=state
            )
            seconds = time.process_time() - started
            found.append({"status": result.status, "values": dict(result.values), "cpu_s": seconds})
    return found


if __name__ == "__main__":
    main()
