"""A cluster of two hosts in network namespaces: its link is cut, and a third host submits to it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.folder import StudyFolder
from tests.e2e.faults import Driver, open_study, outcomes, write
from tests.e2e.network import Network, network_of
from tests.e2e.test_exchange import point_to
from tests.e2e.test_faults import check
from tests.waiting import until

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

    def start_head(self, *, takes_jobs: bool = False) -> None:
        options = ["--head", "--port=6379", f"--include-dashboard={str(takes_jobs).lower()}"]
        if takes_jobs:
            options.append(f"--dashboard-host={self.network.address('head')}")
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
        return any("Trainable" in line for line in self.network.processes(host).values())


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of the study, its network and Ray, whose sockets need a short path; `head` alone has it."""
    found = Path(tempfile.mkdtemp(prefix="hosts-"))
    (found / "slow_network.py").write_text(SLOW)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "crossfront",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
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


@pytest.fixture
def crossfront(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, on every host."""
    command = tmp_path / "bin" / "crossfront"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m search.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


class Desk:
    """A third host: it has the configuration and the token, and nothing that Ray keeps on a disk.

    Args:
        cluster: what it talks to, through the job server alone.
        home: its folder; the cluster's own is empty there.
    """

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.home = home
        self._at = cluster.network.at("desk", own_folder=cluster.folder)
        self._head = cluster.network.address("head")

    def answered(self) -> bool:
        """Whether the job server is up."""
        connect = f"import socket; socket.create_connection(({self._head!r}, 8265), 5)"
        command = [*self._at, sys.executable, "-c", connect]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def __call__(self, *arguments: str, code: int = 0, **changes: str) -> str:
        """Runs a command to its end; returns what it prints, errors last."""
        answer = subprocess.run(
            [*self._at, "crossfront", *arguments],
            cwd=self.home,
            env={**os.environ, "RAY_API_SERVER_ADDRESS": f"http://{self._head}:8265", **changes},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert answer.returncode == code, answer.stdout + answer.stderr
        return answer.stdout + answer.stderr


def test_third_host_submits_watches_stops_and_goes_on(
    folder: Path, tmp_path: Path, crossfront: None
) -> None:
    pytest.importorskip("aiohttp", reason="Ray's job server needs ray[default]")
    home = tmp_path / "home"
    home.mkdir()
    (home / "own.py").write_text(SLOW)  # on no host but this, until it is sent
    with network_of("head", "node", "desk") as network:
        cluster = Cluster(network, folder)
        uri = serve_s3(network)
        cluster.start_head(takes_jobs=True)
        until(lambda: "raylet" in " ".join(network.processes("head").values()))
        cluster.start_node()
        write(home, 4, network="own:slow", arguments="")
        point_to(home, uri)
        desk = Desk(cluster, home)
        until(desk.answered)
        assert "takes another token" in desk("status", code=2, RAY_AUTH_TOKEN="f" * 64)
        assert "asks for a token" in desk("status", code=2, RAY_AUTH_MODE="disabled")
        where = ("--storage", str(folder / "studies"))
        more = ("--max-trials", "12", "--seeds", "1", "--json")
        first = json.loads(desk("submit", "faults.toml", *where, *more))["job"]
        assert f"{first}  " in desk("status")

        def under_way() -> bool:
            exists = StudyFolder(folder / "studies", "faults").exists
            return exists and len(outcomes(open_study(folder))) >= 2 and cluster.works("node")

        until(under_way, seconds=300.0)
        assert json.loads(desk("stop", first, "--json"))["status"] == "STOPPED"
        assert "] trial" in desk("logs", first)
        assert "  STOPPED  " in desk("status", first, code=1)
        before = outcomes(open_study(folder))
        assert 2 <= len(before) < 12
        second = json.loads(desk("submit", "faults", "--resume", *where, "--json"))["job"]
        assert "[12/12] trial" in desk("logs", second, "--follow")
        assert json.loads(desk("status", second, "--json"))["status"] == "SUCCEEDED"
    study = open_study(folder)
    check(study, 12, before)
    assert study.counts()["failed"] == 0
