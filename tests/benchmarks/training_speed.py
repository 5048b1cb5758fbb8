"""What methods add to a training step, the loop to a bare one, and what formats save.

    OMP_NUM_THREADS=1 python tests/benchmarks/training_speed.py resnet20 [--rounds 8] [--steps 10]
    OMP_NUM_THREADS=1 python tests/benchmarks/training_speed.py lenet5 --steps 40

Sides, on random images, batches of 128 (LeNet-5: 64), one thread, all in one process:

* `bare`: a hand-written PyTorch loop, SGD with momentum, nothing else;
* `dense`: `trainers.fit.fit` with no method; `admm`: with TinyADC's ADMM (its Z- and U-steps four
  times an epoch of 391 batches, as with the default settings on 50,000 images); `level-sum`: 4 ADC
  bits in all layers but the first, a projection every 10 steps; `level-sum, all projections`: every
  step; `channels_last` and `bfloat16`: dense, with `train.memory_format` or `train.precision` so.

A round times every side once, in turn, so that other work on the machine falls on all of them; each
timing is of whole steps that hold one period of the method's own schedule. A ratio is taken within
each round; the report gives n, least, median and largest. Writes
`tests/benchmarks/results/training_speed_NETWORK.json`.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec, largest_lossless_count
from trainers.config import NetworkConfig, TrainConfig
from trainers.data import ImageSet
from trainers.fit import fit
from trainers.method import LayerTarget, Method, dense_targets
from trainers.methods import LevelSumConfig, LevelSumMethod, TinyAdc, TinyAdcConfig
from trainers.networks import build_network

RESULTS = Path(__file__).parent / "results"
CLASSES, ADC_BITS = 10, 4
EPOCH_STEPS = 391
"""Batches of 128 in 50,000 images."""


class Work(NamedTuple):
    """What is trained."""

    network: str
    shape: tuple[int, int, int]
    batch: int
    steps: int
    """Of one timing."""

    def build(self) -> nn.Module:
        return build_network(NetworkConfig(name=self.network), self.shape, CLASSES)

    def images(self) -> ImageSet:
        generator = torch.Generator().manual_seed(0)
        count = self.steps * self.batch
        pixels = torch.randint(0, 256, (count, *self.shape), generator=generator).byte()
        return ImageSet(
            name="noise", images=pixels, labels=torch.arange(count) % CLASSES, classes=CLASSES
        )


SIZES = {"resnet20": ((3, 32, 32), 128), "lenet5": ((1, 28, 28), 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape, batch = SIZES[options.network]
    work = Work(options.network, shape, batch, options.steps)
    sides = build_sides(work)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()  # first calls allocate
    for _ in range(options.rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append((time.perf_counter() - started) / options.steps)
    update = admm_update_seconds(work, options.rounds)
    found = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "network": work.network,
        "batch": work.batch,
        "steps_per_timing": options.steps,
        "step_s": {name: spread(values) for name, values in seconds.items()},
        "times_dense": {
            name: ratios(seconds[name], seconds["dense"])
            for name in sides
            if name not in ("bare", "dense")
        },
        "dense_times_bare": ratios(seconds["dense"], seconds["bare"]),
        "admm_update_s": spread(update),
    }
    each = TinyAdcConfig().rounds_per_epoch * statistics.median(update) / EPOCH_STEPS
    dense = found["step_s"]["dense"]["median"]
    found["admm_amortised_times_dense"] = found["times_dense"]["admm"]["median"] + each / dense
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"training_speed_{work.network}.json"
    target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def build_sides(work: Work) -> dict[str, Callable[[], None]]:
    """Each side trains the steps of one timing on a network of its own."""

    def side(build: Callable[[nn.Module], Method], **train: str) -> Callable[[], None]:
        return fit_side(work, build, TrainConfig(batch_size=work.batch, **train))

    def level_sum(network: nn.Module, **settings: int) -> Method:
        return LevelSumMethod(bounded(network, adc_bits=ADC_BITS), LevelSumConfig(**settings))

    return {
        "bare": bare_side(work),
        "dense": side(dense),
        "admm": side(lambda network: WithoutRounds(count_targets(network), ADMM)),
        "level-sum": side(level_sum),
        "level-sum, all projections": side(lambda network: level_sum(network, refresh_steps=1)),
        "channels_last": side(dense, memory_format="channels_last"),
        "bfloat16": side(dense, precision="bfloat16"),
        "both": side(dense, memory_format="channels_last", precision="bfloat16"),
    }


def dense(network: nn.Module) -> Method:
    return Method(targets(network))


ADMM = TinyAdcConfig(admm_share=1.0)


class WithoutRounds(TinyAdc):
    """ADMM's penalty alone; its rounds, a few in an epoch, are timed by themselves."""

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        super().attach(network, epochs=epochs, steps_per_epoch=EPOCH_STEPS)


def fit_side(
    work: Work, build: Callable[[nn.Module], Method], config: TrainConfig
) -> Callable[[], None]:
    network, data = work.build(), work.images()
    method = build(network)
    method.attach(network, epochs=1, steps_per_epoch=work.steps)
    # `fit` would project anew each time it is called, which is no part of a step.
    method.attach = lambda *_, **__: None  # type: ignore[method-assign]
    return lambda: fit(network, data, method, config, epochs=1, learning_rate=0.001, seed=0)


def bare_side(work: Work) -> Callable[[], None]:
    network, data = work.build(), work.images()
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, nesterov=True
    )

    def run() -> None:
        network.train()
        order = torch.randperm(len(data))
        for start in range(0, len(data), work.batch):
            chosen = order[start : start + work.batch]
            batch = data.images[chosen].float().div_(255)
            loss = functional.cross_entropy(network(batch), data.labels[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return run


def admm_update_seconds(work: Work, repeats: int) -> list[float]:
    """Of one Z- and U-step over all layers."""
    network = work.build()
    method = WithoutRounds(count_targets(network), ADMM)
    method.attach(network, epochs=1, steps_per_epoch=EPOCH_STEPS)
    assert method.admm is not None
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        method.admm.update()
        seconds.append(time.perf_counter() - started)
    return seconds


def targets(network: nn.Module) -> dict[str, LayerTarget]:
    return dense_targets(network, CrossbarPlan(default=CrossbarSpec()))


def count_targets(network: nn.Module) -> dict[str, LayerTarget]:
    return bounded(network, nonzeros=largest_lossless_count(ADC_BITS))


def bounded(network: nn.Module, **bound: int) -> dict[str, LayerTarget]:
    """The bound in every layer but the first."""
    first, *rest = targets(network)
    spec = CrossbarSpec()
    return {
        first: LayerTarget(spec=spec),
        **{name: LayerTarget(spec=spec, **bound) for name in rest},
    }


def ratios(side: list[float], base: list[float]) -> dict[str, float]:
    """Of timings of the same round."""
    return spread([one / other for one, other in zip(side, base, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
    }


if __name__ == "__main__":
    main()
