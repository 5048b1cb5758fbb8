"""How fast candidates are priced: ResNet-50 one by one, a 20-layer network in batches; one core.

    OMP_NUM_THREADS=1 python tests/benchmarks/cost_speed.py

Layers are mapped beforehand (their geometry is cached); each candidate's own crossbar sizes and
non-zeros differ. Writes `tests/benchmarks/results/cost_speed.json`: n, least, median and largest
of both, and prints the same.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.batch import BatchCostModel, CandidateBatch
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer

RESULT = Path(__file__).parent / "results" / "cost_speed.json"
SPECS = tuple(CrossbarSpec(wordlines=n, bitlines=n) for n in (64, 128, 256))
CANDIDATES = 20_000
SINGLE_REPEATS = 500
BATCH_REPEATS = 15


def main() -> None:
    model = CostModel(load_preset("isaac-8bit-weights"), adc_law("sar_split"))
    singles, batch = _resnet50_candidates(), _batch()
    vector = BatchCostModel(model)
    single_s = _times(lambda i: model.evaluate(singles[i % len(singles)]), SINGLE_REPEATS)
    batch_s = _times(lambda _: vector.evaluate(batch), BATCH_REPEATS)
    mapped_s = _times(lambda _: _batch(), BATCH_REPEATS)
    rates = [CANDIDATES / seconds for seconds in batch_s]
    found = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, one thread",
        "resnet50_layers": len(singles[0]),
        "resnet50_evaluate_s": _spread(single_s),
        "batch_layers": len(batch.shapes),
        "batch_candidates": CANDIDATES,
        "batch_candidates_per_s": _spread(rates),
        "batch_with_mapping_candidates_per_s": _spread(
            [CANDIDATES / (a + b) for a, b in zip(batch_s, mapped_s, strict=True)]
        ),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def _times(run: Callable[[int], object], repeats: int) -> list[float]:
    run(0)
    found = []
    for index in range(repeats):
        started = time.perf_counter()
        run(index)
        found.append(time.perf_counter() - started)
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


def _resnet50_candidates() -> list[list[MappedLayer]]:
    return [
        [
            plan_layer(shape, SPECS[(i + j) % 3], nonzeros=1 + (i * j) % 30)
            for j, shape in enumerate(_resnet50())
        ]
        for i in range(20)
    ]


def _resnet50() -> list[LayerShape]:
    """The convolutions and the classifier of ResNet-50 on 224 x 224 images."""
    found, inputs = [("stem", 147, 64, 112)], 64
    for stage, (width, blocks, side) in enumerate(
        ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))
    ):
        for block in range(blocks):
            before = side * 2 if block == 0 and stage > 0 else side
            name = f"{stage}.{block}"
            found += [
                (f"{name}.reduce", inputs, width, before),
                (f"{name}.mix", 9 * width, width, side),
                (f"{name}.expand", width, 4 * width, side),
            ]
            if block == 0:
                found.append((f"{name}.shortcut", inputs, 4 * width, side))
            inputs = 4 * width
    found.append(("classifier", inputs, 1000, 1))
    return [LayerShape(name=n, rows=r, outputs=o, positions=s * s) for n, r, o, s in found]


def _batch() -> CandidateBatch:
    """ResNet-20 on 32 x 32 images: 19 convolutions and the classifier."""
    sizes = [(27, 16, 32)] + [(144, 16, 32)] * 6
    sizes += [(144, 32, 16)] + [(288, 32, 16)] * 5 + [(288, 64, 8)] + [(576, 64, 8)] * 5
    sizes.append((64, 10, 1))
    shapes = [
        LayerShape(name=f"l{i}", rows=r, outputs=o, positions=s * s)
        for i, (r, o, s) in enumerate(sizes)
    ]
    draw = np.random.default_rng(0)
    size = (CANDIDATES, len(shapes))
    return CandidateBatch.planned(
        shapes, SPECS, draw.integers(0, 3, size), nonzeros=draw.integers(1, 65, size)
    )


if __name__ == "__main__":
    main()
