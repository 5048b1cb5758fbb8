"""A study's best members against plain magnitude pruning of the same sparsity.

    python tests/benchmarks/magnitude_baseline.py NAME [--storage studies] [--seeds 3]

For the front members with the least chip area and the least chip power at no more than one point
below dense, trains unstructured magnitude pruning with exactly as many non-zero weights in every
layer, from the same dense weights, as long and at the same rate, on the preset's own crossbar, and
prices it from its own certificate. Prints one JSON object: accuracies with n and spread, and how
many times less area and power the member takes than dense and than magnitude pruning.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from search.evaluate import Problem, evaluate, load_problem
from search.folder import StudyFolder
from search.report import ratios
from search.study import Study
from search.trials import values
from spaces.candidate import Candidate, LayerSetting
from trainers.checkpoint import load_checkpoint
from trainers.integer import integer_layers
from trainers.methods import MagnitudeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--storage", type=Path, default=Path("studies"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study = Study.open(StudyFolder(options.storage, options.name))
    torch.set_num_threads(study.config.train.threads)
    problem = load_problem(study.config)
    dense = dict(study.dense.values)
    near = [t for t in study.front() if values(t)["accuracy"] >= dense["accuracy"] - 0.01 - 1e-9]
    if not near:
        raise SystemExit("no front member is within one point of the dense accuracy")
    chosen = {min(near, key=lambda t, n=name: values(t)[n]).number for name in ("area", "power")}
    report = {"study": options.name, "dense": dense, "members": []}
    for trial in near:
        if trial.number in chosen:
            report["members"].append(compare(study, problem, trial, dense, options.seeds))
    print(json.dumps(report, indent=2))


def compare(study: Study, problem: Problem, trial, dense: dict, seeds: int) -> dict:
    """One member beside magnitude pruning with the same number of non-zeros per layer."""
    stored = integer_layers(load_checkpoint(study.folder.checkpoint(trial.number)).network)
    kept = {
        name: torch.count_nonzero(layer.weight_q).item() / layer.weight_q.numel()
        for name, layer in stored.items()
    }
    config = replace(study.config, method=MagnitudeConfig())
    rival = replace(problem, config=config)
    runs = []
    for seed in range(seeds):
        candidate = Candidate(
            network=config.network.name,
            method="magnitude",
            plan=problem.dense_plan(),
            layers={name: LayerSetting(kept_weights=share) for name, share in kept.items()},
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoint"
            runs.append(evaluate(rival, candidate, study.folder.dense_weights, folder))
    accuracies = [run.values["accuracy"] for run in runs]
    mean = {name: statistics.fmean(run.values[name] for run in runs) for name in runs[0].values}
    found = values(trial)
    return {
        "trial": trial.number,
        "kept_weights": kept,
        "accuracy": found["accuracy"],
        "adc_bits": trial.user_attrs["evaluation"]["adc_bits"],
        "magnitude_accuracy": {
            "n": seeds,
            "mean": mean["accuracy"],
            "min": min(accuracies),
            "max": max(accuracies),
        },
        "magnitude_adc_bits": dict(runs[0].adc_bits),
        "times_less_than_dense": ratios(dense, found),
        "times_less_than_magnitude": ratios(mean, found),
    }


if __name__ == "__main__":
    main()
