"""The state of a training run between two epochs, written atomically."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwmodel.errors import CheckpointError
from trainers.method import Method
from trainers.writing import writing_file

__all__ = ["load_training", "save_training"]


def save_training(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    method: Method,
    settings: Mapping[str, Any],
    reports: list[dict[str, Any]],
) -> None:
    """Writes everything that the next epoch depends on; the old file stays until the new is whole.

    Args:
        path: the file.
        network: its weights and buffers.
        optimiser: its momenta.
        method: its own state (Z and U of ADMM, masks, layouts).
        settings: what the schedule depends on; a resumed run must have the same.
        reports: the epochs so far, as plain fields.

    Raises:
        StorageError: it cannot be written.
    """
    state = {
        "settings": dict(settings),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "method": method.name,
        "method_state": method.state_dict(),
        "reports": reports,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    serialised = io.BytesIO()  # torch says nothing of a full disk
    torch.save(state, serialised)
    with writing_file(path) as draft:
        draft.write_bytes(serialised.getbuffer())


def load_training(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    method: Method,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Restores what `save_training` wrote; the method is attached already.

    Returns:
        The epochs done so far.

    Raises:
        CheckpointError: a file that is truncated, or of another network, method or schedule.
    """
    device = next(network.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from None
    try:
        if state["method"] != method.name:
            raise CheckpointError(
                f"{path}: of method {state['method']!r}, expected {method.name!r}"
            )
        if state["settings"] != dict(settings):
            raise CheckpointError(f"{path}: of another schedule, {state['settings']}")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        method.load_state_dict(state["method_state"])
        torch.set_rng_state(state["random"].cpu())
        for index, random in enumerate(state["random_cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(random.cpu(), index)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{path}: not the state of this training ({reason})") from None
    reports: list[dict[str, Any]] = state["reports"]
    return reports
