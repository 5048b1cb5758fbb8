"""`crossfront verify` on lossy devices and of bit slices."""

import json
import shutil
from pathlib import Path

import pytest

from search.cli import main
from tests.trainers.toys import CLASSES, MLP, SHAPE, finalised, toy_images
from trainers.checkpoint import save_checkpoint
from trainers.export import ONNX_FILE, SAMPLES_FILE, export_folder
from trainers.networks import build_network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlp")
    images = toy_images(12)
    integer = finalised(build_network(MLP, SHAPE, CLASSES), images)
    save_checkpoint(folder / "saved", integer, MLP, input_shape=SHAPE, classes=CLASSES, facts={})
    return export_folder(folder / "saved", folder / "exported", images)


def verify(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """Exit code and standard output."""
    monkeypatch.setattr("sys.argv", ["crossfront", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_faults_add_mean_and_spread_to_the_proof(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    arguments = (exported, "--faults", 0.05, "--seeds", 4)
    code, out = verify(monkeypatch, capsys, *arguments, "--json")
    assert code == 0
    found = json.loads(out)
    robustness = found["robustness"]
    device = robustness["nonideality"]
    assert found["failures"] == []
    assert device["stuck_on_rate"] == pytest.approx(5.2 * device["stuck_off_rate"])
    assert (robustness["n"], robustness["seeds"]) == (4, [0, 1, 2, 3])
    assert robustness["images"] == found["images"] == 12
    assert robustness["ideal"] == found["accuracy"]
    code, out = verify(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "(5.2 : 1)" in out
    assert f"accuracy {robustness['mean']:.4f}, standard deviation" in out
    assert "over 4 seeds" in out


def test_every_effect_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    options = ("--variation", 0.1, "--read-noise", 0.2, "--ir-drop", "--seeds", 1)
    code, out = verify(monkeypatch, capsys, exported, *options)
    assert code == 0
    for said in ("stuck on 0,", "variation 0.1", "read noise 0.2 levels", "IR drop 1.67e-05"):
        assert said in out


def test_without_an_effect_only_the_proof_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    code, out = verify(monkeypatch, capsys, exported, "--json")
    assert code == 0
    assert "robustness" not in json.loads(out)


def test_slices_add_a_row_each_to_the_proof(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    code, out = verify(monkeypatch, capsys, exported, "--slices", "--json")
    assert code == 0
    found = json.loads(out)
    slices = found["bit_slices"]["slices"]
    assert [set(row) for row in slices] == 4 * [
        {"weights", "nonzero_share", "segments", "max_bits", "bits_99_9", "mean_bits"}
    ]
    assert max(row["max_bits"] for row in slices) == found["max_adc_bits"]
    assert found["bit_slices"]["accuracy"] == found["accuracy"]
    code, out = verify(monkeypatch, capsys, exported, "--slices")
    assert code == 0
    for row in slices:
        assert f"{row['nonzero_share']:.2%}" in out
    clipped = found["bit_slices"]["clipped"]
    bits = ", ".join(map(str, reversed(clipped["adc_bits_per_slice"])))
    assert f"accuracy {clipped['accuracy']:.4f} with ADCs of {bits} bits" in out


def test_folder_that_is_not_proven_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    path = exported / SAMPLES_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, out = verify(monkeypatch, capsys, exported, "--faults", 0.01, "--slices", "--json")
    finally:
        path.write_bytes(content)
    assert code == 1
    assert not {"robustness", "bit_slices"} & set(json.loads(out))


def test_verdict_says_what_was_looked_at_and_on_how_many_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exported: Path
) -> None:
    code, out = verify(monkeypatch, capsys, exported, "--images", 5)
    assert code == 0
    *_, accuracy, simulation, onnx, files, verdict = out.splitlines()
    assert accuracy.endswith("on all 12 samples")
    assert simulation.startswith("simulation 5 of the samples, every ADC reading of them: 0 come")
    assert onnx == "ONNX graph classifies 0 of these 5 differently"
    assert files == "files      match their digests"
    assert verdict.startswith("proven: ")


def test_changed_file_is_not_proven(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exported: Path,
    tmp_path: Path,
) -> None:
    changed = shutil.copytree(exported, tmp_path / "changed")
    with (changed / ONNX_FILE).open("ab") as file:
        file.write(b"more")
    code, out = verify(monkeypatch, capsys, changed)
    assert code == 1
    *_, onnx, files, verdict = out.splitlines()
    assert onnx == "ONNX graph is not there, or not as it was exported"
    assert files == "files      do NOT match their digests"
    assert verdict == "not proven, for 1 reason"
    code, out = verify(monkeypatch, capsys, changed, "--json")
    assert json.loads(out)["proven"] is False
