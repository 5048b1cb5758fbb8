"""Float weights of a network, in and out of files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwmodel.errors import CheckpointError
from trainers.tracing import crossbar_modules
from trainers.writing import writing_file

__all__ = ["head_name", "load_weights", "save_weights"]

_NESTED = ("state_dict", "model", "model_state_dict", "net")
"""Where training checkpoints keep the state dict, the first that is there."""
_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""Of DataParallel, Lightning, feature extractors and torch.compile, in any order and number."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes parameters and buffers as safetensors; the old file stays until the new is whole.

    Raises:
        StorageError: it cannot be written.
    """
    tensors = {key: value.cpu().contiguous().clone() for key, value in network.state_dict().items()}
    with writing_file(path) as draft:
        save_file(tensors, draft)


def load_weights(network: nn.Module, path: Path, *, reset_head: bool = False) -> None:
    """Loads a safetensors file or a state dict into a network, on the network's device.

    State dicts inside training checkpoints and the prefixes that wrappers leave are seen through;
    nothing but tensors is unpickled. On an error the network stays as it was.

    Args:
        network: what to load into.
        path: a `.safetensors` file, or a state dict that `torch.save` wrote.
        reset_head: leaves the last layer (`head_name`) as it is, whatever the file says of it.

    Raises:
        CheckpointError: unreadable, or a tensor that is missing, not expected or of another shape.
    """
    expected = network.state_dict()
    found = _without_prefixes(dict(_read(path)), set(expected))
    head = head_name(network)
    if reset_head:
        own = {key: value for key, value in expected.items() if key.startswith(f"{head}.")}
        found = {**{key: found[key] for key in found if not key.startswith(f"{head}.")}, **own}
    for key, tensor in expected.items():
        if key not in found and key.endswith("num_batches_tracked"):
            found[key] = torch.zeros_like(tensor)  # checkpoints older than PyTorch 0.4 have none
    missing = [key for key in expected if key not in found]
    strange = [key for key in found if key not in expected]
    if missing or strange:
        raise CheckpointError(f"{path}: {_difference(missing, sorted(strange))}")
    for key, tensor in expected.items():
        if found[key].shape != tensor.shape:
            hint = " (network.reset_head = true starts this layer afresh)"
            raise CheckpointError(
                f"{path}: tensor {key!r} has shape {tuple(found[key].shape)}, the network's has "
                f"{tuple(tensor.shape)}{hint if key.startswith(f'{head}.') else ''}"
            )
    network.load_state_dict(found)


def head_name(network: nn.Module) -> str:
    """The name of the last layer: the last that lies on a crossbar, in the order of modules.

    Raises:
        MappingError: no such layer.
    """
    return list(crossbar_modules(network))[-1]


def _without_prefixes(found: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The tensors by the network's names, without the prefixes of wrappers around it."""
    while not expected & set(found):
        prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _difference(missing: list[str], strange: list[str]) -> str:
    """Which names differ, the first few of them."""
    parts = []
    if missing:
        parts.append(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if strange:
        is_part = "is not part" if len(strange) == 1 else "are not part"
        parts.append(f"{_listed(strange)} {is_part} of the network")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more}"


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a safetensors file or state dict")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    except Exception:  # torch reports a bad pickle in many types, and at length
        content = None
    if isinstance(content, Mapping):
        nested = (content[key] for key in _NESTED if isinstance(content.get(key), Mapping))
        content = next(nested, content)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(
            f"{path}: not a state dict of tensors; allowed: safetensors, or what "
            "torch.save(network.state_dict(), FILE) writes"
        )
    return content
