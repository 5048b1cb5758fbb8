import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwmodel.errors import CheckpointError, CrossfrontError, StorageError
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    as_floats,
    finalised,
    toy_images,
    toy_targets,
)
from trainers.checkpoint import (
    MANIFEST,
    WEIGHTS,
    changed_files,
    file_digest,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
    writing_folder,
)
from trainers.integer import integer_layers
from trainers.method import LayerTarget
from trainers.methods import TinyAdc, TinyAdcConfig
from trainers.networks import build_network


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """An integer network with packed layers, batch norm and signed inputs."""
    floats = build_network(CONV_NET, SHAPE, CLASSES)
    targets = {
        name: LayerTarget(spec=target.spec, rows=3, nonzeros=2)
        for name, target in toy_targets(floats).items()
    }
    return finalised(floats, toy_images(16), TinyAdc(targets, TinyAdcConfig()))


def save(folder: Path, network: nn.Module, **facts: Any) -> Path:
    save_checkpoint(folder, network, CONV_NET, input_shape=SHAPE, classes=CLASSES, facts=facts)
    return folder


@pytest.fixture(scope="module")
def saved(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints") / "saved", network, accuracy=0.5)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_round_trip_gives_identical_logits(network: nn.Module, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.config == CONV_NET
    assert (loaded.input_shape, loaded.classes) == (SHAPE, CLASSES)
    assert loaded.manifest["accuracy"] == 0.5
    assert not loaded.network.training
    values = as_floats(toy_images(40, seed=1))
    with torch.no_grad():
        assert torch.equal(loaded.network(values), network(values))


def test_round_trip_keeps_all_that_is_stored_of_a_layer(network: nn.Module, saved: Path) -> None:
    found = integer_layers(load_checkpoint(saved).network)
    for name, layer in integer_layers(network).items():
        for key in ("weight_q", "weight_scale", "bias"):
            value = getattr(found[name], key)
            assert value.dtype == getattr(layer, key).dtype
            assert torch.equal(value, getattr(layer, key))
        for key in ("activations", "spec", "adc_bits_per_slice", "geometry"):
            assert getattr(found[name], key) == getattr(layer, key)
        assert torch.equal(found[name].layout.kept_rows, layer.layout.kept_rows)  # type: ignore[arg-type]
        assert found[name].layout.kept_outputs is None
        assert found[name].certify() == layer.certify()


def test_saving_twice_writes_the_same_bytes(
    network: nn.Module, saved: Path, tmp_path: Path
) -> None:
    again = save(tmp_path / "again", network, accuracy=0.5)
    for name in (WEIGHTS, MANIFEST):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_manifest_carries_certificates_and_digests(network: nn.Module, saved: Path) -> None:
    manifest = read_manifest(saved)
    expected = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    assert manifest["digests"] == {WEIGHTS: expected}
    assert file_digest(saved / WEIGHTS) == expected
    assert changed_files(saved, manifest) == []
    for name, layer in integer_layers(network).items():
        certificate = layer.certify()
        written = manifest["layers"][name]
        assert written["adc_bits"] == certificate.adc_bits
        assert tuple(written["worst_sums"]) == certificate.worst_sums
        assert written["witnesses"][0]["tile"] == certificate.witnesses[0].tile
        assert written["spec"]["wordlines"] == layer.spec.wordlines


def test_changed_and_missing_files_are_named(folder: Path) -> None:
    manifest = read_manifest(folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert changed_files(folder, manifest) == [WEIGHTS]
    (folder / WEIGHTS).unlink()
    assert changed_files(folder, manifest) == [WEIGHTS]


def test_other_format_version_is_refused(folder: Path) -> None:
    edit(folder, lambda m: m.update(format=2))
    with pytest.raises(CheckpointError, match="format 2; this version reads 1"):
        load_checkpoint(folder)


def test_missing_manifest_is_refused(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="No such file or directory; expected a manifest"):
        load_checkpoint(folder)


def test_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 1,')
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    ["[]", '{"format": 1}', '{"format": 1, "network": {"name": "mlp"}, "layers": {}}'],
)
def test_manifest_of_something_else_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(CrossfrontError):
        load_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: not readable"):
        load_checkpoint(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: not readable"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("grouped.bias"), "tensor 'grouped.bias' is missing"),
        (lambda t: t.pop("rest.norm.weight"), "tensor 'norm.weight' is missing or not expected"),
        (
            lambda t: t.update({"rest.extra": torch.zeros(1)}),
            "tensor 'extra' is missing or not expected",
        ),
        (lambda t: t.update({"rest.norm.weight": torch.zeros(7)}), "does not describe a network"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_missing_layer_is_refused(folder: Path) -> None:
    edit(folder, lambda m: m["layers"].pop("linear"))
    with pytest.raises(CheckpointError, match="layer 'linear' is missing or not expected"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("linear.weight_scale", torch.ones(7)),
        ("linear.bias", torch.ones(7)),
        ("linear.weight_q", torch.zeros(CLASSES, 5, dtype=torch.int16)),
    ],
)
def test_layer_tensors_of_other_sizes_are_refused(folder: Path, name: str, tensor: Tensor) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors.pop("linear.kept_rows")
        tensors[name] = tensor

    rewrite(folder, change)
    with pytest.raises(CrossfrontError):
        load_checkpoint(folder)


def test_layer_that_the_network_does_not_have_is_refused(folder: Path) -> None:
    edit(folder, lambda m: m["layers"].update(extra=m["layers"]["linear"]))
    rewrite(
        folder,
        lambda t: t.update({k.replace("linear", "extra"): v.clone() for k, v in t.items()}),
    )
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writing_replaces_the_folder_and_leaves_nothing_beside_it(
    network: nn.Module, folder: Path
) -> None:
    (folder / "old.txt").write_text("of the checkpoint before")
    save(folder, network, accuracy=0.75)
    assert sorted(content_of(folder)) == [MANIFEST, WEIGHTS]
    assert read_manifest(folder)["accuracy"] == 0.75
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_interrupted_write_leaves_the_old_folder(
    network: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = content_of(folder)

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("trainers.checkpoint.save_file", full)
    with pytest.raises(StorageError, match="cannot be written"):
        save(folder, network)
    assert content_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_any_other_interruption_leaves_the_old_folder(folder: Path) -> None:
    before = content_of(folder)
    writing = writing_folder(folder)
    (writing.__enter__() / "half.txt").write_text("half")
    assert writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is not True
    assert content_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_rename_that_fails_leaves_the_old_folder(
    network: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(folder)

    def refused(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("trainers.checkpoint.os.replace", refused)
    with pytest.raises(StorageError, match="Permission denied"):
        save(folder, network)
    assert content_of(folder) == before


def test_folder_that_cannot_be_made_is_refused(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save(tmp_path / "file" / "saved", network)
