"""Evaluations of a tiny network on a few of the embedded images."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import CheckpointError, ConfigError, OutOfRangeError, StorageError
from search.config import read_config
from search.evaluate import (
    COMPLETE,
    FAILED,
    Evaluation,
    Problem,
    check_problem,
    evaluate,
    load_problem,
    train_dense,
)
from search.objectives import COSTS
from spaces.candidate import Candidate, LayerSetting
from tests.trainers.data.images import png, write_parquet
from trainers.checkpoint import load_checkpoint
from trainers.data import StreamedImages
from trainers.integer import integer_layers

TABLES: dict[str, dict[str, Any]] = {
    "network": {"name": "mlp", "arguments": {"hidden": 24}},
    "train": {"dense_epochs": 1, "epochs": 1, "train_count": 640, "calibration_count": 128},
    "data": {"test_count": 100},
}


def problem_of(**overrides: Mapping[str, Any]) -> Problem:
    tables = {name: {**TABLES.get(name, {}), **own} for name, own in overrides.items()}
    return load_problem(read_config({**TABLES, **tables}))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Path, Evaluation]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("dense")
    problem = problem_of()
    found = train_dense(problem, folder / "dense.safetensors", folder / "dense")
    return problem, folder / "dense.safetensors", found


def candidate(nonzeros: int = 5, **layers: LayerSetting) -> Candidate:
    settings = {name: LayerSetting(nonzeros=nonzeros) for name in ("fc1", "fc2")}
    return Candidate(
        network="mlp",
        method="tinyadc",
        plan=CrossbarPlan(default=CrossbarSpec(wordlines=128, bitlines=64)),
        layers={**settings, **layers},
        seed=3,
    )


def test_dense_baseline_knows_every_objective(dense: tuple[Problem, Path, Evaluation]) -> None:
    _, weights, found = dense
    assert found.status == COMPLETE
    assert set(found.values) == {"accuracy", *COSTS}
    assert found.values["accuracy"] > 0.2  # ten classes
    assert weights.exists()
    assert not weights.with_suffix(".training").exists()


def test_candidate_is_measured_as_the_integer_network_that_is_saved(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, baseline = dense
    found = evaluate(problem, candidate(nonzeros=5), weights, tmp_path / "one")
    assert found.status == COMPLETE, found.reason
    assert max(found.adc_bits.values()) <= 4  # 5 non-zeros of 2-bit cells
    assert found.values["adc_area"] < baseline.values["adc_area"]
    stored = load_checkpoint(tmp_path / "one")
    assert stored.manifest["accuracy"] == found.values["accuracy"]
    assert stored.manifest["cost"]["totals"]["area_m2"] == found.values["area"]
    layers = integer_layers(stored.network)
    assert {n: layer.certify().adc_bits for n, layer in layers.items()} == dict(found.adc_bits)


def test_measured_costs_never_exceed_the_plan(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, _ = dense
    strict = candidate(nonzeros=2, fc1=LayerSetting(nonzeros=10, kept_shapes=0.5))
    found = evaluate(problem, strict, weights, tmp_path / "one")
    planned = problem.planned_costs(strict)
    assert all(found.values[name] <= planned[name] * (1 + 1e-9) for name in COSTS)


def test_same_seed_gives_the_same_evaluation(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, _ = dense
    first, again = (evaluate(problem, candidate(), weights, tmp_path / n) for n in ("a", "b"))
    assert first.values == again.values
    assert first.adc_bits == again.adc_bits


def test_diverging_candidate_fails_with_its_reason_and_leaves_no_checkpoint(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, _ = dense
    train = replace(problem.config.train, prune_learning_rate=1e9)
    wild = replace(problem, config=replace(problem.config, train=train))
    found = evaluate(wild, candidate(), weights, tmp_path / "one")
    assert found.status == FAILED
    assert "loss is" in found.reason
    assert not (tmp_path / "one").exists()


def test_disk_that_cannot_be_written_is_no_fault_of_the_candidate(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, _ = dense
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        evaluate(problem, candidate(), weights, tmp_path / "file" / "one")


def test_evaluation_survives_json() -> None:
    found = Evaluation(status=COMPLETE, values={"accuracy": 0.5}, adc_bits={"a": 3})
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_baseline_can_come_from_a_file(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    _, weights, baseline = dense
    given = problem_of(network={"checkpoint": str(weights)})
    check_problem(given)
    found = train_dense(given, tmp_path / "w.safetensors", tmp_path / "dense")
    assert found.values == baseline.values
    assert found.seconds["train"] == 0.0


def test_baseline_whose_weights_are_there_is_not_trained_again(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    problem, weights, baseline = dense
    found = train_dense(problem, weights, tmp_path / "again")
    assert (found.values, found.adc_bits) == (baseline.values, baseline.adc_bits)
    assert found.seconds["train"] == 0.0


def test_task_whose_backbone_is_there_trains_on_from_it(tmp_path: Path) -> None:
    problem, start = problem_of(data=TASK), tmp_path / "start.safetensors"
    first = train_dense(problem, start, tmp_path / "dense")
    backbone = load_file(start)
    again = train_dense(problem, start, tmp_path / "dense")
    assert again.values == first.values
    assert torch.equal(load_file(start)["fc1.weight"], backbone["fc1.weight"])


def test_baseline_without_a_price_keeps_its_training(tmp_path: Path) -> None:
    table, weights = tmp_path / "adc.csv", tmp_path / "dense.safetensors"
    rows = "bits,energy_j,area_m2\n4,8e-13,3e-10\n5,1e-12,4e-10\n9,2e-12,1e-9\n"
    table.write_text(rows)
    law = {"law": f"table:{table}"}
    with pytest.raises(OutOfRangeError, match=r"no price: fc1: ADC law .* 8 bits; allowed: 4, 5"):
        train_dense(problem_of(hardware=law), weights, tmp_path / "dense")
    table.write_text(rows + "7,14e-13,7e-10\n8,17e-13,8e-10\n")
    found = train_dense(problem_of(hardware=law), weights, tmp_path / "dense")
    assert found.seconds["train"] == 0.0
    assert found.adc_bits["fc1"] == 8


def test_baseline_with_a_fresh_head_is_trained(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    _, weights, _ = dense
    given = problem_of(network={"checkpoint": str(weights), "reset_head": True})
    check_problem(given)
    found = train_dense(given, tmp_path / "w.safetensors", tmp_path / "dense")
    assert found.seconds["train"] > 0.0
    assert found.values["accuracy"] > 0.3


def test_streamed_set_is_trained_on_measured_and_recorded(tmp_path: Path) -> None:
    for split, count in (("train", 256), ("test", 40)):
        pixels = [png(np.full((28, 28), 25 * (row % 10), np.uint8)) for row in range(count)]
        labels = [row % 10 for row in range(count)]
        path = tmp_path / f"{split}.parquet"
        write_parquet(path, rows_per_group=50, image=pixels, label=labels)
    data = {"name": "parquet", "path": str(tmp_path), "streaming": True, "test_count": None}
    train = {"train_count": None, "batch_size": 16}
    results = []
    for streaming in (True, False):
        own = {**data, "streaming": streaming, "cache": str(tmp_path / "cache")}
        problem = problem_of(data=own, train={**train, "dense_epochs": 0})
        assert isinstance(problem.dataset.train, StreamedImages) == streaming
        folder = tmp_path / str(streaming)
        results.append(train_dense(problem, folder / "w.safetensors", folder / "dense").values)
    # Untrained, the two differ in nothing: the same calibration, the same test images.
    assert results[0] == results[1]
    problem = problem_of(data=data, train=train)
    found = train_dense(problem, tmp_path / "w.safetensors", tmp_path / "dense")
    assert found.values["accuracy"] != results[0]["accuracy"]
    recorded = load_checkpoint(tmp_path / "dense").manifest["dataset"]
    assert recorded["test_images"] == 40
    assert recorded["test_digest"] == problem.dataset.test.digest


def test_baseline_of_another_network_is_found_out_before_anything_starts(
    dense: tuple[Problem, Path, Evaluation],
) -> None:
    _, weights, _ = dense
    other = problem_of(network={"arguments": {"hidden": 30}, "checkpoint": str(weights)})
    with pytest.raises(CheckpointError, match=r"fc1\.weight.* has shape \(24, 784\)"):
        check_problem(other)


TASK: dict[str, Any] = {"classes": [5, 6, 7], "backbone_classes": [0, 1], "test_count": 90}


def test_tasks_start_from_one_backbone_and_keep_its_cells(tmp_path: Path) -> None:
    xma = {"name": "xma"}
    stored = []
    for number, classes in enumerate(([5, 6, 7], [8, 9])):
        problem = problem_of(data={**TASK, "classes": classes}, method=xma)
        folder = tmp_path / str(number)
        baseline = train_dense(problem, folder / "start.safetensors", folder / "dense")
        assert baseline.values["accuracy"] > 1.1 / len(classes)
        plain = Candidate(network="mlp", method="xma", plan=problem.dense_plan())
        found = evaluate(problem, plain, folder / "start.safetensors", folder / "task")
        assert found.status == COMPLETE, found.reason
        checkpoint = load_checkpoint(folder / "task")
        assert checkpoint.classes == len(classes)
        stored.append(integer_layers(checkpoint.network))
        fine_tuned = integer_layers(load_checkpoint(folder / "dense").network)
        assert not torch.equal(stored[-1]["fc1"].weight_q, fine_tuned["fc1"].weight_q)
        assert not list(folder.glob("*.training"))
    assert torch.equal(stored[0]["fc1"].weight_q, stored[1]["fc1"].weight_q)


def test_a_backbone_can_come_from_a_file(tmp_path: Path) -> None:
    backbone = problem_of(data={"classes": [0, 1]})
    train_dense(backbone, tmp_path / "backbone.safetensors", tmp_path / "backbone")
    given = {"checkpoint": str(tmp_path / "backbone.safetensors")}
    weights = []
    for number, network in enumerate((TABLES["network"], {**TABLES["network"], **given})):
        problem = problem_of(data=TASK, network=network)
        check_problem(problem)
        start = tmp_path / f"start-{number}.safetensors"
        train_dense(problem, start, tmp_path / "dense")
        weights.append(load_file(start))
    assert torch.equal(weights[0]["fc1.weight"], weights[1]["fc1.weight"])


def test_a_task_has_no_teacher() -> None:
    with pytest.raises(ConfigError, match=r"train.distillation is 0.5; allowed with data.backbone"):
        problem_of(data=TASK, train={"distillation": 0.5})


def test_robust_accuracy_is_the_mean_over_lossy_devices(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    _, weights, _ = dense
    robust = {"faults": 0.02, "seeds": 3, "images": 60}
    problem = problem_of(
        robustness=robust, study={"objectives": ["accuracy", "robust_accuracy", "area"]}
    )
    found = evaluate(problem, candidate(), weights, tmp_path / "one")
    stored = load_checkpoint(tmp_path / "one").manifest["robustness"]
    assert found.values["robust_accuracy"] == stored["mean"]
    assert (stored["n"], stored["images"]) == (3, 60)
    assert stored["nonideality"]["stuck_on_rate"] > 0
    assert found.values["robust_accuracy"] != found.values["accuracy"]


def test_distillation_changes_what_a_candidate_learns(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    _, weights, _ = dense
    plain, taught = (
        evaluate(
            problem_of(train={"distillation": share}), candidate(), weights, tmp_path / str(share)
        )
        for share in (0.0, 0.9)
    )
    assert taught.status == COMPLETE, taught.reason
    first, second = (
        integer_layers(load_checkpoint(tmp_path / str(share)).network)["fc1"].weight_q
        for share in (0.0, 0.9)
    )
    assert not torch.equal(first, second)
    assert plain.status == COMPLETE


def test_training_goes_on_from_the_reconstructed_projection(
    dense: tuple[Problem, Path, Evaluation], tmp_path: Path
) -> None:
    _, weights, _ = dense
    fidelity = {"projection": True, "rungs": [1]}
    tables = {"fidelity": fidelity, "train": {"reconstruct": True, "epochs": 2}}
    problem = problem_of(**tables)
    plain = problem_of(fidelity=fidelity, train={"epochs": 2})
    one, state = candidate(nonzeros=2), tmp_path / "one.training"
    projected = evaluate(problem, one, weights, tmp_path / "one", rung=0, state=state)
    bare = evaluate(plain, one, weights, tmp_path / "bare", rung=0)
    assert projected.values["accuracy"] > bare.values["accuracy"]
    assert projected.values["area"] == bare.values["area"]
    start = tmp_path / "one.start.safetensors"
    assert start.exists()
    trained = evaluate(problem, one, weights, tmp_path / "two", rung=1, state=state)
    anew = evaluate(problem, one, weights, tmp_path / "three", rung=1)
    assert trained.values == anew.values
    start.write_bytes(start.read_bytes()[:100])
    state.unlink()
    again = evaluate(problem, one, weights, tmp_path / "four", rung=1, state=state)
    assert again.values == anew.values
