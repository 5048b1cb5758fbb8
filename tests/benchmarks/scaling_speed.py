"""How the certificate and the projections grow with the weights: an 11-million-weight network.

    OMP_NUM_THREADS=1 python tests/benchmarks/scaling_speed.py

ResNet-18's convolutions for ImageNet and its classifier (11.7 million weights), Gaussian, on
128x128 crossbars; then the same network with 4 and 16 times the outputs in every layer. One core.
Writes `tests/benchmarks/results/scaling_speed.json`: n, least, median and largest seconds of the
whole network's certificate and of its projections at 5 ADC bits, and each as a multiple of 1x.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarSpec, largest_lossless_count
from hwmodel.mapping import MatrixLayout
from trainers.constraints import BitlineCount
from trainers.level_sum import level_limits, project_weight
from trainers.quantise import quantise_weight

RESULT = Path(__file__).parent / "results" / "scaling_speed.json"
SPEC = CrossbarSpec()
ADC_BITS = 5
# (outputs, inputs, kernel side, how often): ResNet-18, He et al., CVPR 2016, Table 1.
LAYERS = (
    (64, 3, 7, 1),
    (64, 64, 3, 4),
    (128, 64, 3, 1),
    (128, 64, 1, 1),
    (128, 128, 3, 3),
    (256, 128, 3, 1),
    (256, 128, 1, 1),
    (256, 256, 3, 3),
    (512, 256, 3, 1),
    (512, 256, 1, 1),
    (512, 512, 3, 3),
    (1000, 512, 1, 1),
)
REPEATS = {1: 5, 4: 3, 16: 3}


def main() -> None:
    torch.set_num_threads(1)
    found = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "adc_bits": ADC_BITS,
        "scales": {f"{factor}x": measure(factor) for factor in REPEATS},
    }
    first = found["scales"]["1x"]
    for scale in found["scales"].values():
        scale["times_1x"] = {
            key: scale[key]["median"] / first[key]["median"]
            for key in ("certificate_s", *WORK)
            if key in scale
        }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def measure(factor: int) -> dict:
    """Seconds for the whole network with `factor` times the outputs."""
    weights = network(factor)
    integers = [quantise_weight(weight, SPEC.weight_limit)[0] for weight in weights]
    scales = [quantise_weight(weight, SPEC.weight_limit)[1] for weight in weights]
    repeats = REPEATS[factor]
    found = {
        "weights": sum(weight.numel() for weight in weights),
        "certificate_s": spread(lambda: [certify(w, SPEC) for w in integers], repeats),
    }
    for key, project in WORK.items():
        if key == "level_sum_projection_s" and factor > 4:
            continue  # minutes
        found[key] = spread(lambda run=project: run(weights, scales), repeats)
    return found


def network(factor: int) -> list[Tensor]:
    """Weights of every layer, `[outputs, inputs, side, side]`."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(factor * outputs, inputs, side, side, generator=generator)
        for outputs, inputs, side, count in LAYERS
        for _ in range(count)
    ]


def _project_counts(weights: Sequence[Tensor], _scales: Sequence[Tensor]) -> None:
    bound = BitlineCount(largest_lossless_count(ADC_BITS))
    for weight in weights:
        bound.project(weight, SPEC, MatrixLayout.of(weight))


def _project_levels(weights: Sequence[Tensor], scales: Sequence[Tensor]) -> None:
    limit = level_limits(SPEC, ADC_BITS)
    for weight, scale in zip(weights, scales, strict=True):
        project_weight(weight, scale, SPEC, MatrixLayout.of(weight), limit)


WORK = {"count_projection_s": _project_counts, "level_sum_projection_s": _project_levels}


def spread(run: Callable[[], object], repeats: int) -> dict[str, float]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return {
        "n": repeats,
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
    }


if __name__ == "__main__":
    main()
