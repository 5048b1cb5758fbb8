"""How a block-circulant layer is trained fastest: three ways to the same gradients.

    OMP_NUM_THREADS=1 python tests/benchmarks/circulant_speed.py

Forward and backward of a linear layer (512 x 512, batch 64) and of a 3 x 3 convolution (64 to 64
channels, 8 x 8 images, batch 32), for blocks of side 4, 8, 16 and 32 on one core:

    projection  dense weights, dense product, gradients averaged along the diagonals (`circulant`)
    gather      defining vectors, gathered into dense weights in every forward pass
    fft         defining vectors, products in the frequency domain, weights never expanded

First holds their results against each other. Writes n and the least, median and largest processor
seconds of each to `tests/benchmarks/results/circulant_speed.json`.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hwmodel.rotation import CirculantBlocks

RESULT = Path(__file__).parent / "results" / "circulant_speed.json"
SIDES = (4, 8, 16, 32)
REPEATS = 25
LAYERS = {
    "linear": ((512, 512), (64, 512)),
    "convolution": ((64, 64, 3, 3), (32, 64, 8, 8)),
}


def main() -> None:
    torch.set_num_threads(1)
    found = {"machine": f"{platform.machine()}, torch {torch.__version__}, one thread"}
    for name, (shape, inputs) in LAYERS.items():
        found[name] = {f"side {side}": measure(shape, inputs, side) for side in SIDES}
    text = json.dumps(found, indent=2) + "\n"
    RESULT.write_text(text)
    print(text, end="")


def measure(shape: tuple[int, ...], input_shape: tuple[int, ...], side: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    blocks = CirculantBlocks.of(torch.empty(shape), 1, side)
    vectors = blocks.vectors(torch.randn(shape, generator=generator)).requires_grad_()
    weight = blocks.expand(vectors.detach(), shape).requires_grad_()
    inputs = torch.randn(input_shape, generator=generator).requires_grad_()
    ways: dict[str, tuple[Callable[[], Tensor], Tensor]] = {
        "projection": (lambda: product(inputs, weight), weight),
        "gather": (lambda: product(inputs, blocks.expand(vectors, shape)), vectors),
        "fft": (lambda: fft_product(inputs, vectors, blocks), vectors),
    }

    def step(way: str) -> Tensor:
        forward, trained = ways[way]
        trained.grad = inputs.grad = None
        forward().square().sum().backward()
        if way == "projection":
            weight.grad.copy_(blocks.expand(blocks.vectors(weight.grad), shape))
        return trained.grad

    expected = step("gather")
    largest = float(expected.abs().max())
    assert torch.allclose(step("fft"), expected, atol=1e-4 * largest)
    assert torch.allclose(blocks.vectors(step("projection")) * side, expected, atol=1e-4 * largest)
    return {way: timed(lambda way=way: step(way)) for way in ways}


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """The dense product; convolutions keep the size of their images."""
    if weight.ndim == 2:
        return functional.linear(inputs, weight)
    return functional.conv2d(inputs, weight, padding="same")


def fft_product(inputs: Tensor, vectors: Tensor, blocks: CirculantBlocks) -> Tensor:
    """The same by circular convolution of channels, at every kernel position."""
    side, columns = blocks.side, blocks.block_columns
    if inputs.ndim == 2:
        patches = inputs.reshape(len(inputs), columns, side, 1, 1)
    else:
        unfolded = functional.unfold(inputs, 3, padding=1)
        patches = unfolded.reshape(len(inputs), columns, side, blocks.kernel, -1)
    seen = torch.fft.rfft(patches, dim=2).permute(2, 0, 4, 3, 1)
    kernels = torch.fft.rfft(vectors[0]).permute(3, 1, 2, 0)  # [frequencies, kernel, columns, rows]
    found = seen.flatten(1, 2).flatten(2) @ kernels.flatten(1, 2)
    outputs = torch.fft.irfft(found.unflatten(1, (len(inputs), -1)), n=side, dim=0)
    return outputs.permute(1, 3, 0, 2).flatten(1, 2).reshape(len(inputs), -1, *inputs.shape[2:])


def timed(work: Callable[[], Tensor]) -> dict:
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return {
        "n": REPEATS,
        "least": min(seconds),
        "median": statistics.median(seconds),
        "largest": max(seconds),
    }


if __name__ == "__main__":
    main()
