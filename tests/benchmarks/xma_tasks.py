"""Several tasks on one frozen backbone: accuracy, mask memory and energy per task switch.

    python tests/benchmarks/xma_tasks.py mnist --path ../shared/data/mnist --network lenet5
    python tests/benchmarks/xma_tasks.py fashion-mnist-12k --network mlp --seeds 3

Ten classes are cut into fives and into pairs. A backbone learns the first five classes (or the
first two pairs); every other group is a task that starts from it. The arms: full fine-tuning, the
head alone, a Piggyback-style binary mask on every weight, and shift masks on segments, once with
levels 0, 1/4, 1/2, 1, 2 and once with the method's own eight. All train as long on the same images
from the same weights at the same rate; seeds change backbone, head and order of the images.

Each task writes one JSON file as it ends, so that a run that was cut off goes on where it stopped;
then all that is there is written up as `results/xma_tasks.json` and `results/xma_tasks.md`. Energy
per switch is a mean over pairs of tasks. Every task's head stays on crossbars of its own, whatever
the arm, so that heads are in no count of memory or cells.
"""

import argparse
import itertools
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hwmodel.mapping import to_bitlines
from hwmodel.task_switch import TaskSwitch
from search.config import StudyConfig, StudySection
from search.evaluate import Problem, evaluate, load_problem, train_dense
from spaces.candidate import Candidate
from trainers.checkpoint import load_checkpoint
from trainers.config import NetworkConfig, TrainConfig
from trainers.data import DataConfig
from trainers.integer import IntegerLayer, integer_layers
from trainers.methods import XmaConfig
from trainers.tasks import class_groups

RESULTS = Path(__file__).parent / "results"
FULL, ELEMENT = "full fine-tuning", "piggyback"
ARMS = {
    "head only": XmaConfig(levels=(1.0,)),
    ELEMENT: XmaConfig(granularity="element"),
    "xma, levels 0 to 2": XmaConfig(levels=(0.0, 0.25, 0.5, 1.0, 2.0)),
    "xma": XmaConfig(),
}
CUTS = {"fives": (5, 1, 5000), "pairs": (2, 2, 2000)}
"""Classes of a group, groups that the backbone learns, and training images of a task."""
BACKBONE_IMAGES = 5000
INFERENCES = (1, 10, 100, 1000, 10_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="Without it, only write up what is there.")
    parser.add_argument("--path")
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--cuts", nargs="*", choices=list(CUTS), default=list(CUTS))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data:
        for seed, cut in itertools.product(options.seeds, options.cuts):
            run(options, cut, seed)
    rows = [json.loads(path.read_text()) for path in sorted(options.work.glob("*/row.json"))]
    write_up(rows)


def run(options: argparse.Namespace, cut: str, seed: int) -> None:
    """All tasks of one way to cut the classes, from one seed."""
    folder = options.work / f"{options.data}-{options.network}-{cut}-{seed}"
    if (folder / "row.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    size, learnt, images = CUTS[cut]
    groups = class_groups(10, size)
    first = tuple(itertools.chain(*groups[:learnt]))
    train = TrainConfig(
        optimiser="adam",
        learning_rate=1e-3,
        prune_learning_rate=1e-3,
        dense_epochs=options.epochs,
        epochs=options.epochs,
    )
    data = DataConfig(
        name=options.data, path=options.path, classes=first, train_count=BACKBONE_IMAGES
    )
    config = StudyConfig(
        study=StudySection(seed=seed),
        data=data,
        network=NetworkConfig(name=options.network),
        train=train,
    )
    backbone = folder / "backbone.safetensors"
    if not backbone.exists():
        train_dense(load_problem(config), backbone, folder / "backbone")
    tasks = []
    for classes in groups[learnt:]:
        chosen = replace(data, classes=classes, backbone_classes=first, train_count=images)
        network = replace(config.network, checkpoint=str(backbone))
        problem = load_problem(replace(config, data=chosen, network=network))
        tasks.append(run_task(problem, folder / f"task{''.join(map(str, classes))}", seed))
        print(cut, seed, classes, {n: r["accuracy"] for n, r in tasks[-1].items()}, flush=True)
    row = {"data": options.data, "network": options.network, "cut": cut, "seed": seed}
    row |= {"epochs": options.epochs, "arms": {arm: summary(arm, tasks) for arm in tasks[0]}}
    (folder / "row.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def run_task(problem: Problem, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Every arm on one task: accuracy, energy of an inference, and where its integers are."""
    record, start = folder.with_suffix(".json"), folder / "start.safetensors"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        found = {FULL: train_dense(problem, start, folder / FULL)}
        for arm, settings in ARMS.items():
            candidate = Candidate(
                network=problem.config.network.name,
                method="xma",
                plan=problem.dense_plan(),
                seed=seed,
            )
            config = replace(problem.config, method=settings)
            found[arm] = evaluate(replace(problem, config=config), candidate, start, folder / arm)
        rows = {
            arm: {
                "accuracy": done.values["accuracy"],
                "energy_j": done.values["energy"],
                "folder": str(folder / arm),
            }
            for arm, done in found.items()
        }
        record.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    read: dict[str, dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
    return read


def summary(arm: str, tasks: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """One arm over all tasks of a seed."""
    rows = [task[arm] for task in tasks]
    stored = [integer_layers(load_checkpoint(Path(row["folder"])).network) for row in rows]
    weights = sum(layer.weight_q.numel() for layer in list(stored[0].values())[:-1])
    segment_bits = sum(x.mask.memory_bits for x in stored[0].values() if x.mask is not None)
    changed = [changed_cells(*pair) for pair in itertools.combinations(stored, 2)]
    return {
        "accuracies": [row["accuracy"] for row in rows],
        "mask_bits": weights if arm == ELEMENT else segment_bits,
        "weights": weights,
        "changed_cells": statistics.fmean(changed) if changed else None,
        "energy_j": statistics.fmean(row["energy_j"] for row in rows),
    }


def changed_cells(one: dict[str, IntegerLayer], other: dict[str, IntegerLayer]) -> int:
    """Cells of the backbone whose level differs between two tasks."""
    count = 0
    for name in list(one)[:-1]:
        levels = [to_bitlines(x[name].weight_q, x[name].spec, x[name].layout) for x in (one, other)]
        count += int((levels[0].levels != levels[1].levels).sum())
    return count


def write_up(rows: Sequence[dict[str, Any]]) -> None:
    """The results of all runs as JSON and as Markdown."""
    tables = (_accuracy_table(rows), _overall_table(rows), _energy_table(rows))
    lines = ["# One backbone, several tasks"]
    for table in tables:
        lines += ["", *table]
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"rows": rows}, indent=1)
    (RESULTS / "xma_tasks.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "xma_tasks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _accuracy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "Accuracy of the integer network, mean over tasks and seeds (least to most of a seed's "
        "mean); mask memory per task against one bit per weight.",
        "",
        "| data | network | cut | seeds | epochs | arm | accuracy % | mask bits | of Piggyback's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in _groups(rows):
        for arm in group[0]["arms"]:
            found = [row["arms"][arm] for row in group]
            means = [100 * statistics.fmean(x["accuracies"]) for x in found]
            share = found[0]["mask_bits"] / found[0]["weights"]
            lines.append(
                f"| {' | '.join(key)} | {len(group)} | {group[0]['epochs']} | {arm} | "
                f"{statistics.fmean(means):.2f} ({min(means):.2f} to {max(means):.2f}) | "
                f"{found[0]['mask_bits']} | {100 * share:.2f} % |"
            )
    return lines


def _overall_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["Mean over all tasks of both cuts and all seeds, and against `piggyback` in points."]
    lines += ["", "| data | network | arm | accuracy % | points |", "|---|---|---|---|---|"]
    for data, network in sorted({(row["data"], row["network"]) for row in rows}):
        group = [row["arms"] for row in rows if (row["data"], row["network"]) == (data, network)]
        means = {
            arm: 100 * statistics.fmean(x for arms in group for x in arms[arm]["accuracies"])
            for arm in group[0]
        }
        lines += [
            f"| {data} | {network} | {arm} | {mean:.2f} | {mean - means[ELEMENT]:+.2f} |"
            for arm, mean in means.items()
        ]
    return lines


def _energy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    counts = " | ".join(f"{count:,}" for count in INFERENCES)
    lines = [
        "Energy per inference in uJ, its share of a task switch included, by inferences per "
        "switch; cells written at 10 pJ, mask bits at 0.16 pJ (`hwmodel.task_switch`). The last "
        "column: up to how many inferences per switch an arm takes less than Piggyback.",
        "",
        f"| data | network | arm | cells per switch | switch nJ | {counts} | less than Piggyback |",
        "|---|---|---|---|---|" + "---|" * len(INFERENCES) + "---|",
    ]
    for key, group in _groups([row for row in rows if row["cut"] == "pairs"]):
        rival = _switch(ELEMENT, [row["arms"][ELEMENT] for row in group])
        for arm in group[0]["arms"]:
            switch = _switch(arm, [row["arms"][arm] for row in group])
            curve = " | ".join(f"{x * 1e6:.3f}" for x in switch.energies_j(INFERENCES))
            lines.append(
                f"| {key[0]} | {key[1]} | {arm} | {switch.changed_cells:.0f} | "
                f"{switch.switch_j * 1e9:.2f} | {curve} | {_until(switch, rival)} |"
            )
    return lines


def _switch(arm: str, found: Sequence[dict[str, Any]]) -> TaskSwitch:
    """The mean switch of an arm; a mask per weight is in the cells and in no SRAM."""
    return TaskSwitch(
        mask_bits=0 if arm == ELEMENT else found[0]["mask_bits"],
        changed_cells=statistics.fmean(x["changed_cells"] for x in found),
        inference_j=statistics.fmean(x["energy_j"] for x in found),
    )


def _until(switch: TaskSwitch, rival: TaskSwitch) -> str:
    """Up to how many inferences per switch the rival takes more energy."""
    saved, more = rival.switch_j - switch.switch_j, switch.inference_j - rival.inference_j
    if saved <= 0 and more >= 0:
        return "never"
    if saved >= 0 and more <= 0:
        return "always"
    return f"{'up to' if saved > 0 else 'from'} {saved / more:,.0f}"


def _groups(
    rows: Sequence[dict[str, Any]],
) -> list[tuple[tuple[str, str, str], list[dict[str, Any]]]]:
    """Rows that differ in their seed alone, by data, network and cut."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["data"], row["network"], row["cut"]), []).append(row)
    return sorted(found.items())


if __name__ == "__main__":
    main()
