"""Float weights of a network, in and out of files."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwmodel.errors import CheckpointError

__all__ = ["load_weights", "save_weights"]


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes parameters and buffers as safetensors; the old file stays until the new is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.cpu().contiguous().clone() for key, value in network.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file or a state dict into a network, on the network's device.

    A `state_dict` inside a training checkpoint and the prefix `module.` are seen through; nothing
    but tensors is unpickled.

    Raises:
        CheckpointError: unreadable, or a tensor that is missing, not expected or of another shape.
    """
    found = dict(_read(path))
    expected = network.state_dict()
    if not set(expected) & set(found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    for key, tensor in expected.items():
        if key not in found:
            if key.endswith("num_batches_tracked"):
                found[key] = torch.zeros_like(tensor)
                continue
            raise CheckpointError(f"{path}: tensor {key!r} is missing")
        if found[key].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {key!r} has shape {tuple(found[key].shape)}, "
                f"the network's has {tuple(tensor.shape)}"
            )
    strange = sorted(set(found) - set(expected))
    if strange:
        raise CheckpointError(f"{path}: tensor {strange[0]!r} is not part of the network")
    network.load_state_dict(found)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a safetensors file or state dict")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    except Exception as error:  # torch reports a bad pickle in many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: not a state dict of tensors ({reason})") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"{path}: not a state dict of tensors")
    return content
