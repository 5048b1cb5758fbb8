"""What each technique of ReBoc saves, counted over whole networks.

    python tests/benchmarks/circulant_techniques.py

LeNet-5 and ResNet-20 with block-circulant layers of side 4, 8, 16 and 32 on 128 x 128 crossbars:
cells, crossbars, utilisation, cycles, buffer reads and conversions of one inference, for the dense
mapping, without any technique, with each alone, without each, and with all. The first layer, which
sees the image, stays dense. Writes `tests/benchmarks/results/circulant_techniques.json` and prints
every count as a multiple of the dense mapping's.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hwmodel.circulant import CirculantCounts, technique_table
from hwmodel.crossbar import CrossbarSpec
from trainers.config import NetworkConfig
from trainers.networks import build_network
from trainers.tracing import layer_shapes

RESULT = Path(__file__).parent / "results" / "circulant_techniques.json"
NETWORKS = {"lenet5": (1, 28, 28), "resnet20": (3, 32, 32)}
SIDES = (4, 8, 16, 32)
SPEC = CrossbarSpec()


def main() -> None:
    found = {name: {f"side {side}": count(name, side) for side in SIDES} for name in NETWORKS}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, sides in found.items():
        for side, rows in sides.items():
            print(f"{name}, {side}: times the dense mapping")
            for row, counts in rows.items():
                shares = (f"{key} {counts[key] / rows['dense'][key]:.3f}" for key in counts)
                print(f"  {row:24} " + "  ".join(shares))


def count(name: str, side: int) -> dict[str, dict[str, float]]:
    """The technique table of a network, summed over its layers."""
    shape = NETWORKS[name]
    shapes = list(layer_shapes(build_network(NetworkConfig(name=name), shape, 10), shape).values())
    tables = [
        technique_table(layer, SPEC, side if layer is not shapes[0] else 1) for layer in shapes
    ]
    return {row: total([table[row] for table in tables]) for row in tables[0]}


def total(layers: Sequence[CirculantCounts]) -> dict[str, float]:
    """Sums over layers; the utilisation is that of all their crossbars."""
    summed = {key: sum(asdict(layer)[key] for layer in layers) for key in asdict(layers[0])}
    cells = summed["crossbars"] * SPEC.wordlines * SPEC.bitlines
    return {**summed, "utilisation": summed["cells"] / cells}


if __name__ == "__main__":
    main()
