"""Uniform quantisers: symmetric weights per output, unsigned activations with a zero point."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ActivationRange", "quantise_activations", "quantise_weight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRange:
    """The affine code of a layer's inputs: `value = scale * (code - zero_point)`."""

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float, limit: int) -> "ActivationRange":
        """The code `0..limit` over `[low, high]`, stretched to hold zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / limit or 1.0
        return cls(scale=scale, zero_point=round(-low / scale))


def quantise_weight(weight: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Integers within `-limit..limit`, and one scale per output.

    The scale is applied digitally after shift-and-add, so it costs the crossbar nothing; a zero
    stays a zero.

    Args:
        weight: `[outputs, ...]`.
        limit: largest magnitude.

    Returns:
        int32 of the weight's shape, and float32 `[outputs]`.
    """
    largest = weight.detach().flatten(1).abs().amax(dim=1)
    smallest = torch.finfo(largest.dtype).tiny
    scale = torch.where(largest > 0, (largest / limit).clamp(min=smallest), 1.0)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return torch.round(weight.detach() / shaped).to(torch.int32), scale.float()


def quantise_activations(values: Tensor, scale: Tensor, zero_point: Tensor, limit: int) -> Tensor:
    """Integer codes `0..limit`, kept in the float type of `values`."""
    return (values / scale).round_().add_(zero_point).clamp_(0, limit)
