"""Several tasks on one backbone: their classes, and the layers that they share.

The *head* of a network is its last crossbar layer, which has one output per class; everything
before it is the *backbone*.
"""

import torch
from torch import nn

from hwmodel.errors import ConfigError, SpecError
from trainers.tracing import crossbar_modules

__all__ = ["class_groups", "head_name", "transfer_backbone"]


def class_groups(classes: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Classes `0..classes-1` cut into tasks of `size` classes each, in order.

    Raises:
        ConfigError: a size below 2, or one that does not divide the classes.
    """
    if size < 2 or classes % size:
        raise ConfigError(f"tasks of {size} out of {classes} classes; allowed: a divisor, 2 up")
    return tuple(tuple(range(start, start + size)) for start in range(0, classes, size))


def head_name(network: nn.Module) -> str:
    """The name of a network's head."""
    return list(crossbar_modules(network))[-1]


@torch.no_grad()
def transfer_backbone(source: nn.Module, target: nn.Module) -> None:
    """Copies everything but the head from one network into another, which keeps its own head.

    Args:
        source: trained.
        target: the same network for another number of classes.

    Raises:
        SpecError: networks that differ in more than their head.
    """
    heads = tuple(f"{name}." for name in {head_name(source), head_name(target)})
    found, expected = source.state_dict(), target.state_dict()
    for name in sorted(set(found) ^ set(expected)):
        raise SpecError(
            f"tensor {name!r} is in one of two networks only; allowed: the same network"
        )
    for name, tensor in expected.items():
        if name.startswith(heads):
            continue
        if found[name].shape != tensor.shape:
            raise SpecError(
                f"tensor {name!r} has shape {tuple(found[name].shape)} in the backbone and "
                f"{tuple(tensor.shape)} in the task's network; allowed: equal but for the head"
            )
        tensor.copy_(found[name])
