"""A cluster of two hosts in network namespaces, whose link is cut and healed in mid-search."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.faults import Driver, open_study, outcomes, write
from tests.e2e.network import Network, network_of
from tests.e2e.test_exchange import point_to
from tests.e2e.test_faults import check

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SLOW = """
import time
from trainers.networks import build_network
from trainers.config import NetworkConfig

def slow(input_shape, classes):
    config = NetworkConfig(name="mlp", arguments={"hidden": 8})
    network = build_network(config, input_shape, classes)
    def wait(module, inputs):
        if module.training and inputs[0].shape[0] == 20:
            time.sleep(0.3)
    network.register_forward_pre_hook(wait)
    return network
"""
MAKE_BUCKET = """
import sys, time
from pyarrow.fs import FileSystem

for _ in range(60):
    try:
        files, _ = FileSystem.from_uri(sys.argv[1] + "&allow_bucket_creation=true")
        files.create_dir("ours")
        break
    except OSError:
        time.sleep(1)
else:
    sys.exit("no server")
"""


class Cluster:
    """Ray on two hosts, `head` and `node`, that do not share the study's folder.

    Args:
        network: of the two.
        folder: of the study, on `head`; `node` has another one under the same name.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.address = f"{network.address('head')}:6379"
        self.node: subprocess.Popen[bytes] | None = None

    def start_head(self) -> None:
        options = ("--head", "--port=6379", "--include-dashboard=false")
        self.network.start("head", *self._ray("head"), *options)

    def start_node(self) -> None:
        command = (*self._ray("node"), f"--address={self.address}")
        self.node = self.network.start("node", *command, own_folder=self.folder)

    def _ray(self, host: str) -> tuple[str, ...]:
        ray = str(Path(sys.executable).with_name("ray"))
        own = f"--node-ip-address={self.network.address(host)}"
        memory = "--object-store-memory=100000000"
        return (ray, "start", "--block", "--num-cpus=1", own, memory, "--disable-usage-stats")

    def works(self, host: str) -> bool:
        """Whether a host evaluates trials."""
        return any("CandidateTrainable" in line for line in self.network.processes(host).values())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of the study and of Ray, whose sockets need a short path; the network's code is elsewhere."""
    (tmp_path / "slow_network.py").write_text(SLOW)
    found = Path(tempfile.mkdtemp(prefix="hosts-"))
    code = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "crossfront",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
        "PYTHONPATH": code,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(found / "ray"),
        # A host that has not been heard of for about 20 s is gone, on a machine of any speed.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "4000",
    }.items():
        monkeypatch.setenv(name, value)
    yield found
    shutil.rmtree(found)


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


def serve_s3(network: Network) -> str:
    """Starts an S3 server on `head`; returns the URI of a bucket there."""
    pytest.importorskip("moto")
    host, at = network.address("head"), network.at("head")
    network.start("head", sys.executable, "-m", "moto.server", "-H", host, "-p", "9000")
    uri = f"s3://ours?endpoint_override={host}:9000&scheme=http&region=us-east-1"
    subprocess.run([*at, sys.executable, "-c", MAKE_BUCKET, uri], check=True, timeout=120)
    return uri


def run_through_cuts(cluster: Cluster, driver: Driver) -> dict[int, str]:
    """Cuts the node off twice while it has work; returns what had ended before the second time."""
    network = cluster.network
    driver.wait_for("] trial", 2)
    until(lambda: cluster.works("node"))
    network.cut("node")
    time.sleep(3)  # shorter than Ray's patience: the node stays
    network.heal("node")
    driver.wait_for("] trial", 3)
    until(lambda: cluster.works("node"))
    before = outcomes(open_study(cluster.folder))
    network.cut("node")
    # Longer: its trial is given to another worker, and the node ends once it knows.
    until(lambda: "interrupted" in outcomes(open_study(cluster.folder)).values())
    network.heal("node")
    assert cluster.node is not None
    cluster.node.wait(timeout=120)
    cluster.start_node()
    until(lambda: cluster.works("node"))
    return before


def test_link_that_is_cut_and_healed_costs_no_trial(folder: Path) -> None:
    trials = 36
    with network_of("head", "node") as network:
        cluster = Cluster(network, folder)
        uri = serve_s3(network)
        cluster.start_head()
        write(
            folder,
            trials,
            network="slow_network:slow",
            arguments="",
            ray=f'address = "{cluster.address}"',
        )
        point_to(folder, uri)
        (folder / "mine.toml").write_text('base = "isaac-8bit-weights"\nname = "mine"\n')
        with (folder / "faults.toml").open("a") as file:
            file.write('[hardware]\npreset = "mine.toml"\n')
        until(lambda: "raylet" in " ".join(network.processes("head").values()))
        cluster.start_node()
        driver = Driver(folder, "search", "faults.toml", prefix=network.at("head"))
        try:
            before = run_through_cuts(cluster, driver)
            assert driver.end() == 0, "".join(driver.lines)
        finally:
            if driver.process.poll() is None:
                driver.kill()
    study = open_study(folder)
    check(study, trials, before)
    assert study.counts()["failed"] == 0
    for trial in study.front():
        assert (study.checkpoint(trial) / "manifest.json").exists()
