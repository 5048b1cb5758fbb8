"""Export folders: checkpoint, sample images, ONNX and torch.export graphs.

The graphs compute the same integers as the crossbars: inputs coded, a convolution or linear
product of integer-valued weights, scales applied after. Both are run against the checkpoint on the
samples before they are written down as good.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import CheckpointError
from trainers.checkpoint import (
    MANIFEST,
    WEIGHTS,
    load_checkpoint,
    write_manifest,
    writing_folder,
)
from trainers.data import ImageSet
from trainers.fit import accuracy
from trainers.integer import CrossbarLayer
from trainers.quantise import quantise_activations

__all__ = ["ONNX_FILE", "PROGRAM_FILE", "SAMPLES_FILE", "export_folder", "onnx_logits"]

ONNX_FILE = "network.onnx"
PROGRAM_FILE = "network.pt2"
SAMPLES_FILE = "samples.safetensors"
_PROOF_IMAGES = 32


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
        CheckpointError: an unreadable checkpoint, a target that holds something else or cannot be
            written, or a graph whose results differ from the checkpoint's.
    """
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise CheckpointError(f"{target}: holds something else; allowed: a new or an export folder")
    checkpoint = load_checkpoint(source)
    images = samples.images.float().div(255)
    graph = _plain_graph(checkpoint.network)
    with writing_folder(target) as draft:
        (draft / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes())
        save_file(
            {"images": samples.images.contiguous(), "labels": samples.labels.contiguous()},
            draft / SAMPLES_FILE,
        )
        proof = images[:_PROOF_IMAGES]
        with torch.no_grad():
            expected = checkpoint.network(proof)
        _export_graphs(graph, proof, draft)
        _prove("torch.export", expected, _program_logits(draft / PROGRAM_FILE, proof))
        _prove("ONNX", expected, onnx_logits(draft / ONNX_FILE, proof))
        recorded = {"count": len(samples), "accuracy": accuracy(checkpoint.network, samples)}
        write_manifest(draft, {**checkpoint.manifest, **(facts or {}), "samples": recorded})
    return target


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
        weight = layer.weight_q.float()
        self.register_buffer("weight", weight)
        self.register_buffer("input_scale", source.input_scale.clone())
        self.register_buffer("zero_point", source.zero_point.clone())
        shape = (-1,) if self.geometry is None else (-1, 1, 1)
        offset = -layer.activations.zero_point * weight.flatten(1).sum(dim=1)
        self.register_buffer("offset", offset.reshape(shape))
        self.register_buffer("scale", source.output_scale.reshape(shape).clone())
        self.register_buffer("bias", source.bias.reshape(shape).clone())

    def forward(self, values: Tensor) -> Tensor:
        codes = quantise_activations(values, self.input_scale, self.zero_point, self.limit)
        if self.geometry is None:
            products = functional.linear(codes, self.weight)
        else:
            products = functional.conv2d(
                functional.pad(codes, self.geometry.padding, value=self.padding_code),
                self.weight,
                stride=self.geometry.stride,
                dilation=self.geometry.dilation,
                groups=self.groups,
            )
        return (products + self.offset) * self.scale + self.bias


def _plain_graph(network: nn.Module) -> nn.Module:
    """The network with every crossbar layer in plain operators."""
    plain = copy.deepcopy(network).cpu().eval()
    for name, module in list(plain.named_modules()):
        if isinstance(module, CrossbarLayer):
            parent_name, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent_name), attribute, _PlainLayer(module))
    return plain


def _export_graphs(graph: nn.Module, images: Tensor, folder: Path) -> None:
    """Writes the torch.export and ONNX files, both with a free batch size."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (images,), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / PROGRAM_FILE)
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


def _program_logits(path: Path, images: Tensor) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: Tensor = torch.export.load(path).module()(images)
    return logits


def _prove(what: str, expected: Tensor, found: Tensor) -> None:
    """Refuses a graph that classifies a sample differently, or whose logits are off."""
    error = float((expected - found).abs().max() / expected.abs().max())
    if error > 1e-3 or bool((expected.argmax(1) != found.argmax(1)).any()):
        raise CheckpointError(
            f"the {what} graph differs from the checkpoint by {error:.2g} of the largest logit; "
            "allowed: 0.001 and the same classes"
        )
