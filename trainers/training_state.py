"""The state of a training run between two epochs, written atomically."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwmodel.errors import CheckpointError
from trainers.method import Method

__all__ = ["load_training", "save_training"]


def save_training(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    method: Method,
    reports: list[dict[str, Any]],
) -> None:
    """Writes everything that the next epoch depends on; the old file stays until the new is whole.

    Args:
        path: the file.
        network: its weights and buffers.
        optimiser: its momenta.
        method: its own state (Z and U of ADMM, masks, layouts).
        reports: the epochs so far, as plain fields.
    """
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "method": method.name,
        "method_state": method.state_dict(),
        "reports": reports,
        "random": torch.get_rng_state(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_training(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, method: Method
) -> list[dict[str, Any]]:
    """Restores what `save_training` wrote; the method is attached already.

    Returns:
        The epochs done so far.

    Raises:
        CheckpointError: a file that is truncated, or of another network or method.
    """
    device = next(network.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable training state ({error})") from None
    if state["method"] != method.name:
        raise CheckpointError(f"{path}: of method {state['method']!r}, expected {method.name!r}")
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: of another network ({reason})") from None
    optimiser.load_state_dict(state["optimiser"])
    method.load_state_dict(state["method_state"])
    torch.set_rng_state(state["random"].cpu())
    reports: list[dict[str, Any]] = state["reports"]
    return reports
