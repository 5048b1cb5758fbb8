"""Images per second of the integer simulation: LeNet-5 and ResNet-20 on synthetic images.

    python tests/benchmarks/simulation_speed.py [--images 64] [--repeats 3] [--threads 1] [--whole]

For each network, with random weights of which nine in ten are zero (differential pairs, 128
wordlines, 2-bit cells, 8-bit inputs), times the integer product (`exact`), one device with a share
of 0.001 of stuck cells (`faults`), every ADC reading (`every_reading`), and every reading of a
device with variation and read noise (`noise`). Reports images per second with n and spread, and how
long 10,000 images take at that speed; `--whole` runs all 10,000 on the exact path instead of
extrapolating. Speed does not depend on what the images show. Prints one JSON object and writes it
to tests/benchmarks/results/simulation_speed.json.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from hwmodel.crossbar import CrossbarPlan
from hwmodel.nonideality import Nonideality
from trainers.config import NetworkConfig
from trainers.data import ImageSet
from trainers.finalise import finalise
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, EXACT, Readout, set_readout
from trainers.method import Method, dense_targets
from trainers.networks import build_network
from trainers.tracing import crossbar_modules, layer_shapes

RESULTS = Path(__file__).parent / "results" / "simulation_speed.json"
NETWORKS = {"lenet5": (1, 28, 28), "resnet20": (3, 32, 32)}
TEST_SET = 10_000
BATCH = 64
READOUTS = {
    "exact": (EXACT, 16),
    "faults": (Readout(nonideality=Nonideality.with_faults(0.001)), 4),
    "every_reading": (EVERY_READING, 1),
    "noise": (Readout(nonideality=Nonideality(variation=0.1, read_noise=0.3)), 1),
}
"""Each way, and how many times more images it is timed on than the slowest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {"threads": options.threads, "torch": torch.__version__, "batch": BATCH}
    for name, shape in NETWORKS.items():
        network = sparse_integer_network(name, shape)
        found = {}
        for way, (readout, more) in READOUTS.items():
            count = TEST_SET if options.whole and way == "exact" else options.images * more
            found[way] = timed(network, readout, random_images(count, shape), options.repeats)
        report[name] = found
    report["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = json.dumps(report, indent=2) + "\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text, end="")


def sparse_integer_network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    """A network of random weights, one in ten kept, finalised on random images."""
    network = build_network(NetworkConfig(name=name), shape, 10)
    generator = torch.Generator().manual_seed(0)
    for module in crossbar_modules(network).values():
        kept = torch.rand(module.weight.shape, generator=generator) < 0.1
        module.weight.data.mul_(kept)
    method = Method(dense_targets(network, CrossbarPlan()))
    method.attach(network, epochs=0, steps_per_epoch=1)
    return finalise(network, method, layer_shapes(network, shape), random_images(128, shape))


def random_images(count: int, shape: tuple[int, int, int]) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), generator=generator).byte()
    return ImageSet(name="noise", images=pixels, labels=torch.arange(count) % 10, classes=10)


def timed(network: nn.Module, readout: Readout, images: ImageSet, repeats: int) -> dict:
    """Images per second over `repeats` runs, a new device each."""
    speeds = []
    for _ in range(repeats):
        started = time.perf_counter()
        set_readout(network, readout)
        accuracy(network, images, batch_size=BATCH)
        speeds.append(len(images) / (time.perf_counter() - started))
    set_readout(network, EXACT)
    mean = statistics.fmean(speeds)
    return {
        "images": len(images),
        "n": repeats,
        "images_per_s": mean,
        "images_per_s_min": min(speeds),
        "images_per_s_max": max(speeds),
        "whole_test_set_s": TEST_SET / mean,
        "whole_test_set_measured": len(images) == TEST_SET,
    }


if __name__ == "__main__":
    main()
