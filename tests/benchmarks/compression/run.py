"""ADMM-NN's and the memristor framework's LeNet-5 on MNIST, at the ratios that they published.

    python tests/benchmarks/compression/run.py --data ../shared/data/mnist --seeds 3

Runs `crossfront compress` on `admm-nn.toml` and `memristor.toml` beside this file, once for each
seed (of the dense network and the candidate), and counts the non-zero integers of the export. A run
that was cut off goes on. Writes `results/compression.json`: by system the published ratio, ours,
and the points of accuracy lost against the same seed's dense network.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

HERE = Path(__file__).parent
RESULT = HERE.parent / "results" / "compression.json"
PUBLISHED = {"admm-nn": 71.2, "memristor": 17.69}
"""Pruning ratio of each, within 0.5 points (facts 5 and 4)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MNIST as IDX files")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if RESULT.exists():
        found = json.loads(RESULT.read_text(encoding="utf-8"))
    for seed in range(options.seeds):
        for system, ratio in PUBLISHED.items():
            entry = found.setdefault(system, {"published_ratio": ratio, "runs": []})
            if len(entry["runs"]) <= seed:
                entry["runs"].append(run(system, seed, options.data))
                entry["n"] = len(entry["runs"])
                for key in ("ratio", "points_lost"):
                    entry[key] = statistics.fmean(one[key] for one in entry["runs"])
                RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(system, seed, entry["runs"][-1], flush=True)


def run(system: str, seed: int, data: Path) -> dict[str, Any]:
    """One compression from one seed."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / f"{system}.toml"
        text = (HERE / config.name).read_text(encoding="utf-8")
        text = text.replace('path = "mnist"', f"path = {json.dumps(str(data.resolve()))}")
        text = re.sub(r"^seed = 0$", f"seed = {seed}", text, flags=re.MULTILINE)
        config.write_text(f'{text}\n[study]\nname = "{system}"\nseed = {seed}\n', encoding="utf-8")
        target = Path(scratch) / "out"
        command = [sys.executable, "-m", "search.cli", "compress", str(config), "--to", str(target)]
        printed = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE).stdout
        result = json.loads(printed)
        stored = load_file(target / "weights.safetensors")
        integers = [tensor for name, tensor in stored.items() if name.endswith("weight_q")]
    weights = sum(integer.numel() for integer in integers)
    return {
        "seed": seed,
        "accuracy": result["values"]["accuracy"],
        "dense_accuracy": result["dense"]["accuracy"],
        "points_lost": 100 * (result["dense"]["accuracy"] - result["values"]["accuracy"]),
        "ratio": weights / sum(int((integer != 0).sum()) for integer in integers),
        "adc_bits": result["adc_bits"],
        "area_ratio": result["ratio"]["area"],
        "power_ratio": result["ratio"]["power"],
    }


if __name__ == "__main__":
    main()
