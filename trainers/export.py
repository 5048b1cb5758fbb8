"""Export folders: checkpoint, sample images, ONNX and torch.export graphs.

The graphs compute the same integers as the crossbars: inputs coded, a convolution or linear
product of integer-valued weights, scales applied after. Both are run against the checkpoint on the
samples before they are written down as good: layer by layer on equal inputs, and as a whole. ONNX
needs the extra `export`; without it that graph is left out.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import CheckpointError
from hwmodel.extras import missing
from trainers.checkpoint import (
    MANIFEST,
    WEIGHTS,
    load_checkpoint,
    read_manifest,
    write_manifest,
    writing_folder,
)
from trainers.data import ImageSet
from trainers.fit import accuracy
from trainers.integer import CrossbarLayer
from trainers.progress import track
from trainers.quantise import quantise_activations

__all__ = [
    "ONNX_FILE",
    "PROGRAM_FILE",
    "SAMPLES_FILE",
    "check_target",
    "export_folder",
    "onnx_logits",
    "plain_network",
    "prove",
]

ONNX_FILE = "network.onnx"
PROGRAM_FILE = "network.pt2"
SAMPLES_FILE = "samples.safetensors"
_PROOF_IMAGES = 32
_GRAPH_STEPS = 3


def export_folder(
    source: Path, target: Path, samples: ImageSet, facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes an export folder from a checkpoint folder.

    Args:
        source: checkpoint folder.
        target: export folder; replaced if it exists.
        samples: test images that travel with it, so that `verify` needs nothing else.
        facts: more JSON for the manifest.

    Raises:
        CheckpointError: an unreadable checkpoint, a target that holds something else, or a graph
            whose results differ from the checkpoint's.
        StorageError: a target that cannot be written.
    """
    check_target(target)
    checkpoint = load_checkpoint(source)
    images = samples.images.float().div(255)
    with writing_folder(target) as draft:
        (draft / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes())
        save_file(
            {"images": samples.images.contiguous(), "labels": samples.labels.contiguous()},
            draft / SAMPLES_FILE,
        )
        proof = images[:_PROOF_IMAGES].repeat(2 if len(images) == 1 else 1, 1, 1, 1)
        with torch.no_grad():
            expected = checkpoint.network(proof)
        graphs = _export_graphs(plain_network(checkpoint.network, proof), proof, draft)
        for _ in track(graphs, "export of graphs, steps", _GRAPH_STEPS):
            pass
        prove("torch.export", expected, _program_logits(draft / PROGRAM_FILE, proof))
        if not missing("export"):
            prove("ONNX", expected, onnx_logits(draft / ONNX_FILE, proof))
        recorded = {"count": len(samples), "accuracy": accuracy(checkpoint.network, samples)}
        write_manifest(draft, {**checkpoint.manifest, **(facts or {}), "samples": recorded})
    return target


def check_target(target: Path, origin: str | None = None) -> None:
    """Refuses a folder to export to that holds anything but an earlier export.

    Args:
        target: the folder.
        origin: `origin` in the manifest of exports that may be replaced: those of the same network
            (default: any export may).

    Raises:
        CheckpointError: naming the folder and what it holds.
    """
    if (target / MANIFEST).is_file():
        if origin is not None and (there := read_manifest(target)).get("origin") != origin:
            raise CheckpointError(
                f"{target}: holds another export ({_described(there)}); allowed: another folder, "
                "or the same network again; force replaces it"
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: holds something else; allowed: a new or an export folder")


def _described(manifest: Mapping[str, Any]) -> str:
    """Which export a manifest is of, in a few words."""
    study = manifest.get("study")
    if study is not None:
        return f"trial {study['trial']} of study {study['name']}"
    accuracy = manifest.get("accuracy")
    said = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    return f"{manifest['network'].get('name')}, method {manifest.get('method')}{said}"


def onnx_logits(path: Path, images: Tensor) -> Tensor:
    """Logits of an exported ONNX file under onnxruntime, float32 `[batch, classes]`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.from_numpy(session.run(None, {name: images.numpy()})[0])


class _PlainLayer(nn.Module):
    """A crossbar layer in operators that every runtime has; integers stay exact up to 2^24."""

    weight: Tensor
    input_scale: Tensor
    zero_point: Tensor
    offset: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, source: CrossbarLayer) -> None:
        super().__init__()
        layer = source.layer
        self.geometry = layer.geometry
        self.groups = layer.layout.groups
        self.limit = layer.spec.input_limit
        self.padding_code = float(layer.activations.zero_point)
        weight = layer.unpacked_weight.float()
        self.register_buffer("weight", weight)
        self.register_buffer("input_scale", source.input_scale.clone())
        self.register_buffer("zero_point", source.zero_point.clone())
        shape = (-1, *[1] * (weight.ndim - 2))
        offset = -layer.activations.zero_point * weight.flatten(1).sum(dim=1)
        self.register_buffer("offset", offset.reshape(shape))
        self.register_buffer("scale", source.output_scale.reshape(shape).clone())
        self.register_buffer("bias", source.bias.reshape(shape).clone())

    def forward(self, values: Tensor) -> Tensor:
        codes = quantise_activations(values, self.input_scale, self.zero_point, self.limit)
        if self.geometry is None:
            products = functional.linear(codes, self.weight)
        else:
            convolve = functional.conv1d if self.weight.ndim == 3 else functional.conv2d
            products = convolve(
                self.geometry.pad(codes, self.padding_code),
                self.weight,
                stride=self.geometry.stride,
                dilation=self.geometry.dilation,
                groups=self.groups,
            )
        return (products + self.offset) * self.scale + self.bias


def plain_network(network: nn.Module, images: Tensor) -> nn.Module:
    """The network with every crossbar layer in plain operators, each proved on these images.

    Raises:
        CheckpointError: naming the layer that computes something else.
    """
    plain = copy.deepcopy(network).cpu().eval()
    for name, module in list(plain.named_modules()):
        if isinstance(module, CrossbarLayer):
            parent_name, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent_name), attribute, _PlainLayer(module))
    _prove_layers(network, plain, images)
    return plain


def _export_graphs(graph: nn.Module, images: Tensor, folder: Path) -> Iterator[None]:
    """Writes the torch.export file and, with the extra for it, ONNX's; with a free batch size."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (images,), dynamic_shapes=({0: batch},))
        yield
        torch.export.save(program, folder / PROGRAM_FILE)
        yield
        if missing("export"):
            return
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            program,
            (),
            str(folder / ONNX_FILE),
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
        yield


def _program_logits(path: Path, images: Tensor) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: Tensor = torch.export.load(path).module()(images)
    return logits


@torch.no_grad()
def _prove_layers(network: nn.Module, graph: nn.Module, images: Tensor) -> None:
    """Refuses a plain layer that differs from its crossbar layer on that layer's own inputs.

    Raises:
        CheckpointError: naming the layer.
    """
    plain = dict(graph.named_modules())

    def compare(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], expected: Tensor) -> None:
            found = plain[name](inputs[0])
            if not torch.allclose(
                found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max())
            ):
                raise CheckpointError(f"{name}: the exported layer computes something else")

        return hook

    layers = {n: m for n, m in network.named_modules() if isinstance(m, CrossbarLayer)}
    handles = [module.register_forward_hook(compare(name)) for name, module in layers.items()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()


def prove(what: str, expected: Tensor, found: Tensor) -> None:
    """Refuses a graph whose logits are off, beyond codes that round differently on an edge.

    Raises:
        CheckpointError: naming the graph and its error.
    """
    errors = (expected - found).abs().amax(dim=1) / expected.abs().max()
    differing = int((expected.argmax(1) != found.argmax(1)).sum())
    if float(errors.median()) > 1e-3 or differing > max(1, len(expected) // 20):
        raise CheckpointError(
            f"the {what} graph differs from the checkpoint: {differing} of {len(expected)} images "
            f"are classified differently, median error {float(errors.median()):.2g} of the largest "
            "logit"
        )
