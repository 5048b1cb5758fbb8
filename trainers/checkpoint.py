"""An integer network as a folder: `weights.safetensors` and `manifest.json`.

The folder alone rebuilds the network. It is written beside its final place and renamed into it, so
an interrupted write leaves nothing half done; digests in the manifest cover every other file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import CheckpointError, StorageError
from hwmodel.mapping import MatrixLayout
from hwmodel.segment_mask import SegmentMask
from trainers.config import NetworkConfig
from trainers.integer import ConvGeometry, IntegerLayer, install, integer_layers
from trainers.networks import build_network
from trainers.quantise import ActivationRange
from trainers.tracing import crossbar_modules

__all__ = [
    "MANIFEST",
    "WEIGHTS",
    "Checkpoint",
    "changed_files",
    "file_digest",
    "load_checkpoint",
    "read_manifest",
    "save_checkpoint",
    "writing_folder",
]

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1
_LAYER_TENSORS = ("weight_q", "weight_scale", "bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An integer network and what its manifest says."""

    network: nn.Module
    config: NetworkConfig
    input_shape: tuple[int, int, int]
    classes: int
    manifest: Mapping[str, Any]


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    config: NetworkConfig,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    facts: Mapping[str, Any],
) -> None:
    """Writes an integer network, replacing the folder if it exists.

    Args:
        folder: where to.
        network: finalised.
        config: the network's name and arguments, which rebuild its structure.
        input_shape: channels, height, width.
        classes: number of classes.
        facts: JSON of everything else to record (accuracy, cost, candidate, provenance).
    """
    tensors, layers = _layer_tensors(network)
    with writing_folder(folder) as draft:
        save_file(tensors, draft / WEIGHTS)
        manifest = {
            **facts,
            "format": FORMAT,
            "network": {
                "name": config.name,
                "arguments": dict(config.arguments),
                "input_shape": list(input_shape),
                "classes": classes,
            },
            "layers": layers,
        }
        write_manifest(draft, manifest)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest with fresh digests of every other file in the folder."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    digests = {path.name: file_digest(path) for path in files}
    text = json.dumps({**manifest, "digests": digests}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint or export folder.

    Raises:
        CheckpointError: not there, not JSON, or of another format version.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; expected a manifest") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: holds a {type(manifest).__name__}; expected a table")
    version = manifest.get("format")
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r}; this version reads {FORMAT}")
    for key in ("network", "layers", "digests"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError(f"{path}: {key!r} is missing")
    return manifest


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of the folder that are missing or no longer match the manifest's digests."""
    return [
        name
        for name, digest in manifest["digests"].items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The integer network of a folder, in evaluation mode.

    The tensors are taken as they stand in the file; holding them against the manifest's digests
    and certificates is `trainers.verify`'s work.

    Raises:
        CheckpointError: unreadable, truncated, or tensors that do not fit the network.
    """
    manifest = read_manifest(folder)
    try:
        tensors = load_file(folder / WEIGHTS, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not readable ({error})") from None
    try:
        described = manifest["network"]
        config = NetworkConfig(name=described["name"], arguments=described["arguments"])
        channels, height, width = described["input_shape"]
        input_shape = (channels, height, width)
        classes = described["classes"]
        network = build_network(config, input_shape, classes).to(device).eval()
        layers = {
            name: _read_layer(name, fields, tensors, folder)
            for name, fields in manifest["layers"].items()
        }
        _check_layers(network, layers, folder)
        install(network, layers)
        rest = {k.removeprefix("rest."): v for k, v in tensors.items() if k.startswith("rest.")}
        expected = set(_rest_tensors(network))
        if set(rest) != expected:
            odd = sorted(set(rest) ^ expected)[0]
            raise CheckpointError(f"{folder / WEIGHTS}: tensor {odd!r} is missing or not expected")
        network.load_state_dict(rest, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{folder}: does not describe a network ({reason})") from None
    return Checkpoint(
        network=network.eval(),
        config=config,
        input_shape=input_shape,
        classes=classes,
        manifest=manifest,
    )


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` once the block has ended without an error.

    Raises:
        StorageError: it cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        _open_to_others(draft)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(draft, folder)
    except (OSError, SafetensorError) as error:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{folder}: cannot be written ({reason})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Gives files the permissions that the user's mask asks for; safetensors keeps them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _layer_tensors(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for the file, and the JSON description of each layer."""
    tensors: dict[str, Tensor] = {}
    described: dict[str, Any] = {}
    for name, layer in integer_layers(network).items():
        for key in _LAYER_TENSORS:
            tensors[f"{name}.{key}"] = getattr(layer, key).cpu().contiguous()
        for key in ("kept_rows", "kept_outputs"):
            kept = getattr(layer.layout, key)
            if kept is not None:
                tensors[f"{name}.{key}"] = kept.cpu().contiguous()
        if layer.mask is not None:
            tensors[f"{name}.segment_factors"] = layer.mask.factors.cpu().contiguous()
        certificate = layer.certify()
        described[name] = {
            "spec": layer.spec.to_json(),
            "groups": layer.layout.groups,
            "block_size": layer.block_size,
            "adc_bits": certificate.adc_bits,
            "adc_bits_per_slice": list(layer.adc_bits_per_slice),
            "worst_sums": list(certificate.worst_sums),
            "witnesses": [asdict(witness) for witness in certificate.witnesses],
            "activations": asdict(layer.activations),
            "geometry": None if layer.geometry is None else asdict(layer.geometry),
            "mask_bits": 0 if layer.mask is None else layer.mask.bits,
        }
    rest = {f"rest.{key}": t.cpu().contiguous() for key, t in _rest_tensors(network).items()}
    return {**tensors, **rest}, described


def _rest_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers outside the crossbar layers (batch norm, ...)."""
    inside = tuple(f"{name}." for name in integer_layers(network))
    return {k: v for k, v in network.state_dict().items() if not k.startswith(inside)}


def _check_layers(network: nn.Module, layers: Mapping[str, IntegerLayer], folder: Path) -> None:
    """Holds the stored layers against those of the network.

    Raises:
        CheckpointError: naming a layer that is missing, not expected or of another shape.
    """
    modules = crossbar_modules(network)
    if set(modules) != set(layers):
        odd = sorted(set(modules) ^ set(layers))[0]
        raise CheckpointError(f"{folder}: layer {odd!r} is missing or not expected")
    for name, module in modules.items():
        layer = layers[name]
        expected = tuple(module.weight.shape)
        for key, shape in (
            ("weight_q", expected),
            ("weight_scale", expected[:1]),
            ("bias", expected[:1]),
        ):
            found = tuple(getattr(layer, key).shape)
            if found != shape:
                raise CheckpointError(
                    f"{folder}: tensor '{name}.{key}' has shape {found}, the network's has {shape}"
                )
        if layer.mask is not None:
            layer.mask.check_shape(f"{folder}: {name}", layer.layout, layer.spec)


def _read_layer(
    name: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> IntegerLayer:
    missing = [key for key in _LAYER_TENSORS if f"{name}.{key}" not in tensors]
    if missing:
        raise CheckpointError(f"{folder / WEIGHTS}: tensor '{name}.{missing[0]}' is missing")
    weight_q = tensors[f"{name}.weight_q"]
    dense = MatrixLayout.of(weight_q, fields["groups"])
    return IntegerLayer(
        weight_q=weight_q,
        weight_scale=tensors[f"{name}.weight_scale"],
        bias=tensors[f"{name}.bias"],
        activations=ActivationRange(**fields["activations"]),
        spec=CrossbarSpec.from_json(fields["spec"]),
        layout=MatrixLayout(
            groups=dense.groups,
            outputs=dense.outputs,
            rows=dense.rows,
            kept_rows=tensors.get(f"{name}.kept_rows"),
            kept_outputs=tensors.get(f"{name}.kept_outputs"),
        ),
        adc_bits_per_slice=tuple(fields["adc_bits_per_slice"]),
        block_size=fields.get("block_size", 1),
        geometry=_read_geometry(fields["geometry"]),
        mask=_read_mask(tensors.get(f"{name}.segment_factors"), fields.get("mask_bits", 0)),
    )


def _read_geometry(fields: Mapping[str, Any] | None) -> ConvGeometry | None:
    if fields is None:
        return None
    read: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    return ConvGeometry(**read)


def _read_mask(factors: Tensor | None, bits: int) -> SegmentMask | None:
    """A layer's mask; the manifest says how many bits a factor takes, or 0 where there is none."""
    if factors is None and bits == 0:
        return None
    if factors is None:
        raise KeyError("segment_factors")
    return SegmentMask(factors=factors, bits=bits)
