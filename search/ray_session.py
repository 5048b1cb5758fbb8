"""A Ray of this process: a local one on loopback, or a cluster that is there."""

import logging
import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from hwmodel.errors import ClusterError
from search.config import RayConfig

__all__ = ["OTHER_VERSIONS", "check_answers", "check_cluster", "prepare_ray", "start_ray"]

OTHER_VERSIONS = "Version mismatch"
"""Ray's word for a cluster that runs another Ray or Python."""
_SETTINGS = b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)
"""How a client of HTTP/2, which Ray speaks, begins: its preface and an empty frame of settings,
which the server answers with its own (RFC 9113, sections 3.4 and 6.5)."""


def start_ray(config: RayConfig, modules: Sequence[Path] = ()) -> Path | None:
    """Joins a cluster, or starts a local one that listens on loopback only.

    Args:
        config: which.
        modules: Python files and packages that the nodes of a cluster are sent.

    Returns:
        The folder of logs and sockets of a local one, which nobody removes.

    Raises:
        ClusterError: the cluster does not answer, wants another token, or has other versions; or
            this machine has fewer GPUs than a trial wants.
    """
    import ray
    from ray.exceptions import AuthenticationError, RuntimeEnvSetupError

    if config.address is not None and not config.local:
        check_cluster(config)
        try:
            ray.init(
                address=config.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": [str(path) for path in modules]} if modules else None,
            )
        except (
            OSError,
            ValueError,
            RuntimeError,
            AuthenticationError,
            RuntimeEnvSetupError,
        ) as error:
            raise _refusal(config, error) from None
        return None
    started = ray.init(
        address="local",
        num_cpus=math.ceil(config.workers * max(config.cpus_per_trial, 1)),
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if gpus < config.gpus_per_trial:  # Tune would wait for them without a word
        ray.shutdown()
        raise ClusterError(
            f"ray.gpus_per_trial is {config.gpus_per_trial:g}; this machine has {gpus:g} GPUs"
        )
    return Path(started.address_info["session_dir"])


def check_cluster(config: RayConfig, *, joining: bool = False) -> None:
    """Refuses a cluster whose head does not answer, before anything is done for it.

    Args:
        config: a local Ray always answers.
        joining: join it for a moment, too: it may have other versions, or ask for a token.

    Raises:
        ClusterError: naming the address and the reason.
    """
    if config.address is None or config.local:
        return
    try:
        check_answers(config.address)
    except (OSError, ValueError) as error:
        raise _refusal(config, error) from None
    if joining:
        prepare_ray(config)
        import ray

        start_ray(config)
        ray.shutdown()


def _refusal(config: RayConfig, error: Exception) -> ClusterError:
    return ClusterError(f"Ray cluster {config.address!r} cannot be joined: {_reason(error)}")


def check_answers(address: str) -> None:
    """Greets what listens at `HOST:PORT`; Ray itself would wait for minutes.

    Raises:
        OSError: nothing answers, or something else than Ray.
        ValueError: an address of another form.
    """
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if address == "auto":
        return
    if scheme not in ("", "ray") or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            "allowed: auto, local, HOST:PORT of the head (usually 6379), or ray://HOST:PORT"
        )
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(_GREETING)
            if connection.recv(4)[3:] != _SETTINGS:
                raise ConnectionError("what listens there is not Ray")


def _reason(error: BaseException) -> str:
    """Why a cluster does not let this process in, in one line."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    text = " ".join(" ".join(map(str, causes)).split())
    if "InvalidAuthToken" in text or "AuthenticationError" in text:
        return (
            "it asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's own"
        )
    return " ".join(str(error).split()) or type(error).__name__


def _only_on_loopback(address: str | None) -> bool:
    """Whether a head listens on 127.0.0.1 and nowhere else: not even next to it."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdecimal():
        return False
    try:
        socket.create_connection(("127.0.0.2", int(port)), timeout=1).close()
    except (OSError, OverflowError):
        return True
    return False


def prepare_ray(config: RayConfig) -> None:
    """Settings that Ray reads from the environment when it is imported."""
    if config.local or _only_on_loopback(config.address):
        # Makes Ray take the loopback address for its node, and so listen on nothing else.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # Snapshots that nobody reads would keep some 10 KB of every trial in memory.
        "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
