"""Signed integers to the cell levels of their bit slices, per sign encoding, and back.

Slices are ordered least significant first; polarities positive first.
"""

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError

__all__ = ["decode_levels", "encode_levels"]


def encode_levels(matrix: Tensor, spec: CrossbarSpec) -> Tensor:
    """Cell levels, uint8 `[groups, outputs, polarities * slices, rows]`.

    Flipping depends on whole segments and is left to the mapping: for `FLIPPED` these are the
    offset levels.

    Args:
        matrix: integer weights `[groups, outputs, rows]`.
        spec: the number formats.

    Raises:
        MappingError: not integers, or a magnitude above `spec.weight_limit`.
    """
    if matrix.is_floating_point() or matrix.is_complex():
        raise MappingError(f"weights are {matrix.dtype}; allowed: integers")
    largest = max(-int(matrix.min()), int(matrix.max())) if matrix.numel() else 0
    if largest > spec.weight_limit:
        raise MappingError(
            f"a weight of magnitude {largest}; allowed with {spec.weight_bits}-bit weights: "
            f"at most {spec.weight_limit}"
        )
    matrix = matrix.to(torch.int32)
    if spec.sign_encoding is SignEncoding.DIFFERENTIAL:
        stored = torch.stack((matrix.clamp(min=0), (-matrix).clamp(min=0)), dim=2)
    else:
        stored = (matrix + spec.zero_code).unsqueeze(2)
    mask = (1 << spec.cell_bits) - 1
    slices = [((stored >> (spec.cell_bits * s)) & mask).byte() for s in range(spec.slice_count)]
    return torch.stack(slices, dim=3).flatten(2, 3)


def decode_levels(levels: Tensor, spec: CrossbarSpec) -> Tensor:
    """The int32 weights `[groups, outputs, rows]` that `encode_levels` sliced."""
    per_polarity = levels.unflatten(2, (spec.polarity_count, spec.slice_count)).to(torch.int32)
    shifts = torch.arange(spec.slice_count, device=levels.device) * spec.cell_bits
    placed = per_polarity << shifts[:, None].to(torch.int32)
    stored: Tensor = placed.sum(dim=3, dtype=torch.int32)
    if spec.sign_encoding is SignEncoding.DIFFERENTIAL:
        return stored[:, :, 0] - stored[:, :, 1]
    return stored[:, :, 0] - spec.zero_code
