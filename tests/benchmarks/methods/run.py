"""Every method at equal ADC bits: accuracy of the finalised integer network, and what it costs.

    python tests/benchmarks/methods/run.py lenet5 --data ../shared/data/fashion-mnist --seeds 3
    python tests/benchmarks/methods/run.py resnet20 --data ../shared/data/cifar10 \
        --checkpoint ../shared/data/weights/resnet20a_cifar10jpeg_finetuned.safetensors

Runs what is not there yet, one after the other, each written at once to `results/NAME/`, so that a
run that was cut off goes on where it stopped; `--only ARM` and `--bits` choose a part. Then writes
`results/NAME.parquet` and `results/NAME.md` from all that is there.

128 wordlines, 2-bit cells, 8-bit weights in differential pairs. All arms start from the same dense
weights (those called reconstructed are fitted to the dense layers' outputs on 256 images first) and
train as long on the same images; the first layer is left alone. An arm with a bound is
held to the ADC resolution of its row (level-sum, tinyadc, the hybrid); the others keep as many
weights as the count bound does, or a fixed share (row 0), and need the ADCs that they need.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import torch

from hwmodel.crossbar import largest_lossless_count
from hwmodel.layers import layer_from_json, split_layers
from search.config import StudyConfig, load_config
from search.evaluate import Evaluation, Problem, evaluate, load_problem, train_dense
from search.report import ratios
from spaces.candidate import Candidate, LayerSetting

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORDLINES = 128


class Arm(NamedTuple):
    """One way to prune, at every ADC resolution."""

    method: str
    setting: Callable[[int], dict[str, Any]]
    """A layer's setting at some ADC bits."""
    settings: Mapping[str, Any] = MappingProxyType({})
    """Of the method."""
    trained: bool = True
    reconstructed: bool = False
    """Whether its layers are fitted to the dense layers' outputs, before any training."""
    by_bits: bool = True
    """Whether its setting depends on the ADC bits; otherwise it runs once, as row 0."""


def _count(bits: int) -> dict[str, Any]:
    return {"nonzeros": largest_lossless_count(bits)}


def _levels(bits: int) -> dict[str, Any]:
    return {"adc_bits": bits}


def _share(bits: int) -> dict[str, Any]:
    """As many weights as the count bound keeps, over both polarities."""
    return {"kept_weights": min(1.0, 2 * largest_lossless_count(bits) / WORDLINES)}


def _half(_: int) -> dict[str, Any]:
    """Half of the rows and outputs."""
    return {"kept_shapes": 0.5, "kept_filters": 0.5}


STRAIGHT = {"training": "straight-through"}
ARMS = {
    "level-sum": Arm("level-sum", _levels),
    "tinyadc": Arm("tinyadc", _count, STRAIGHT),
    "tinyadc-admm": Arm("tinyadc", _count),
    "level-sum untrained": Arm("level-sum", _levels, trained=False),
    "tinyadc untrained": Arm("tinyadc", _count, STRAIGHT, trained=False),
    "level-sum reconstructed": Arm("level-sum", _levels, reconstructed=True),
    "tinyadc reconstructed": Arm("tinyadc", _count, STRAIGHT, reconstructed=True),
    "level-sum reconstructed untrained": Arm(
        "level-sum", _levels, trained=False, reconstructed=True
    ),
    "tinyadc reconstructed untrained": Arm(
        "tinyadc", _count, STRAIGHT, trained=False, reconstructed=True
    ),
    "magnitude": Arm("magnitude", _share),
    "bitslice-l1 hybrid": Arm("bitslice-l1", _count),
    "dub": Arm("dub", _share),
    "admm-nn": Arm("admm-nn", lambda bits: {**_share(bits), "weight_levels": 31}),
    "memristor": Arm("memristor", _half, by_bits=False),
    "circulant": Arm("circulant", lambda _: {"block_size": 8}, by_bits=False),
    "structured": Arm("structured", _half, by_bits=False),
    "dense quantised": Arm("dense", lambda _: {}, trained=False, by_bits=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.toml")))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--bits", nargs="*", type=int, default=[5, 4, 3, 6, 7])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    options = parser.parse_args()
    folder = RESULTS / options.name
    folder.mkdir(parents=True, exist_ok=True)
    network = {"checkpoint": str(options.checkpoint)} if options.checkpoint else {}
    config = load_config(
        HERE / f"{options.name}.toml", {"data": {"path": str(options.data)}, "network": network}
    )
    torch.set_num_threads(config.train.threads)
    problem = load_problem(config)
    weights = options.work / f"{options.name}.safetensors"
    dense = _dense(problem, folder / "dense.json", weights)
    for seed in range(options.seeds):
        for bits in [*options.bits, 0]:
            for name in (arm for arm in options.only if ARMS[arm].by_bits == bool(bits)):
                target = folder / f"{name.replace(' ', '_')}-{bits}-{seed}.json"
                if not target.exists():
                    row = run(problem, name, bits, seed, weights)
                    target.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
                    print(name, bits, seed, row["accuracy"], flush=True)
    write_tables(options.name, config, dense)


def _dense(problem: Problem, record: Path, weights: Path) -> Evaluation:
    """The dense baseline: trained once, or loaded."""
    if record.exists() and weights.exists():
        return Evaluation.from_json(json.loads(record.read_text(encoding="utf-8")))
    weights.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = train_dense(problem, weights, Path(scratch) / "dense")
    record.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
    return found


def run(problem: Problem, name: str, bits: int, seed: int, weights: Path) -> dict[str, Any]:
    """One arm at one resolution, from one seed."""
    arm, config = ARMS[name], problem.config
    entry = type(config.method_config(arm.method))
    train = replace(config.train, reconstruct=arm.reconstructed)
    train = train if arm.trained else replace(train, epochs=0)
    config = replace(
        config, methods={**config.methods, arm.method: entry(**arm.settings)}, train=train
    )
    if config.method_name == arm.method:
        config = replace(config, method=entry(**arm.settings))
    setting = LayerSetting(**arm.setting(bits))
    candidate = Candidate(
        network=config.network.name,
        method=arm.method,
        plan=problem.dense_plan(),
        layers=dict.fromkeys(list(problem.shapes)[1:], setting),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        found = evaluate(
            replace(problem, config=config), candidate, weights, Path(scratch) / "checkpoint"
        )
    stored = [layer_from_json(layer) for layer in found.layers]
    return {
        "arm": name,
        "bits": bits,
        "seed": seed,
        "epochs": train.epochs,
        "status": found.status,
        "reason": found.reason,
        "accuracy": found.values.get("accuracy"),
        "values": dict(found.values),
        "adc_bits": dict(found.adc_bits),
        "crossbars": sum(x.crossbars for x in split_layers(stored)[0]),
        "seconds": dict(found.seconds),
    }


def write_tables(name: str, config: StudyConfig, dense: Evaluation) -> None:
    """One Parquet table of all runs, one Markdown table of their means."""
    rows = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((RESULTS / name).glob("*-*-*.json"))
    ]
    flat = [_flat(row, dense) for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), RESULTS / f"{name}.parquet")
    lines = [
        f"# {name}: {config.data.name}, {config.train.epochs} epochs, dense "
        f"{100 * dense.values['accuracy']:.2f} %",
        "",
        "| arm | row | n | accuracy % (min to max) | ADC bits max | mean | crossbars | "
        "ADC area x | ADC power x | area x | power x | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = sorted({(row["arm"], row["bits"]) for row in flat}, key=lambda k: (-k[1], k[0]))
    lines += [_line([r for r in flat if (r["arm"], r["bits"]) == key]) for key in keys]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _flat(row: dict[str, Any], dense: Evaluation) -> dict[str, Any]:
    """One run as plain columns; ratios are dense over this."""
    pruned = list(row["adc_bits"].values())[1:]
    less = ratios(dict(dense.values), row["values"]) if row["values"] else {}
    return {
        **{key: row[key] for key in ("arm", "bits", "seed", "epochs", "status", "accuracy")},
        "adc_bits_max": max(pruned, default=None),
        "adc_bits_mean": statistics.fmean(pruned) if pruned else None,
        "crossbars": row["crossbars"],
        "train_s": row["seconds"].get("train"),
        **{f"{key}_ratio": less.get(key) for key in ("adc_area", "adc_power", "area", "power")},
    }


def _line(rows: Sequence[dict[str, Any]]) -> str:
    done = [row for row in rows if row["status"] == "complete"]
    first = rows[0]
    head = f"| {first['arm']} | {first['bits'] or '-'} | {len(rows)} "
    if not done:
        return head + "| failed |" + " |" * 8

    def mean(key: str) -> float:
        return statistics.fmean(row[key] for row in done)

    accuracies = [100 * row["accuracy"] for row in done]
    less = " | ".join(
        f"{mean(f'{key}_ratio'):.2f}" for key in ("adc_area", "adc_power", "area", "power")
    )
    return (
        f"{head}| {statistics.fmean(accuracies):.2f} ({min(accuracies):.2f} to "
        f"{max(accuracies):.2f}) | {max(row['adc_bits_max'] for row in done)} | "
        f"{mean('adc_bits_mean'):.2f} | {mean('crossbars'):.0f} | {less} | {mean('train_s'):.0f} |"
    )


if __name__ == "__main__":
    main()
