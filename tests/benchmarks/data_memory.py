"""Memory of two workers of a node that use the same decoded set, mapped and each for itself.

    python tests/benchmarks/data_memory.py [IMAGES]

Writes a set in CIFAR-10's binary format, starts two processes that load it and read every pixel,
and prints the memory that each adds by it: resident, and its proportional share of shared pages.

60,000 images (176 MB), torch 2.13 on Linux, n = 2: mapped, both processes together add 180 MB (238
MB where one of them has just decoded the set), each for itself 413 and 414 MB.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORKER = """
import sys
from pathlib import Path
import torch
from trainers.data import DataConfig, load_dataset

def memory():
    rows = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    return {row[0]: int(row[1]) / 1024 for row in rows}

before = memory()
dataset = load_dataset(DataConfig(name="cifar10", path=sys.argv[1], cache=sys.argv[2]))
dataset.train.images.sum(), dataset.test.images.sum()
print("loaded", flush=True)
sys.stdin.readline()
after = memory()
print(*(after[key] - before[key] for key in ("Rss:", "Pss:")), flush=True)
sys.stdin.readline()
"""


def write_cifar(folder: Path, images: int) -> None:
    """Five training batches and a test batch of random pixels."""
    draw = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        rows = draw.integers(0, 256, (images // 6, 1 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 0] = np.arange(len(rows)) % 10
        rows.tofile(folder / f"{name}.bin")


def measure(source: Path, cache: str) -> list[tuple[float, float]]:
    """Resident and proportional MB that the set adds to each of two processes."""
    command = [sys.executable, "-c", WORKER, str(source), cache]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    found = []
    for step in range(2):
        for worker in workers:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if step:
                resident, share = (float(word) for word in line.split())
                found.append((resident, share))
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
    return found


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "cifar"
        source.mkdir()
        write_cifar(source, images)
        (Path(scratch) / "file").touch()
        places = {"mapped": f"{scratch}/cache", "each for itself": f"{scratch}/file/below"}
        print(f"{images} images of 3x32x32: {images * 3072 / 2**20:.0f} MB of pixels")
        for what, cache in places.items():
            found = measure(source, cache)
            each = ", ".join(
                f"{resident:.0f} resident, {share:.0f} share" for resident, share in found
            )
            print(f"{what}: {each}; together {sum(share for _, share in found):.0f} MB")


if __name__ == "__main__":
    main()
