"""An export proves itself, and any change to it is found and named."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hwmodel.errors import CheckpointError, MappingError
from hwmodel.nonideality import Nonideality
from tests.trainers.toys import (
    CLASSES,
    toy_fit,
    toy_images,
    toy_tinyadc,
)
from trainers.checkpoint import MANIFEST, WEIGHTS, load_checkpoint, read_manifest, save_checkpoint
from trainers.config import NetworkConfig
from trainers.export import ONNX_FILE, PROGRAM_FILE, SAMPLES_FILE, export_folder
from trainers.finalise import finalise
from trainers.integer import integer_layers
from trainers.networks import build_network
from trainers.tracing import layer_shapes
from trainers.verify import measure_folder, verify_folder

ROOT = Path(__file__).resolve().parents[2]
LENET = NetworkConfig(name="lenet5")
LARGE = (1, 16, 16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 of two non-zeros per segment."""
    folder = tmp_path_factory.mktemp("lenet5")
    images = toy_images(24, LARGE)
    network = build_network(LENET, LARGE, CLASSES)
    method = toy_tinyadc(network)
    toy_fit(network, images, method, epochs=2)
    integer = finalise(network, method, layer_shapes(network, LARGE), images)
    save_checkpoint(folder / "saved", integer, LENET, input_shape=LARGE, classes=CLASSES, facts={})
    return export_folder(folder / "saved", folder / "exported", images)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "moved")


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_untouched_export_is_proven(exported: Path) -> None:
    proof = verify_folder(exported, images=8)
    assert proof.ok
    assert proof.certified
    assert proof.digests_ok
    assert (proof.images, proof.mismatches, proof.failures) == (8, 0, ())
    assert proof.accuracy == read_manifest(exported)["samples"]["accuracy"]
    layers = integer_layers(load_checkpoint(exported).network)
    for layer in proof.layers:
        certificate = layers[layer.name].certify()
        assert layer.adc_bits == certificate.adc_bits
        assert layer.worst_sum == certificate.worst_sum <= layer.limit == 2**layer.adc_bits - 1
        assert layer.adc_bits <= 3  # two 2-bit levels sum to 6


def test_json_says_what_the_proof_says(exported: Path) -> None:
    proof = verify_folder(exported, images=1)
    found = json.loads(json.dumps(proof.to_json()))
    assert (found["proven"], found["certified"], found["digests_ok"]) == (True, True, True)
    assert (found["samples"], found["onnx_differing"]) == (24, 0)
    assert found["max_adc_bits"] == max(layer.adc_bits for layer in proof.layers)
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert (found["images"], found["mismatches"], found["failures"]) == (1, 0, [])


def test_lossy_devices_are_measured_from_the_folder_alone(exported: Path) -> None:
    device = Nonideality.with_faults(0.02)
    found = measure_folder(exported, device, range(3), images=12)
    assert (found.images, found.seeds) == (12, (0, 1, 2))
    assert found.per_seed == measure_folder(exported, device, range(3), images=12).per_seed
    ideal = measure_folder(exported, Nonideality(), [0], images=10_000)
    assert ideal.images == 24
    assert ideal.mean == ideal.ideal == read_manifest(exported)["samples"]["accuracy"]


def test_more_images_than_samples_simulates_them_all(exported: Path) -> None:
    assert verify_folder(exported, images=10_000).images == 24


def test_folder_alone_is_enough_for_a_fresh_process(folder: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from trainers.verify import verify_folder; "
        "print(json.dumps(verify_folder(Path(sys.argv[1]), images=4).to_json()))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, folder.name],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    proof = json.loads(finished.stdout)
    assert proof["failures"] == []
    assert proof["images"] == 4


def break_certificate(folder: Path) -> tuple[int, int]:
    """Fills a segment of fc1's output 3 beyond its ADCs; returns its tile and first bitline."""
    layer = integer_layers(load_checkpoint(folder).network)["fc1"]
    limit = layer.spec.weight_limit
    first = 2 * layer.spec.wordlines

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["fc1.weight_q"][3, first : first + layer.spec.wordlines] = limit

    rewrite(folder / WEIGHTS, change)
    return 2, 3 * layer.spec.bitlines_per_output


def test_weights_that_break_the_certificate_are_named(folder: Path) -> None:
    tile, bitline = break_certificate(folder)
    proof = verify_folder(folder, images=8)
    assert not proof.ok
    assert not proof.certified
    assert not proof.digests_ok
    reading = re.escape(f"fc1: a reading of 24 is possible at tile {tile}, bitline {bitline} ")
    assert any(re.match(reading, failure) for failure in proof.failures), proof.failures
    assert f"{WEIGHTS}: does not match its digest in the manifest" in proof.failures
    worst = {layer.name: layer for layer in proof.layers}["fc1"]
    assert worst.worst_sum == 24 > worst.limit


def test_one_weight_more_than_the_bound_breaks_the_certificate(folder: Path) -> None:
    layer = integer_layers(load_checkpoint(folder).network)["fc1"]
    certificate = layer.certify()
    witness = certificate.witnesses[0]
    assert layer.adc_bits_per_slice[0] == 3
    output, line = divmod(witness.bitline, layer.spec.bitlines_per_output)
    sign = 1 if line < layer.spec.slice_count else -1
    start = witness.tile * layer.spec.wordlines

    def change(tensors: dict[str, Tensor]) -> None:
        segment = tensors["fc1.weight_q"][output, start : start + layer.spec.wordlines]
        free = int((segment == 0).nonzero()[0])
        segment[free] = sign * 3  # one full cell in the lowest slice, nothing above

    rewrite(folder / WEIGHTS, change)
    proof = verify_folder(folder, images=1)
    assert certificate.worst_sums[0] + 3 > 7
    expected = f"fc1: a reading of {certificate.worst_sums[0] + 3} is possible at {witness} "
    assert any(failure.startswith(expected) for failure in proof.failures), proof.failures
    assert not proof.digests_ok


def test_simulation_alone_finds_readings_beyond_the_adcs(folder: Path) -> None:
    break_certificate(folder)

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["images"][:] = 255

    rewrite(folder / SAMPLES_FILE, change)
    proof = verify_folder(folder, images=4)
    assert proof.mismatches > 0
    assert f"{proof.mismatches} of 4 images read differently through the ADCs" in proof.failures


def test_weight_that_keeps_the_certificate_still_fails_on_its_digest(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        weight = tensors["fc2.weight_q"]
        at = tuple(int(i) for i in weight.nonzero()[0])
        weight[at] -= weight[at].sign()

    rewrite(folder / WEIGHTS, change)
    proof = verify_folder(folder, images=4)
    assert not proof.ok
    assert not proof.digests_ok
    assert f"{WEIGHTS}: does not match its digest in the manifest" in proof.failures
    assert proof.certified


def test_weight_that_no_crossbar_stores_is_refused(folder: Path) -> None:
    rewrite(folder / WEIGHTS, lambda t: t["fc1.weight_q"][0].fill_(128))
    with pytest.raises(MappingError, match=r"a weight of magnitude 128; .* at most 127"):
        verify_folder(folder, images=1)


def test_swapped_graph_fails_on_its_digest(folder: Path) -> None:
    (folder / ONNX_FILE).write_bytes(b"not a graph")
    (folder / PROGRAM_FILE).unlink()
    proof = verify_folder(folder, images=1)
    assert sorted(proof.failures) == [
        f"{ONNX_FILE}: does not match its digest in the manifest",
        f"{PROGRAM_FILE}: does not match its digest in the manifest",
    ]


def test_graph_of_another_network_is_found_even_under_a_fresh_digest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainers.verify.onnx_logits", lambda _, images: torch.zeros(len(images), CLASSES)
    )
    failures = verify_folder(folder, images=24).failures
    assert len(failures) == 1
    assert re.fullmatch(rf"{ONNX_FILE}: \d+ of 24 images are classified differently", failures[0])


def test_recorded_accuracy_must_be_the_measured_one(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["samples"]["accuracy"] -= 0.5
    (folder / MANIFEST).write_text(json.dumps(manifest))
    failures = verify_folder(folder, images=1).failures
    assert len(failures) == 1
    assert "accuracy on the samples is" in failures[0]


def test_promise_of_smaller_adcs_is_refuted(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["layers"]["fc1"]["adc_bits_per_slice"][0] = 2
    (folder / MANIFEST).write_text(json.dumps(manifest))
    proof = verify_folder(folder, images=4)
    assert not proof.certified
    assert any(re.match(r"fc1: .*limit 3 with a 2-bit ADC", f) for f in proof.failures)


def test_promised_resolution_must_be_that_of_the_slices(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["layers"]["fc1"]["adc_bits"] = 1
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert not verify_folder(folder, images=1).ok


def test_missing_samples_are_refused(folder: Path) -> None:
    (folder / SAMPLES_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"{SAMPLES_FILE}: no readable sample images"):
        verify_folder(folder)


@pytest.mark.parametrize("content", [b"", b"truncated"])
def test_unreadable_samples_are_refused(folder: Path, content: bytes) -> None:
    (folder / SAMPLES_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="no readable sample images"):
        verify_folder(folder)


def test_samples_without_labels_are_refused(folder: Path) -> None:
    rewrite(folder / SAMPLES_FILE, lambda t: t.pop("labels"))
    with pytest.raises(CheckpointError, match="no readable sample images"):
        verify_folder(folder)


def test_missing_manifest_is_refused(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="expected a manifest"):
        verify_folder(folder)


def test_checkpoint_that_was_never_exported_is_refused(exported: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable sample images"):
        verify_folder(exported.parent / "saved")


@pytest.mark.parametrize("field", ["digests", "samples"])
def test_manifest_without_a_field_is_refused(folder: Path, field: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[field]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        verify_folder(folder, images=1)
