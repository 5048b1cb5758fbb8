"""Products of integers in floating point, every bit right.

Integers are exact in float32 below 2^24 and in float64 below 2^53. Where no sum of products can
leave that range, neither order of summation nor fused multiply-adds change the result, on a CPU as
on a GPU. Two things would: multiplying in a narrower type (TF32, bfloat16), which the settings of
torch may allow, and convolving by Winograd's or Fourier's transform, whose steps are fractions.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwmodel.errors import MappingError

__all__ = ["exact_convolution", "exact_dtype", "exact_product"]

_FLOAT32_EXACT = 1 << 24
_FLOAT64_EXACT = 1 << 53
_PATCHES_AT_ONCE = 1 << 22
"""Inputs of all kernel positions that are held at a time: 16 MB in float32."""


def exact_dtype(largest: int) -> torch.dtype:
    """The narrowest float that holds every integer up to `largest` and is multiplied as it is.

    Raises:
        MappingError: integers that no float holds.
    """
    if largest < _FLOAT32_EXACT and _float32_is_kept():
        return torch.float32
    if largest < _FLOAT64_EXACT:
        return torch.float64
    raise MappingError(f"sums up to {largest}; allowed: below 2^53, where float64 is exact")


def exact_product(inputs_q: Tensor, matrix_q: Tensor, input_limit: int) -> Tensor:
    """The integer product `[groups, vectors, outputs]`, as float32 or float64 of exact integers.

    Args:
        inputs_q: integers `[groups, vectors, rows]` within `0..input_limit`, any dtype.
        matrix_q: integer weights `[groups, outputs, rows]`.
        input_limit: largest input.

    Raises:
        MappingError: sums that float64 cannot hold.
    """
    dtype = exact_dtype(_largest_sum(matrix_q) * input_limit)
    return inputs_q.to(dtype) @ matrix_q.to(dtype).transpose(1, 2)


def exact_convolution(
    inputs_q: Tensor,
    weight_q: Tensor,
    input_limit: int,
    *,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """The integer convolution of padded inputs, as float32 or float64 of exact integers.

    Images are taken in chunks, so that the patches of inputs that some kernels unfold do not grow
    with the batch.

    Args:
        inputs_q: integers `[batch, channels, ...]` within `0..input_limit`, any dtype, with one
            axis or two to slide along.
        weight_q: integer weights `[outputs, channels / groups, ...]`.
        input_limit: largest input.
        stride: by axis.
        dilation: by axis.
        groups: groups of the convolution.

    Returns:
        `[batch, outputs, ...]`.

    Raises:
        MappingError: sums that float64 cannot hold.
    """
    dtype = exact_dtype(_largest_sum(weight_q.flatten(1)) * input_limit)
    weight = weight_q.to(dtype)
    patches = math.prod(inputs_q.shape[1:]) * math.prod(weight_q.shape[2:]) // math.prod(stride)
    convolve = functional.conv1d if weight.ndim == 3 else functional.conv2d
    chunks = inputs_q.split(max(1, _PATCHES_AT_ONCE // max(1, patches)))
    # Without NNPACK and cuDNN, torch multiplies directly or unfolds: neither transforms.
    with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
        return torch.cat(
            [
                convolve(chunk.to(dtype), weight, stride=stride, dilation=dilation, groups=groups)
                for chunk in chunks
            ]
        )


def _largest_sum(weight_q: Tensor) -> int:
    """Most that an output's weights of one sign add up to in magnitude, `[..., inputs]`.

    Inputs are unsigned, so that every sum of some of the products lies between the sum of all
    negative and that of all positive ones.
    """
    if weight_q.numel() == 0:
        return 0
    positive = weight_q.clamp(min=0).sum(dim=-1, dtype=torch.int64)
    negative = weight_q.clamp(max=0).sum(dim=-1, dtype=torch.int64)
    return max(int(positive.max()), -int(negative.min()))


def _float32_is_kept() -> bool:
    """Whether torch multiplies float32 in full, on any device."""
    onednn: Any = torch.backends.mkldnn  # has attributes that its types leave out
    settings = (onednn.conv, onednn.matmul, torch.backends.cuda.matmul)
    return all(setting.fp32_precision in ("none", "ieee") for setting in settings)
