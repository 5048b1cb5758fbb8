"""A small study on rungs that tests run, kill and look at from outside."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from search.folder import StudyFolder
from search.study import Study
from search.trials import status

__all__ = [
    "HUNGRY",
    "Cluster",
    "Driver",
    "descendants",
    "drivers",
    "fill",
    "memory",
    "open_study",
    "outcomes",
    "run",
    "settle",
    "write",
    "write_sleepy",
]

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
    """Hangs in training while its file is there, ten minutes at most; not while it is traced."""
    config = NetworkConfig(name="mlp", arguments={"hidden": 8})
    network = build_network(config, input_shape, classes)
    def hang(module, inputs):
        for _ in range(6000):
            if not (module.training and Path("hang").exists() and inputs[0].shape[0] == 20):
                break
            time.sleep(0.1)
    network.register_forward_pre_hook(hang)
    return network
'''

HUNGRY = '''
import resource, time
from pathlib import Path
import torch
from trainers.networks import build_network
from trainers.config import NetworkConfig

def hungry(input_shape, classes, how):
    """Asks for more memory than there is in training, once its file is there."""
    config = NetworkConfig(name="mlp", arguments={"hidden": 8})
    network = build_network(config, input_shape, classes)
    def eat(module, inputs):
        if not (module.training and Path("hungry").exists() and inputs[0].shape[0] == 20):
            return
        if how == "at once":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
            try:
                torch.empty(2**32, dtype=torch.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
        eaten = []
        for _ in range(100):
            eaten.append(torch.ones(2**26, dtype=torch.uint8))
            time.sleep(0.1)
    network.register_forward_pre_hook(eat)
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


def write_sleepy(folder: Path, trials: int, *, ray: str = "") -> None:
    """The study with a network that hangs in training while the file `hang` is there."""
    (folder / "mine.py").write_text(SLEEPY)
    write(folder, trials, network="mine:sleepy", arguments="", ray=ray)


class Driver:
    """A driver process of the study; its lines of progress are read as they come.

    Args:
        folder: where it runs.
        arguments: of Crossfront's command line.
        prefix: what the command begins with.
        environment: variables of its own.
    """

    def __init__(
        self, folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "search.cli", *arguments],
            cwd=folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # its own, as a shell gives it one
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

    def interrupt(self) -> None:
        """What Ctrl-C does on a terminal: it reaches Ray's processes, too."""
        os.killpg(self.process.pid, signal.SIGINT)

    def family(self) -> list[int]:
        """Every process that this one has begun, directly or not, and itself."""
        return descendants(self.process.pid, "")

    def workers(self) -> list[int]:
        """Processes that evaluate this driver's trials."""
        return descendants(self.process.pid, "Trainable")


class Cluster:
    """A Ray cluster with a token of its own, in processes that end with it (`tests.e2e.nodes`)."""

    def __init__(self) -> None:
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback for every port
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.nodes"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = self._read()

    def add(self) -> None:
        """One node more."""
        self._tell("add")

    def remove(self) -> None:
        """Ends the oldest node but the head, as if it had lost its power."""
        self._tell("remove")

    def kill_head(self) -> None:
        """Ends what the whole cluster hangs on, and leaves its nodes."""
        (head,) = descendants(self._process.pid, "gcs_server")
        os.kill(head, signal.SIGKILL)

    def nodes_at_work(self) -> set[int]:
        """Nodes that evaluate trials."""
        return {_parent(worker) for worker in descendants(self._process.pid, "Trainable")}

    def close(self) -> None:
        """Ends all processes of the cluster, which are a group of their own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdout.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._read() == "done"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def descendants(process: int, title: str) -> list[int]:
    """Processes below a process whose title holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            program = (path / "cmdline").read_text().split("\0")[0]
            if title in program and _descends(int(path.name), process):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _descends(process: int, ancestor: int) -> bool:
    while process > 1 and process != ancestor:
        process = _parent(process)
    return process == ancestor


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


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


def drivers(folder: Path) -> set[str]:
    """Who has begun trials of the study."""
    trials = open_study(folder).trials()
    return {t.user_attrs["driver"] for t in trials if "driver" in t.user_attrs}


def settle() -> None:
    """Lets processes whose driver was killed notice."""
    time.sleep(2)


def fill(path: Path) -> None:
    """Takes all the room that a file system has left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def memory() -> tuple[int, int]:
    """This machine's memory in bytes, and how much of it is in use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return found["MemTotal"], found["MemTotal"] - found["MemAvailable"]
