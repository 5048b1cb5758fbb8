"""Whether memory stays flat over thousands of short trials in one search.

    taskset -c 1 python -m tests.benchmarks.soak [TRIALS]

A real search with two workers on this machine, journal, MLflow's local database and all; a trial is
one epoch of a tiny network. Every 20 trials the resident memory of the driver and of its workers is
read. The slope is a least-squares line over the trials after the first fifth, in which libraries
load what they need.

Writes `tests/benchmarks/results/soak.json`; prints the same without the samples.
"""

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.faults import Driver, open_study

RESULT = Path(__file__).parent / "results" / "soak.json"
TRIALS = 2_000
EVERY = 20
CONFIG = """
[study]
name = "faults"
trials = {trials}
sampler = "random"

[data]
test_count = 20

[network]
name = "mlp"
arguments = {{ hidden = 4 }}

[train]
dense_epochs = 1
epochs = 1
batch_size = 20
train_count = 40
calibration_count = 20

[ray]
workers = 2
"""


def main(trials: int = TRIALS) -> None:
    """Runs the search, samples and writes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "soak.toml").write_text(CONFIG.format(trials=trials))
        started = time.monotonic()
        driver = Driver(folder, "search", "soak.toml")
        samples: list[dict[str, Any]] = []
        while len(samples) < trials // EVERY:
            driver.wait_for("] trial", EVERY)
            workers = driver.workers()
            samples.append(
                {
                    "trials": (len(samples) + 1) * EVERY,
                    "seconds": round(time.monotonic() - started, 1),
                    "driver_mb": resident_mb(driver.process.pid),
                    "workers_mb": [resident_mb(worker) for worker in sorted(workers)],
                    "workers": sorted(workers),
                }
            )
        code = driver.end()
        counts = open_study(folder).counts()
    found = {
        "trials": trials,
        "counts": counts,
        "exit_code": code,
        "seconds": samples[-1]["seconds"],
        "worker_processes": len({pid for sample in samples for pid in sample.pop("workers")}),
        "driver": line_of(samples, lambda sample: sample["driver_mb"]),
        "workers_mean": line_of(samples, lambda sample: float(np.mean(sample["workers_mb"]))),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
    }
    RESULT.write_text(json.dumps({**found, "samples": samples}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def line_of(samples: list[dict[str, Any]], memory: Any) -> dict[str, float]:
    """Memory at the start and the end of the line, and its slope, in MB."""
    kept = [sample for sample in samples[len(samples) // 5 :] if sample["workers_mb"]]
    trials = np.array([sample["trials"] for sample in kept])
    slope, offset = np.polyfit(trials, [memory(sample) for sample in kept], 1)
    return {
        "from_mb": round(float(offset + slope * trials[0]), 1),
        "to_mb": round(float(offset + slope * trials[-1]), 1),
        "mb_per_1000_trials": round(float(slope) * 1000, 2),
    }


def resident_mb(process: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
