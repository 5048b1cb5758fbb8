"""Digits under a bound on every segment's level sums: the arithmetic of `level-sum`.

An ADC of `b` bits reads a bit slice of a segment exactly if and only if the slice's levels sum to
at most `(2^b - 1) / (2^v - 1)` (`hwmodel.crossbar`). TinyADC's count bound is one way to get there;
this is the whole set. A magnitude is `sum_s place_s * digit_s` with `place_s = 2^(s * cell_bits)`.

Projection goes from the most significant slice down. Within a slice the squared error is convex in
each digit, so the best digits under a bound on their sum are the increments of largest gain
(proven: a separable convex problem under one sum is solved by its greedy). Across slices it is a
heuristic: an increment is taken only where the remainder is at least `threshold` of its place,
because a remainder just below a place can also be left to the slices underneath. Several
thresholds are tried and each segment keeps its best; `tests/benchmarks/projection_quality.py`
holds the result against the Lagrangian lower bound.

Source: ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import SpecError
from hwmodel.mapping import MatrixLayout, from_segments, outputs_at_once, to_segments

__all__ = [
    "THRESHOLDS",
    "choose_scale",
    "level_limits",
    "per_output",
    "project_levels",
    "project_weight",
    "refit_scale",
    "reproject_levels",
]

THRESHOLDS = (0.5, 0.6, 0.75, 0.9, 1.0)
"""Shares of a slice's place that a remainder must reach to earn an increment."""

_BISECTIONS = 14

_SCALE_FACTORS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.2)
"""Integer ranges tried by `choose_scale`, as shares of the largest weight's."""


def level_limits(spec: CrossbarSpec, adc_bits: int) -> int:
    """Largest level sum of a segment that an ADC of `adc_bits` reads exactly.

    Raises:
        SpecError: an encoding under which a zero weight is not a zero cell, or an ADC that cannot
            tell one level.
    """
    if spec.sign_encoding is not SignEncoding.DIFFERENTIAL:
        raise SpecError(
            f"level sums with {spec.sign_encoding} encoding; allowed: differential, where a zero "
            "weight is a zero cell"
        )
    limit = ((1 << adc_bits) - 1) // spec.digit_limit
    if limit < 1:
        raise SpecError(
            f"adc_bits is {adc_bits}; allowed: at least {spec.dac_bits}, which reads one level "
            f"under a {spec.dac_bits}-bit DAC"
        )
    return limit


def project_levels(
    values: Tensor, spec: CrossbarSpec, limit: int, thresholds: Sequence[float] = THRESHOLDS
) -> Tensor:
    """Nearest found integers whose level sums stay within the limit in every bit slice.

    Args:
        values: real weights in integer units, `[..., wordlines]`; a segment per row. Positive and
            negative ones lie on bitlines of their own.
        spec: the crossbar, differential.
        limit: largest level sum (`level_limits`).
        thresholds: rounding rules to try.

    Returns:
        Signed integers of the same shape, in the type of `values`.
    """
    rows = values.reshape(-1, values.shape[-1])
    positive = _project_polarity(rows.clamp(min=0), spec, limit, thresholds)
    negative = _project_polarity(-rows.clamp(max=0), spec, limit, thresholds)
    return (positive - negative).reshape(values.shape)


def reproject_levels(values: Tensor, anchor: Tensor, spec: CrossbarSpec) -> Tensor:
    """Integers near `values` no digit of which exceeds its digit in `anchor`; elementwise.

    Level sums stay within whatever `anchor`'s stay within: the cheap step between two projections.

    Args:
        values: real weights in integer units.
        anchor: signed integers of the same shape, in a float type.
        spec: the crossbar, differential.
    """
    caps = anchor.abs().to(torch.int32)
    rest = values * anchor.sign()  # negative where the sign has turned: nothing fits there
    total = torch.zeros_like(values)
    mask = (1 << spec.cell_bits) - 1
    for index in reversed(range(spec.slice_count)):
        shift = spec.cell_bits * index
        cap = ((caps >> shift) & mask).to(values.dtype)
        # Half a place up, as in the projection's mildest rule; the caps decide the rest.
        digit = torch.minimum(torch.floor(rest / (1 << shift) + 0.5).clamp_(min=0), cap)
        digit *= 1 << shift
        total += digit
        rest = rest - digit
    return total * anchor.sign()


def choose_scale(weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout, limit: int) -> Tensor:
    """The scale of each output under which projecting costs the least squared error.

    The largest weight need not reach the largest integer: where few levels fit, another range
    wastes fewer of them.

    Args:
        weight: `[outputs, inputs, ...]`.
        spec: the crossbar.
        layout: what is left of the layer.
        limit: largest level sum.

    Returns:
        `[outputs]`, in the type of `weight`; 1 for an output without weights.
    """
    largest = weight.detach().flatten(1).abs().amax(dim=1)
    unit = torch.where(largest > 0, largest / spec.weight_limit, torch.ones_like(largest))
    best_scale, best_error = unit, torch.full_like(unit, torch.inf)
    for factor in _SCALE_FACTORS:
        scale = unit / factor
        integers = project_weight(weight, scale, spec, layout, limit, thresholds=(0.6,))
        projected = integers * per_output(scale, weight)
        error = (weight - projected).square().flatten(1).sum(dim=1)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    return torch.where(largest > 0, best_scale, unit)


def refit_scale(weight: Tensor, integers: Tensor, scale: Tensor) -> Tensor:
    """The scale of each output under which given integers lie nearest to its weights.

    Args:
        weight: `[outputs, inputs, ...]`.
        integers: what it was projected to, of the same shape.
        scale: `[outputs]`, kept where all integers are zero.

    Returns:
        `[outputs]`, by least squares.
    """
    along = (weight * integers).flatten(1).sum(dim=1)
    power = integers.square().flatten(1).sum(dim=1)
    return torch.where(along > 0, along / power.clamp(min=1), scale)


def project_weight(
    weight: Tensor,
    scale: Tensor,
    spec: CrossbarSpec,
    layout: MatrixLayout,
    limit: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Tensor:
    """Integers, in the type and shape of `weight`, that the layer's ADCs read exactly.

    Args:
        weight: `[outputs, inputs, ...]`.
        scale: `[outputs]`; the value of one integer step.
        spec: the crossbar, differential.
        layout: what is left of the layer.
        limit: largest level sum.
        thresholds: rounding rules to try.
    """
    matrix = layout.pack(weight / per_output(scale, weight))
    pieces = [
        from_segments(
            project_levels(to_segments(piece, spec.wordlines), spec, limit, thresholds),
            matrix.shape[-1],
        )
        for piece in matrix.split(outputs_at_once(matrix), dim=1)
    ]
    return layout.unpack(torch.cat(pieces, dim=1), weight.shape)


def per_output(scale: Tensor, weight: Tensor) -> Tensor:
    """`scale`, `[outputs]`, shaped to broadcast over a weight tensor."""
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _project_polarity(
    values: Tensor, spec: CrossbarSpec, limit: int, thresholds: Sequence[float]
) -> Tensor:
    """`project_levels` of non-negative values, `[segments, wordlines]`."""
    best = _greedy(values, spec, limit, thresholds[0])
    error = (values - best).square().sum(dim=-1, keepdim=True)
    for threshold in thresholds[1:]:
        other = _greedy(values, spec, limit, threshold)
        other_error = (values - other).square().sum(dim=-1, keepdim=True)
        best = torch.where(other_error < error, other, best)
        error = torch.minimum(other_error, error)
    return best


def _greedy(values: Tensor, spec: CrossbarSpec, limit: int, threshold: float) -> Tensor:
    """Digits slice by slice, most significant first, under one rounding rule."""
    total = torch.zeros_like(values)
    for index in reversed(range(spec.slice_count)):
        place = float(1 << (spec.cell_bits * index))
        rule = threshold if index else 0.5
        levels = _best_digits((values - total) / place, spec.slice_limit(index), limit, rule)
        total = total + place * levels
    return total


def _best_digits(rest: Tensor, top: int, limit: int, threshold: float) -> Tensor:
    """Digits `0..top` of largest gain whose sum stays within `limit`.

    The gain of raising a digit from `j - 1` to `j` is `(rest - j + 1)^2 - (rest - j)^2`, which
    falls as `j` grows, so the largest gains are always a digit's first increments.
    """
    wanted = torch.floor(rest + (1 - threshold)).clamp_(0, top)
    full = (wanted.sum(dim=-1) > limit).nonzero().squeeze(-1)
    if len(full):
        wanted[full] = _crowded_digits(rest[full], wanted[full], limit)
    return wanted


def _crowded_digits(rest: Tensor, wanted: Tensor, limit: int) -> Tensor:
    """The best digits of segments, a row each, that want more than the limit.

    All increments above a common gain are taken: the gain is found by bisection, which is some
    times quicker than selecting. Where levels are left over, among increments that bisection could
    not tell apart, the selection is made exactly.
    """
    low = rest.new_zeros(len(rest), 1)
    raised = rest + 0.5  # increment j has half the gain `raised - j`
    high = raised.amax(dim=-1, keepdim=True)
    digits = torch.empty_like(rest)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        torch.sub(raised, middle, out=digits)
        torch.minimum(digits.floor_().clamp_(min=0), wanted, out=digits)
        over = digits.sum(dim=-1, keepdim=True) > limit
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    digits = torch.minimum((raised - high).floor_().clamp_(min=0), wanted)
    left = (digits.sum(dim=-1) < limit).nonzero().squeeze(-1)
    if len(left):
        digits[left] = _selected_digits(rest[left], wanted[left], limit)
    return digits


def _selected_digits(rest: Tensor, wanted: Tensor, limit: int) -> Tensor:
    """As `_crowded_digits`, by selecting the `limit` largest gains among all increments."""
    steps = torch.arange(1, int(wanted.max()) + 1, dtype=rest.dtype, device=rest.device)
    gains = (2 * (rest[..., None] - steps) + 1).masked_fill(steps > wanted[..., None], -torch.inf)
    at = gains.flatten(-2).topk(limit, dim=-1, sorted=False).indices
    taken = torch.zeros_like(gains).flatten(-2).scatter_(-1, at, 1.0)
    digits: Tensor = taken.unflatten(-1, (-1, len(steps))).sum(dim=-1)
    return digits
