"""A small study on rungs that tests run, kill and look at from outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from search.folder import StudyFolder
from search.study import Study, status

__all__ = ["SLEEPY", "Driver", "open_study", "outcomes", "run", "settle", "write"]

CONFIG = """
[study]
name = "faults"
trials = {trials}
sampler = "random"
seed = 3

[data]
test_count = 50

[network]
name = "{network}"
{arguments}

[train]
dense_epochs = 1
epochs = 2
batch_size = 20
train_count = 200

[fidelity]
rungs = [1]
reduction = 2

[ray]
workers = 2
{ray}
"""

SLEEPY = '''
import os, time
from pathlib import Path
from trainers.networks import build_network
from trainers.config import NetworkConfig

def sleepy(input_shape, classes):
    """Hangs in training once its file is there, but not while it is being traced."""
    config = NetworkConfig(name="mlp", arguments={"hidden": 8})
    network = build_network(config, input_shape, classes)
    def hang(module, inputs):
        if module.training and Path("hang").exists() and inputs[0].shape[0] == 20:
            time.sleep(600)
    network.register_forward_pre_hook(hang)
    return network
'''


def write(
    folder: Path,
    trials: int,
    *,
    network: str = "mlp",
    arguments: str = "arguments = { hidden = 8 }",
    ray: str = "",
) -> None:
    text = CONFIG.format(trials=trials, network=network, arguments=arguments, ray=ray)
    (folder / "faults.toml").write_text(text)


class Driver:
    """A driver process of the study; its lines of progress are read as they come.

    Args:
        folder: where it runs.
        arguments: of Crossfront's command line.
        prefix: what the command begins with.
    """

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "search.cli", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def wait_for(self, text: str, times: int = 1) -> None:
        """Reads until so many lines hold a text."""
        assert self.process.stderr is not None
        seen = 0
        for line in self.process.stderr:
            self.lines.append(line)
            seen += text in line
            if seen == times:
                return
        raise AssertionError(f"{seen} of {times} lines with {text!r}: " + "".join(self.lines))

    def end(self) -> int:
        """Waits for the end; returns the exit code."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr.readlines()
        self.process.stderr.close()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """Ends it as a machine that loses its power does, workers aside."""
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def workers(self) -> list[int]:
        """Processes that evaluate this driver's trials."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                title = (path / "cmdline").read_text()
            except OSError:
                continue
            if "CandidateTrainable" in title and _descends(int(path.name), self.process.pid):
                found.append(int(path.name))
        return found


def _descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return False


def run(folder: Path, *arguments: str) -> Driver:
    """Runs a driver to its end, which must be a good one."""
    driver = Driver(folder, *arguments)
    assert driver.end() == 0, "".join(driver.lines)
    return driver


def open_study(folder: Path) -> Study:
    return Study.open(StudyFolder(folder / "studies", "faults"))


def outcomes(study: Study) -> dict[int, str]:
    """What came of each ended trial."""
    return {trial.number: status(trial) for trial in study.ended()}


def settle() -> None:
    """Lets processes whose driver was killed notice."""
    time.sleep(2)
