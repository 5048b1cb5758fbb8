"""The main job with a tiny budget: search, SIGKILL, resume, export, verify, tamper, verify."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from search.folder import StudyFolder
from search.study import Study

TRIALS = 8
CONFIG = f"""
[study]
name = "e2e"
trials = {TRIALS}
sampler = "random"
constraints = ["accuracy >= 0.01"]

# Bounds that segments surely reach, so that one more weight breaks a certificate.
[space]
nonzeros = [2, 5]

[data]
test_count = 200

[network]
name = "mlp"
arguments = {{ hidden = 400 }}

[train]
dense_epochs = 1
epochs = 3
train_count = 3000
"""

pytestmark = pytest.mark.ray


def crossfront(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def pareto(folder: Path) -> dict:
    return json.loads(crossfront("pareto", "e2e", "--json", folder=folder).stdout)


def finished_trials(folder: Path) -> dict[int, list[float]]:
    """Objective values of complete trials by number, read as any other process would."""
    import optuna

    journal = optuna.storages.journal.JournalFileBackend(str(folder / "studies/e2e/journal.log"))
    study = optuna.load_study(study_name="e2e", storage=optuna.storages.JournalStorage(journal))
    return {t.number: t.values for t in study.trials if t.state.name == "COMPLETE"}


def kill_after_some_trials(folder: Path, wanted: int) -> None:
    """Starts the search and ends its driver with SIGKILL once `wanted` trials are complete."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "search", "e2e.toml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stderr is not None
    seen, lines = 0, []
    for line in driver.stderr:
        lines.append(line)
        seen += "] trial" in line
        if seen == wanted:
            break
    assert seen == wanted, "".join(lines)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(timeout=30)
    driver.stderr.close()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[float]]]:
    """A study that was killed in mid-search and resumed; with the trials complete at the kill."""
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "e2e.toml").write_text(CONFIG)
    kill_after_some_trials(folder, wanted=3)
    time.sleep(1)  # let the orphaned workers notice
    before = finished_trials(folder)
    assert 3 <= len(before) < TRIALS
    outcome = crossfront("resume", "e2e", folder=folder)
    assert outcome.returncode == 0, outcome.stderr
    return folder, before


def test_resume_keeps_finished_trials_and_ends_at_the_budget(
    resumed: tuple[Path, dict[int, list[float]]],
) -> None:
    folder, before = resumed
    after = finished_trials(folder)
    assert len(after) == TRIALS
    assert {number: after[number] for number in before} == before
    counts = pareto(folder)["trials"]
    assert counts == {"complete": TRIALS, "pruned": 0, "failed": 0, "infeasible": 0, "projected": 0}


def test_mlflow_shows_one_parent_and_every_trial_once(
    resumed: tuple[Path, dict[int, list[float]]],
) -> None:
    import mlflow

    folder, _ = resumed
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'studies/mlflow.db'}")
    experiment = client.get_experiment_by_name("crossfront")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    numbers = [int(run.data.tags["crossfront.trial"]) for run in children]
    assert len(numbers) == len(set(numbers))
    complete = [run for run in children if run.data.tags["status"] == "complete"]
    assert len(complete) == TRIALS
    assert not [run for run in runs if run.info.status == "RUNNING"]
    front = {member["number"] for member in pareto(folder)["front"]}
    tagged = {
        int(run.data.tags["crossfront.trial"])
        for run in children
        if run.data.tags["pareto"] == "true"
    }
    assert tagged == front
    artifacts = {item.path for item in client.list_artifacts(parents[0].info.run_id)}
    assert artifacts >= {
        "report.html",
        "front.parquet",
        "trials.parquet",
        "config.toml",
        "environment.json",
    }


def test_only_front_members_keep_checkpoints(
    resumed: tuple[Path, dict[int, list[float]]],
) -> None:
    folder, _ = resumed
    kept = {path.name for path in (folder / "studies/e2e/checkpoints").iterdir()}
    study = Study.open(StudyFolder(folder / "studies", "e2e"))
    assert kept == {study.checkpoint(trial).name for trial in study.front()}


def test_export_verifies_from_its_folder_alone_and_a_changed_weight_is_found(
    resumed: tuple[Path, dict[int, list[float]]], tmp_path: Path
) -> None:
    folder, _ = resumed
    out = tmp_path / "elsewhere" / "out"
    exported = crossfront("export", "e2e", "--select", "accuracy", "--to", str(out), folder=folder)
    assert exported.returncode == 0, exported.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {
        "manifest.json",
        "weights.safetensors",
        "samples.safetensors",
        "network.onnx",
        "network.pt2",
    }
    proven = crossfront("verify", str(out), "--json", folder=tmp_path)
    assert proven.returncode == 0, proven.stderr
    proof = json.loads(proven.stdout)
    assert proof["certified"]
    assert proof["digests_ok"]
    assert proof["mismatches"] == 0
    assert proof["images"] == 200
    best = max(member["values"]["accuracy"] for member in pareto(folder)["front"])
    assert proof["accuracy"] == pytest.approx(best, abs=1 / 200)

    break_certificate(out)
    refused = crossfront("verify", str(out), folder=tmp_path)
    assert refused.returncode == 1
    assert re.search(r"fc[12]: a reading of \d+ is possible at tile \d+, bitline", refused.stderr)
    assert "Traceback" not in refused.stderr


def break_certificate(out: Path) -> None:
    """Changes one stored weight so that the worst segment of some slice exceeds its ADC."""
    from hwmodel.mapping import segment_lengths
    from trainers.checkpoint import load_checkpoint
    from trainers.integer import integer_layers

    tensors = load_file(out / "weights.safetensors")
    for name, layer in integer_layers(load_checkpoint(out).network).items():
        certificate, spec, layout = layer.certify(), layer.spec, layer.layout
        matrix = layout.pack(layer.weight_q)
        for index, (reading, bits) in enumerate(
            zip(certificate.worst_sums, layer.adc_bits_per_slice, strict=True)
        ):
            if reading + spec.slice_limit(index) < 1 << bits:
                continue
            witness = certificate.witnesses[index]
            output, line = divmod(witness.bitline, spec.bitlines_per_output)
            sign = -1 if line >= spec.slice_count else 1
            start = witness.tile * spec.wordlines
            length = segment_lengths(layout.packed_rows, spec.wordlines)[witness.tile]
            segment = matrix[0, output, start : start + length]
            empty = (segment == 0).nonzero()
            if len(empty) == 0:
                continue
            matrix[0, output, start + int(empty[0])] = sign * spec.weight_limit
            tensors[f"{name}.weight_q"] = layout.unpack(matrix, layer.weight_q.shape).contiguous()
            save_file(tensors, out / "weights.safetensors")
            return
    pytest.fail("no slice is near enough to its limit for one weight to break it")
