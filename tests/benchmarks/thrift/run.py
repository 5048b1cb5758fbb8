"""Training that a search needs to reach the hypervolume of a stock search.

    python -m tests.benchmarks.thrift.run lenet5 --seeds 0 1 2 3 4 [--only stock surrogate ...]
    python -m tests.benchmarks.thrift.run resnet20 --data ../shared/data/cifar10 \
        --checkpoint ../shared/data/weights/resnet20a_cifar10jpeg_finetuned.safetensors \
        --only stock surrogate

`stock` is what Ray Tune with OptunaSearch does: TPE, every trial trained in full. Its hypervolume
after all trials is the goal of its seed; every other strategy searches the same space from the same
dense weights until it has reached the goal, or has spent as many epochs. One candidate at a time,
in this process, so that the figures hold nothing of Ray's own overhead, which is the same for all.

Every evaluation is kept at once in `--work`, so a run that was cut off goes on. Writes
`results/NAME.parquet` (one row an evaluation) and `results/NAME.md`: epochs and seconds to the
goal over stock's, n, least, median and largest. The reference point of the hypervolume is dense in
every cost, and `study.accuracy_window` below dense in accuracy (ten points unless a file says).
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from hwmodel.records import merge_tables
from search.checkpoints import Checkpoints
from search.config import StudyConfig, load_config
from search.evaluate import Evaluation, Problem, evaluate, load_problem, train_dense
from search.exchange import Exchange
from search.folder import StudyFolder
from search.run import make_space
from search.study import Study
from search.surrogate import SurrogateSampler

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RUNGS = {"projection": True, "rungs": [1], "reduction": 3}
STRATEGIES: dict[str, dict[str, Any]] = {
    "stock": {"study": {"sampler": "tpe", "uniform_starts": False}},
    "random": {"study": {"sampler": "random", "uniform_starts": False}},
    "nsga2": {"study": {"sampler": "nsga2", "uniform_starts": False}},
    "tpe on rungs": {"study": {"sampler": "tpe"}, "fidelity": RUNGS},
    "random on rungs": {"study": {"sampler": "random"}, "fidelity": RUNGS},
    "surrogate": {
        "study": {"sampler": "surrogate"},
        "fidelity": RUNGS,
        "train": {"reconstruct": True},
    },
    "surrogate on plain projections": {
        "study": {"sampler": "surrogate"},
        "fidelity": {**RUNGS, "scan": 2},
    },
    "surrogate by dominance": {
        "study": {"sampler": "surrogate"},
        "fidelity": {**RUNGS, "scan": 2},
    },
    "surrogate without scan": {"study": {"sampler": "surrogate"}, "fidelity": RUNGS},
    "surrogate in full": {"study": {"sampler": "surrogate", "uniform_starts": False}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is searched: a configuration of this folder, and what the command line adds to it."""

    name: str = "lenet5"
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def config(self, tables: Mapping[str, Mapping[str, Any]]) -> StudyConfig:
        """The configuration with some settings changed."""
        return load_config(HERE / f"{self.name}.toml", merge_tables(self.tables, tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.toml")))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--only", nargs="*", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--work", type=Path, default=Path("thrift-work"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = {"data": {"path": options.data}, "network": {"checkpoint": options.checkpoint}}
    given = {k: {n: str(v) for n, v in table.items() if v} for k, table in tables.items()}
    task, work = Task(name=options.name, tables=given), options.work / options.name
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        goal, epochs = 0.0, 0
        for name in dict.fromkeys(["stock", *options.only]):
            found = search(task, name, seed, options.trials, goal, epochs, work)
            rows += found
            if name == "stock":
                goal, epochs = found[-1]["hypervolume"], sum(row["epochs"] for row in found)
            report(rows, goal, name, seed)
    write(rows, options.name)


def search(
    task: Task,
    name: str,
    seed: int,
    trials: int,
    goal: float,
    epochs: int,
    work: Path,
    measure: Callable[..., Evaluation] = evaluate,
) -> list[dict[str, Any]]:
    """One strategy from one seed until its goal; every evaluation as a row.

    `measure` stands in for `evaluate` where nothing is trained; the seconds that it claims count.
    """
    tables = STRATEGIES[name]
    own = {"name": f"{name.replace(' ', '-')}-{seed}", "seed": seed, "trials": trials}
    config = task.config(merge_tables(tables, {"study": own}))
    folder = StudyFolder(work, config.study.name)
    log = folder.path / "evaluations.jsonl"
    problem = load_problem(config)
    if (folder.path / "over").exists():
        return read(log)
    shutil.rmtree(folder.path, ignore_errors=True)
    study = Study.create(folder, config)
    weights, dense = dense_baseline(problem, work)
    study.set_dense(dense)
    space = make_space(problem)
    study.enqueue(space.scan(config.fidelity.scan) if config.fidelity.scan else [], scan=True)
    if config.study.uniform_starts:
        study.enqueue(space.starts(), uniform=True)
    sampler = SurrogateSampler(study, space, problem) if "surrogate" in name else None
    if sampler is not None and name not in ("surrogate by dominance", "surrogate in full"):
        study.judge = sampler.goes_on
    planned_dense, spent = problem.planned_dense(), 0
    while not study.over:
        started = time.perf_counter()
        proposal = study.propose(space, problem.planned_costs, planned_dense, sampler)
        if proposal is None:
            break
        before = config.rungs[proposal.rung - 1] if proposal.rung else 0
        found = measure(
            problem,
            proposal.candidate,
            weights,
            folder.checkpoint(proposal.root),
            rung=proposal.rung,
            state=folder.training(proposal.root),
        )
        study.finish(proposal.number, found)
        Checkpoints(study, Exchange(None, study.folder)).tidy()
        row = {
            "strategy": name,
            "seed": seed,
            "number": proposal.number,
            "rung": proposal.rung,
            "epochs": config.rungs[proposal.rung] - before,
            "seconds": time.perf_counter() - started + found.seconds.get("replayed", 0.0),
            "status": found.status,
            "accuracy": found.values.get("accuracy"),
            "area": found.values.get("area"),
            "power": found.values.get("power"),
            "hypervolume": study.hypervolume(),
        }
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        spent += row["epochs"]
        if goal and (row["hypervolume"] >= goal or spent >= epochs):
            break
    (folder.path / "over").touch()
    return read(log)


def dense_baseline(problem: Problem, work: Path) -> tuple[Path, Evaluation]:
    """The same dense weights for every strategy and seed."""
    weights, record = work / "dense.safetensors", work / "dense.json"
    work.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        config = problem.config
        first = replace(problem, config=replace(config, study=replace(config.study, seed=0)))
        found = train_dense(first, weights, work / "dense")
        record.write_text(json.dumps(found.to_json()), encoding="utf-8")
    return weights, Evaluation.from_json(json.loads(record.read_text(encoding="utf-8")))


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def to_goal(rows: list[dict[str, Any]], goal: float) -> tuple[int, float] | None:
    """Epochs and seconds until the goal was reached."""
    epochs, seconds = 0, 0.0
    for row in rows:
        epochs, seconds = epochs + row["epochs"], seconds + row["seconds"]
        if row["hypervolume"] >= goal:
            return epochs, seconds
    return None


def report(rows: list[dict[str, Any]], goal: float, name: str, seed: int) -> None:
    own = [row for row in rows if row["strategy"] == name and row["seed"] == seed]
    reached = to_goal(own, goal)
    spent = sum(row["epochs"] for row in own), sum(row["seconds"] for row in own)
    print(name, seed, f"goal {goal:.4f}", f"reached {reached}", f"spent {spent}", flush=True)


def write(rows: list[dict[str, Any]], name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), RESULTS / f"{name}.parquet")
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "| strategy | n | reached | epochs over stock's | seconds over stock's |",
        "|---|---|---|---|---|",
    ]
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        shares = []
        for seed in seeds:
            stock = [r for r in rows if r["strategy"] == "stock" and r["seed"] == seed]
            own = [r for r in rows if r["strategy"] == strategy and r["seed"] == seed]
            reached = to_goal(own, stock[-1]["hypervolume"]) if own else None
            if reached is not None:
                whole = sum(r["epochs"] for r in stock), sum(r["seconds"] for r in stock)
                shares.append((reached[0] / whole[0], reached[1] / whole[1]))
        tried = len({row["seed"] for row in rows if row["strategy"] == strategy})
        columns = [spread([share[i] for share in shares]) for i in range(2)]
        lines.append(f"| {strategy} | {tried} | {len(shares)} | {columns[0]} | {columns[1]} |")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
