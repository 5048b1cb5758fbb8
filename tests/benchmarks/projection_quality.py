"""How near `project_levels` comes to the best digits there are, and how far the count bound lies.

    OMP_NUM_THREADS=1 python tests/benchmarks/projection_quality.py [--segments 200]

Segments of 128 wordlines and one polarity, 7-bit magnitudes in 2-bit cells, weights Gaussian or
Laplacian with the largest of 3.2 or 6 standard deviations at the integer limit. The least squared
error under the level sums of all slices is bounded below by its Lagrangian dual, which separates
over the weights: for prices `p` of a level in each slice,

    sum_w min_m [ (x_w - m)^2 + p . digits(m) ] - limit * sum(p)     for every p >= 0,

maximised by raising the prices of slices that are overfull. Writes
`tests/benchmarks/results/projection_quality.json`: mean error of the bound, of the projection and
of the count bound at the same ADC, and their ratios.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, largest_lossless_count
from hwmodel.mapping import MatrixLayout
from trainers.constraints import BitlineCount
from trainers.level_sum import level_limits, project_levels

RESULT = Path(__file__).parent / "results" / "projection_quality.json"
SPEC = CrossbarSpec()
ADC_BITS = (3, 4, 5, 6, 7)
DEVIATIONS = {"gaussian": 3.2, "laplacian": 6.0}
"""Standard deviations that the largest integer stands for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "segments": options.segments,
        **{
            kind: {str(bits): measure(segments(kind, options.segments), bits) for bits in ADC_BITS}
            for kind in DEVIATIONS
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def segments(kind: str, count: int) -> Tensor:
    """Magnitudes of one polarity in integer units, `[segments, wordlines]`; half are zero."""
    torch.manual_seed(0)
    size = (count, SPEC.wordlines)
    if kind == "gaussian":
        drawn = torch.randn(size)
    else:
        drawn = torch.distributions.Laplace(0.0, 0.5**0.5).sample(size)
    return (drawn * SPEC.weight_limit / DEVIATIONS[kind]).clamp(0, SPEC.weight_limit)


def measure(values: Tensor, adc_bits: int) -> dict[str, float]:
    limit = level_limits(SPEC, adc_bits)
    bound = BitlineCount(largest_lossless_count(adc_bits))
    counted = bound.project(values, SPEC, MatrixLayout.of(values)).round()
    errors = {
        "lower_bound": dual_bound(values, limit),
        "level_sum": squared_error(project_levels(values, SPEC, limit), values),
        "count": squared_error(counted, values),
    }
    mean = {name: float(error.mean()) for name, error in errors.items()}
    return {
        **mean,
        "level_sum_over_bound": mean["level_sum"] / mean["lower_bound"],
        "count_over_level_sum": mean["count"] / mean["level_sum"],
    }


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().sum(dim=-1)


def dual_bound(values: Tensor, limit: int, rounds: int = 400) -> Tensor:
    """The best dual value of each segment: no digits within the limit have a smaller error."""
    magnitudes = torch.arange(SPEC.weight_limit + 1)
    mask = (1 << SPEC.cell_bits) - 1
    shifts = torch.arange(SPEC.slice_count) * SPEC.cell_bits
    digits = (magnitudes[:, None] >> shifts & mask).float()  # [magnitudes, slices]
    errors = (values[..., None] - magnitudes).square()
    prices = torch.ones(len(values), SPEC.slice_count) * 4.0 ** torch.arange(SPEC.slice_count)
    best = torch.zeros(len(values))  # prices of zero give the rounding error, at least 0
    for step in range(rounds):
        least, chosen = (errors + (prices @ digits.T)[:, None, :]).min(dim=-1)
        best = torch.maximum(best, least.sum(dim=-1) - limit * prices.sum(dim=-1))
        use = digits[chosen].sum(dim=1)
        pull = (use / limit).clamp(0.3, 3).log() * 2 / (1 + 0.15 * step)
        prices = (prices * pull.exp()).clamp(min=1e-4)
    return best


if __name__ == "__main__":
    main()
