import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from hwmodel.errors import ClusterError, ConfigError
from search import jobs
from search.config import load_config
from search.folder import StudyFolder
from search.jobs import Cluster, Shipment
from search.study import Study
from tests.waiting import until

ADDRESS = "http://127.0.0.1:8265"


@dataclass
class FakeClient:
    """Ray's client as far as it is used, without a cluster."""

    statuses: list[str] = field(default_factory=lambda: ["SUCCEEDED"])
    raises: Exception | None = None
    versions: dict[str, str] = field(default_factory=dict)
    submitted: dict[str, Any] = field(default_factory=dict)
    shipped: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    polls: int = 0

    def submit_job(self, **options: Any) -> None:
        self._raise()
        self.submitted = options
        folder = options.get("runtime_env", {}).get("working_dir")
        for path in sorted(Path(folder).rglob("*")) if folder else ():
            if path.is_file():
                self.shipped[str(path.relative_to(folder))] = path.read_text()

    def list_jobs(self) -> list[Any]:
        self._raise()
        return [self.get_job_info("b"), self.get_job_info("a"), _details("c", "RUNNING", None)]

    def get_job_info(self, job: str) -> Any:
        self._raise()
        status = self.statuses[min(self.polls, len(self.statuses) - 1)]
        self.polls += 1
        return _details(job, status, {"crossfront_study": "s", "crossfront_storage": "/shared"})

    def get_job_logs(self, job: str) -> str:
        self._raise()
        return "".join(f"line {index}\n" for index in range(self.polls))

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)

    def _do_request(self, method: str, path: str) -> Any:
        self._raise()
        assert (method, path) == ("GET", "/api/v0/cluster_metadata")
        return SimpleNamespace(json=lambda: {"data": self.versions})

    def _raise(self) -> None:
        if self.raises is not None:
            raise self.raises


def _details(job: str, status: str, metadata: dict[str, str] | None) -> Any:
    ended = {"SUCCEEDED": 0, "FAILED": 127, "STOPPED": -15}
    return SimpleNamespace(
        submission_id=job,
        status=status,
        message=None,
        metadata=metadata,
        driver_exit_code=ended.get(status),
        start_time=1_700_000_000_000 + 1000 * ord(job[0]),
        end_time=None,
    )


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Stands behind every `Cluster`."""
    fake = FakeClient()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: fake)
    monkeypatch.setattr(jobs, "_check_reachable", lambda address: None)
    monkeypatch.setattr(jobs, "_POLL_S", 0.0)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "")
    return fake


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that names files of every kind beside itself."""
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.idx").write_text("a")
    (folder / "nets.py").write_text("import helper")
    (folder / "helper.py").write_text("")
    (folder / "preset.toml").write_text('base = "isaac-8bit-weights"\nname = "mine"\n')
    (folder / "secret.txt").write_text("not yours")
    path = folder / "study.toml"
    path.write_text(
        '[study]\nname = "s"\n[data]\nname = "idx"\npath = "images"\ncache = "cache"\n'
        '[network]\nname = "nets:build"\n[hardware]\npreset = "preset.toml"\n'
    )
    return path


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of the user's own, which reading a configuration imports."""
    (tmp_path / "my_method_of_jobs.py").write_text(
        "from trainers.methods.tinyadc import TinyAdc, TinyAdcConfig\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Config(TinyAdcConfig):\n    pass\n"
        "class Mine(TinyAdc):\n    config = Config\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_method_of_jobs:Mine"


def shipment(config: Path, extra: tuple[str, ...] = ()) -> Shipment:
    return Shipment.of(config, load_config(config), extra)


def test_only_what_the_study_names_is_sent(client: FakeClient, config: Path) -> None:
    job = Cluster(ADDRESS).submit(
        ["crossfront", "search", "study.toml", "--name", "two words"],
        study="s",
        storage="/shared/all studies",
        shipment=shipment(config, ("helper.py",)),
        gpus=0.5,
    )
    assert set(client.shipped) == {
        *("study.toml", "images/a.idx", "nets.py", "helper.py", "preset.toml")
    }
    folder = f"'/shared/all studies/inputs/{job}'"
    assert client.submitted["entrypoint"] == (
        f"mkdir -p {folder} && cp -R . {folder} && cd {folder} && "
        "exec crossfront search study.toml --name 'two words'"
    )
    assert client.submitted["submission_id"] == job
    assert job.startswith("s-")
    assert client.submitted["entrypoint_num_gpus"] == 0.5


def test_modules_of_methods_and_data_are_sent_too(config: Path, own_method: str) -> None:
    (config.parent / "pictures").mkdir()
    (config.parent / "pictures" / "ours.py").write_text("")
    config.write_text(
        '[data]\nname = "pictures.ours:train"\n[network]\nname = "installed:elsewhere"\n'
        f'[method]\nname = "{own_method}"\n'
    )
    (config.parent / f"{own_method.partition(':')[0]}.py").touch()
    files = shipment(config).files
    assert set(files) == {"study.toml", "pictures", f"{own_method.partition(':')[0]}.py"}


def test_nothing_is_sent_without_a_shipment(client: FakeClient) -> None:
    Cluster(ADDRESS).submit(["crossfront", "resume", "s"], study="s", storage="/shared")
    assert client.submitted["entrypoint"].endswith("; exec crossfront resume s")
    assert "runtime_env" not in client.submitted
    assert "entrypoint_num_gpus" not in client.submitted


def test_study_goes_on_in_the_folder_of_what_was_sent_before(
    client: FakeClient, tmp_path: Path
) -> None:
    storage = tmp_path / "all studies"

    def where() -> Path:
        Cluster(ADDRESS).submit(["pwd"], study="s", storage=str(storage))
        command = ["sh", "-c", client.submitted["entrypoint"]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    assert where() == tmp_path
    (storage / "inputs" / "s-other-01234567").mkdir(parents=True)
    assert where() == tmp_path
    (storage / "inputs" / "s-89abcdef").mkdir()
    assert where() == storage / "inputs" / "s-89abcdef"


@pytest.mark.parametrize(
    ("path", "message"),
    [("../images", r"data.path is '../images', outside"), ("none", "data.path is 'none', which")],
)
def test_file_that_cannot_be_sent_is_named(config: Path, path: str, message: str) -> None:
    config.write_text(config.read_text().replace('"images"', f'"{path}"'))
    with pytest.raises(ConfigError, match=message):
        shipment(config)


def test_extra_file_that_is_missing_is_named(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--with is 'other\.py', which"):
        shipment(config, ("other.py",))


def test_file_that_cannot_be_read_is_named(config: Path, tmp_path: Path) -> None:
    sent = shipment(config)
    (config.parent / "nets.py").unlink()
    with pytest.raises(ConfigError, match=r"nets\.py' cannot be sent: .*No such file"):
        sent.pack(tmp_path / "packed")


def test_absolute_paths_are_the_clusters_own(config: Path) -> None:
    config.write_text(config.read_text().replace('"images"', '"/shared/images"'))
    assert "images" not in shipment(config).files


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "auto", "ray://host:10001", "http://", "http://h:99999", ""]
)
def test_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ClusterError, match=f"address is '{address}'; allowed: http://HOST:PORT"):
        Cluster(address)


def test_our_address_wins_over_the_environments(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:1")
    Cluster(f"{ADDRESS}/")
    assert os.environ["RAY_API_SERVER_ADDRESS"] == ADDRESS


def test_address_that_nothing_answers_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"{address} cannot be reached \(.*refused\)"):
            Cluster(address)


@pytest.mark.parametrize(
    ("code", "message"), [(404, "answers, but has no Ray job server"), (401, "asks for a token")]
)
def test_answer_of_another_server_or_to_another_token(code: int, message: str) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ClusterError, match=message):
                Cluster(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def authentication_error(text: str) -> Any:
    from ray.exceptions import AuthenticationError

    return AuthenticationError(text)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Request failed with status code 404: Job j does not exist."),
            f"cluster {ADDRESS} knows no job 'j'; see: crossfront status",
        ),
        (
            RuntimeError("status code 500: Traceback (most recent call last):\n a\nOops: y\n"),
            f"cluster {ADDRESS} refuses: Oops: y",
        ),
        (ConnectionError("gone"), f"cluster {ADDRESS} cannot be reached (gone); "),
        (authentication_error("Authentication failed: x"), "takes another token; set RAY_AUTH"),
        (authentication_error("Authentication required: x"), "asks for a token; set RAY_AUTH"),
    ],
)
def test_what_ray_raises_becomes_one_line(
    client: FakeClient, error: Exception, message: str
) -> None:
    cluster = Cluster(ADDRESS)
    client.raises = error
    with pytest.raises(ClusterError) as caught:
        cluster.job("j")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_versions_are_told(client: FakeClient) -> None:
    import platform

    import ray

    cluster = Cluster(ADDRESS)
    client.versions = {"rayVersion": ray.__version__, "pythonVersion": platform.python_version()}
    assert cluster.differences() is None
    client.versions = {"rayVersion": "2.9.0", "pythonVersion": "3.9.1"}
    assert f"runs Ray 2.9.0 on Python 3.9.1, here it is Ray {ray.__version__}" in str(
        cluster.differences()
    )


def test_jobs_of_others_are_not_listed(client: FakeClient) -> None:
    assert [job.id for job in Cluster(ADDRESS).jobs()] == ["a", "b"]


def test_follow_shows_every_line_once_and_the_last_ones(client: FakeClient) -> None:
    client.statuses = ["PENDING", "RUNNING", "FAILED"]
    shown: list[str] = []
    job = Cluster(ADDRESS).follow("j", shown.append)
    assert shown == ["line 0\n", "line 1\n", "line 2\n"]
    assert (job.status, job.exit_code, job.failed) == ("FAILED", 127, True)


def test_stop_waits_for_the_end(client: FakeClient) -> None:
    client.statuses = ["RUNNING", "RUNNING", "STOPPED"]
    job, was_running = Cluster(ADDRESS).stop("j")
    assert (job.status, was_running, set(client.stopped)) == ("STOPPED", True, {"j"})


def test_stop_leaves_a_job_that_has_ended(client: FakeClient) -> None:
    job, was_running = Cluster(ADDRESS).stop("j")
    assert (job.status, was_running, client.stopped) == ("SUCCEEDED", False, [])


def test_stop_says_what_still_runs(client: FakeClient) -> None:
    client.statuses = ["RUNNING"]
    assert Cluster(ADDRESS).stop("j", patience_s=0.0)[0].running


Crossfront = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Crossfront]:
    """A Ray head on loopback that wants a token; runs `crossfront` against it."""
    pytest.importorskip("aiohttp", reason="Ray's job server needs ray[default]")
    tools = tmp_path / "bin"
    tools.mkdir()
    crossfront = tools / "crossfront"
    crossfront.write_text(f'#!/bin/sh\nexec {sys.executable} -m search.cli "$@"\n')
    crossfront.chmod(0o755)
    port, client_port = _free_ports()
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback for every port
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--port", "0", "--num-cpus", "2"]
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--ray-client-server-port", str(client_port), "--dashboard-agent-listen-port", "0"]
    command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1"]
    command += ["--dashboard-port", str(port), "--object-store-memory", str(80 * 2**20)]
    short_folder = TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    command += ["--temp-dir", short_folder.name, "--disable-usage-stats"]  # for its sockets' names

    def run(*arguments: object, code: int = 0, **changes: str) -> Any:
        answer = subprocess.run(
            [str(crossfront), *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **changes},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert answer.returncode == code, answer.stderr
        return answer

    with (tmp_path / "head.log").open("w") as log, short_folder:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until(lambda: _answers(port) or process.poll() is not None, 180.0, every=1.0)
            assert process.poll() is None, (tmp_path / "head.log").read_text()
            yield run
        finally:
            _end_group(process)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Ends the head with all that it started: Ray's own processes share its group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.ray
@pytest.mark.slow
def test_study_runs_on_a_cluster_and_can_be_stopped(head: Crossfront, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "isaac-8bit-weights"\nname = "mine"\n')
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "tiny"\ntrials = 2\n[network]\nname = "mlp"\narguments = { hidden = 8 }\n'
        '[hardware]\npreset = "mine.toml"\n[train]\ndense_epochs = 0\nepochs = 0\n'
        "train_count = 100\n[data]\ntest_count = 50\n[ray]\nworkers = 1\n"
    )
    storage = tmp_path / "studies"
    wrong = head("status", code=2, RAY_AUTH_TOKEN="f" * 64)
    assert "takes another token" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    assert "asks for a token" in head("status", code=2, RAY_AUTH_MODE="disabled").stderr

    submit = ("submit", "study.toml", "--storage", storage, "--json")
    first = json.loads(head(*submit).stdout)["job"]

    def ended() -> bool:
        return json.loads(head("status", first, "--json").stdout)["ended"] is not None

    until(ended, 180.0, every=1.0)
    assert "[2/2] trial 1 complete" in head("logs", first).stdout
    study = Study.open(StudyFolder(storage, "tiny"))
    assert study.counts()["complete"] == 2
    assert study.config.hardware.preset == str(storage / "inputs" / first / "mine.toml")

    second = json.loads(head(*submit, "--name", "long").stdout)["job"]
    stopped = json.loads(head("stop", second, "--json").stdout)
    assert (stopped["status"], stopped["was_running"]) == ("STOPPED", True)
    assert head("status", second, code=1).stdout.startswith(f"{second}  STOPPED  study long")
    assert f"knows no job '{first}x'" in head("stop", f"{first}x", code=2).stderr
