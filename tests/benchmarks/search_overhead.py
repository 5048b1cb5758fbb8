"""What a search costs beside its trials: the driver's time, and how busy it keeps two workers.

    python -m tests.benchmarks.search_overhead [--trials 24] [--samplers tpe surrogate]

A real search with two workers on this machine, journal, MLflow's local database and all. A trial
trains a tiny network that mostly sleeps, about ten seconds, so that the machine's cores are free
for the driver. From each worker's first result to its last: the share of the time in which workers
had a trial, and the driver process's processor time per trial, with all that Ray does in it.

Also the time of `crossfront --help` as a process of its own (`--starts` of them). Writes
`results/search_overhead.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from search.trials import seconds_of
from tests.e2e.faults import Driver, open_study

RESULT = Path(__file__).parent / "results" / "search_overhead.json"
WORKERS = 2
CONFIG = """
[study]
name = "faults"
trials = {trials}
sampler = "{sampler}"

[data]
test_count = 50

[network]
name = "drowsy:drowsy"

[train]
dense_epochs = 1
epochs = 2
batch_size = 20
train_count = 200
calibration_count = 20

[ray]
workers = {workers}
"""
NETWORK = '''
import time
from trainers.networks import build_network
from trainers.config import NetworkConfig

def drowsy(input_shape, classes):
    """Sleeps half a second in each training step."""
    network = build_network(NetworkConfig(name="mlp"), input_shape, classes)
    def sleep(module, inputs):
        if module.training and inputs[0].shape[0] == 20:
            time.sleep(0.5)
    network.register_forward_pre_hook(sleep)
    return network
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--samplers", nargs="*", default=["tpe", "surrogate"])
    parser.add_argument("--starts", type=int, default=9)
    options = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    found["help_s"] = spread([start() for _ in range(options.starts)])
    for sampler in options.samplers:
        found[sampler] = search(sampler, options.trials)
        print(sampler, json.dumps(found[sampler]), flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def start() -> float:
    """Seconds of `crossfront --help`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "search.cli", "--help"], capture_output=True, check=True)
    return time.perf_counter() - started


def search(sampler: str, trials: int) -> dict[str, Any]:
    """One search, trials in full."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "drowsy.py").write_text(NETWORK)
        config = CONFIG.format(sampler=sampler, trials=trials, workers=WORKERS)
        (folder / "overhead.toml").write_text(config)
        driver = Driver(folder, "search", "overhead.toml")
        driver.wait_for("] trial", WORKERS)
        before = processor_s(driver.process.pid)
        driver.wait_for("] trial", trials - WORKERS)
        spent = processor_s(driver.process.pid) - before
        code = driver.end()
        measured = [t for t in open_study(folder).ended() if "evaluation" in t.user_attrs]
    measured.sort(key=lambda trial: trial.datetime_complete.timestamp())
    ends = [trial.datetime_complete.timestamp() for trial in measured]
    busy = [seconds_of(trial)["total"] for trial in measured[WORKERS:]]
    return {
        "exit_code": code,
        "trials": len(measured),
        "trial_s": spread(busy),
        "utilisation": sum(busy) / (sum(ends[-WORKERS:]) - sum(ends[:WORKERS])),
        "driver_processor_s_per_trial": spent / (trials - WORKERS),
        "driver_share_of_trial": spent / sum(busy),
    }


def processor_s(process: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "least": min(values),
        "median": statistics.median(values),
        "largest": max(values),
    }


if __name__ == "__main__":
    main()
