"""Studies as jobs of a Ray cluster: the one module that knows Ray's job API.

A job drives its study on the cluster, whose every node takes trials. What the configuration names
by relative paths travels along and ends in the storage folder, under `inputs/JOB`: a study outlives
the cluster that began it, and the scratch folders where Ray unpacks what a job ships.
"""

import logging
import os
import platform
import secrets
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hwmodel.errors import ClusterError, ConfigError
from search.config import StudyConfig, relative_files
from search.inputs import own_modules

__all__ = ["Cluster", "Job", "Shipment"]

_STUDY, _STORAGE = "crossfront_study", "crossfront_storage"
_CONNECT_S = 10.0
_POLL_S = 1.0
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.authentication.http_token_authentication",
    "ray._private.runtime_env.packaging",
)
_MAY_NOT_EXIST = ("data.cache",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the cluster knows it."""

    id: str
    status: str
    """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`."""
    message: str
    exit_code: int | None
    study: str | None
    """None: not a job of `crossfront submit`."""
    storage: str | None
    started: str | None
    ended: str | None

    @property
    def running(self) -> bool:
        """Whether it may still change."""
        return self.status in ("PENDING", "RUNNING")

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than well."""
        return not self.running and self.status != "SUCCEEDED"


@dataclass(frozen=True, slots=True)
class Shipment:
    """A configuration and what travels along, as paths relative to its folder."""

    config: Path
    files: tuple[str, ...]

    @classmethod
    def of(cls, config: Path, settings: StudyConfig, extra: Sequence[str] = ()) -> "Shipment":
        """What a study needs from its configuration's folder.

        Args:
            config: the file.
            settings: what it says.
            extra: further files or folders, such as what a module of the user's own imports.

        Raises:
            ConfigError: something that is missing, or lies outside the folder.
        """
        config = config.resolve()
        folder = config.parent
        files = [config.name]
        wanted = [*relative_files(config).items(), *(("--with", name) for name in extra)]
        for where, name in wanted:
            path = Path(os.path.normpath(folder / name))
            if not path.is_relative_to(folder):
                raise ConfigError(
                    f"{where} is {name!r}, outside the configuration's folder, which is all that "
                    "is shipped; move it there, or give an absolute path that every node can read"
                )
            if path.exists():
                files.append(str(path.relative_to(folder)))
            elif where not in _MAY_NOT_EXIST:
                raise ConfigError(f"{where} is {name!r}, which {str(folder)!r} does not hold")
        files += [path.name for path in own_modules(settings, folder)]
        return cls(config, tuple(files))

    def pack(self, to: Path) -> None:
        """Copies everything into a folder.

        Raises:
            ConfigError: something that cannot be read.
        """
        for name in self.files:
            source, target = self.config.parent / name, to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if source.is_dir():
                    shutil.copytree(source, target, dirs_exist_ok=True)
                else:
                    shutil.copy2(source, target)
            except OSError as error:
                raise ConfigError(f"{str(source)!r} cannot be sent: {error}") from None


class Cluster:
    """A Ray cluster, through the job server of its head.

    Args:
        address: the job server, `http://HOST:PORT`.

    Raises:
        ClusterError: an address that is none, that nothing answers, or that wants another token.
    """

    def __init__(self, address: str) -> None:
        _check_address(address)
        self.address = address.rstrip("/")
        _check_reachable(self.address)
        # Ray prefers these two variables to the address that it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        with self._explained():
            from ray.job_submission import JobSubmissionClient

            for chatty in _CHATTY:
                logging.getLogger(chatty).setLevel(logging.ERROR)
            self._client = JobSubmissionClient(self.address)

    def differences(self) -> str | None:
        """How the cluster's Ray and Python differ from ours, or None."""
        import ray

        with self._explained():
            # No public call returns them.
            answer = self._client._do_request("GET", "/api/v0/cluster_metadata").json()
        theirs = answer.get("data", {})
        found = (theirs.get("rayVersion"), theirs.get("pythonVersion"))
        ours = (ray.__version__, platform.python_version())
        if found == ours:
            return None
        return (
            f"cluster {self.address} runs Ray {found[0]} on Python {found[1]}, here it is Ray "
            f"{ours[0]} on Python {ours[1]}"
        )

    def submit(
        self,
        command: Sequence[str],
        *,
        study: str,
        storage: str,
        shipment: Shipment | None = None,
        gpus: float = 0.0,
    ) -> str:
        """Starts a command as a job; returns the job's id.

        Args:
            command: run by the cluster, in the folder of the shipped files where there are any, now
                or when the study began.
            study: its name, which begins the id.
            storage: where the cluster keeps studies.
            shipment: files to send.
            gpus: GPUs that the command itself needs; the head node has it run otherwise.

        Raises:
            ClusterError: the cluster does not take it.
        """
        job = f"{study}-{secrets.token_hex(4)}"
        options: dict[str, Any] = {
            "submission_id": job,
            "metadata": {_STUDY: study, _STORAGE: storage},
        }
        if gpus:
            options["entrypoint_num_gpus"] = gpus
        with tempfile.TemporaryDirectory() as packed:
            entrypoint = shlex.join(command)
            if shipment is not None:
                shipment.pack(Path(packed))
                options["runtime_env"] = {"working_dir": packed}
                os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"  # all that is named is sent
                folder = shlex.quote(f"{storage}/inputs/{job}")
                entrypoint = (
                    f"mkdir -p {folder} && cp -R . {folder} && cd {folder} && exec {entrypoint}"
                )
            else:
                # What was sent when the study began, such as a network of the user's own.
                sent = f"{shlex.quote(f'{storage}/inputs/{study}-')}????????"
                entrypoint = (
                    f'sent=$(ls -dt {sent} 2>/dev/null | head -n 1); [ -z "$sent" ] || '
                    f'cd "$sent"; exec {entrypoint}'
                )
            with self._explained():
                self._client.submit_job(entrypoint=entrypoint, **options)
        return job

    def jobs(self) -> list[Job]:
        """Every job of `crossfront submit`, the latest last."""
        with self._explained():
            found = [_job(details) for details in self._client.list_jobs()]
        return sorted((job for job in found if job.study), key=lambda job: job.started or "")

    def job(self, job: str) -> Job:
        """How a job stands.

        Raises:
            ClusterError: no such job.
        """
        with self._explained(job):
            return _job(self._client.get_job_info(job))

    def logs(self, job: str) -> str:
        """What a job has printed.

        Raises:
            ClusterError: no such job.
        """
        with self._explained(job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, show: Callable[[str], None]) -> Job:
        """Shows what a job prints, as it does, until it ends; returns how it ended.

        Raises:
            ClusterError: no such job.
        """
        shown = 0
        while True:
            found = self.job(job)  # before the logs, so that the last lines are not missed
            text = self.logs(job)
            if text[shown:]:
                show(text[shown:])
            shown = len(text)
            if not found.running:
                return found
            time.sleep(_POLL_S)

    def stop(self, job: str, patience_s: float = 30.0) -> tuple[Job, bool]:
        """Stops a job and waits for its end; returns how it stands, and whether it was running.

        Raises:
            ClusterError: no such job.
        """
        found = before = self.job(job)
        deadline = time.monotonic() + patience_s
        while found.running and time.monotonic() < deadline:
            with self._explained(job):
                self._client.stop_job(job)  # again: a job that just starts may not hear it
            time.sleep(_POLL_S)
            found = self.job(job)
        return found, before.running

    @contextmanager
    def _explained(self, job: str | None = None) -> Iterator[None]:
        """Turns what Ray raises into one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(_unauthorised(self.address, str(error))) from None
        except OSError as error:  # requests' own errors are such, too
            raise ClusterError(_unreachable(self.address, error)) from None
        except (RuntimeError, ValueError) as error:
            if job is not None and "status code 404" in str(error):
                raise ClusterError(
                    f"cluster {self.address} knows no job {job!r}; see: crossfront status"
                ) from None
            raise ClusterError(f"cluster {self.address} refuses: {_last_line(error)}") from None


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ClusterError(
            f"address is {address!r}; allowed: http://HOST:PORT or https://HOST:PORT of the "
            "cluster's job server, usually port 8265"
        )


def _check_reachable(address: str) -> None:
    """Ray itself would wait for minutes."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=_CONNECT_S).close()
    except urllib.error.HTTPError as error:
        error.close()  # it answers: what it lacks is a token, or it is no job server
        if error.code == 404:
            raise ClusterError(f"address {address} answers, but has no Ray job server") from None
    except (OSError, ValueError) as error:
        raise ClusterError(_unreachable(address, error)) from None


def _unreachable(address: str, error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return (
        f"cluster {address} cannot be reached ({_last_line(reason)}); is its head running with "
        "the job server of ray[default], and its port forwarded?"
    )


def _unauthorised(address: str, text: str) -> str:
    asks = "takes another token" if "Authentication failed" in text else "asks for a token"
    return (
        f"cluster {address} {asks}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
        "RAY_AUTH_TOKEN_PATH to the cluster's own"
    )


def _last_line(error: object) -> str:
    """The reason of an error that may carry a whole stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Traceback (most recent call last)" in str(error):
        lines = lines[-1:]
    return " ".join(lines) or type(error).__name__


def _job(details: Any) -> Job:
    told = details.metadata or {}
    return Job(
        id=details.submission_id or details.job_id,
        status=str(details.status),
        message=_last_line(details.message or ""),
        exit_code=details.driver_exit_code,
        study=told.get(_STUDY),
        storage=told.get(_STORAGE),
        started=_time(details.start_time),
        ended=_time(details.end_time),
    )


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
