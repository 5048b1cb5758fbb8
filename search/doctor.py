"""What is wrong with an installation, before a search finds out."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread

from hwmodel.errors import CrossfrontError
from search.folder import StudyFolder, study_names

__all__ = ["BROKEN", "OK", "WARNING", "Check", "examine"]

OK, WARNING, BROKEN = "ok", "warning", "broken"

_LEAST_GB = 2.0
_PATIENCE_S = 60.0
_PACKAGES = ("ray", "optuna", "mlflow", "pyarrow", "onnxruntime", "plotly")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: str
    """`ok`, `warning` or `broken`."""
    found: str
    mend: str = ""
    """What to do about it."""


def examine(storage: Path, tracking_uri: str | None, address: str | None) -> list[Check]:
    """Looks at everything that a search needs; nothing of it takes longer than seconds.

    Args:
        storage: folder of all studies.
        tracking_uri: an MLflow server or database; None for the local one.
        address: a Ray cluster; None for this machine alone.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("threads", _threads),
        ("storage", lambda: _storage(storage)),
        ("disk", lambda: _disk(storage)),
        ("studies", lambda: _studies(storage)),
        ("tracking", lambda: _tracking(tracking_uri)),
        ("Ray", lambda: _ray(address)),
    ]
    found = []
    for name, look in checks:
        found.append(_in_time(name, look))
    return found


def _in_time(name: str, look: Callable[[], Check]) -> Check:
    """What a check says; one that fails or hangs still lets the others speak."""
    said: list[Check] = []

    def run() -> None:
        try:
            said.append(look())
        except Exception as error:  # whatever it is
            text = " ".join(str(error).split())
            said.append(Check(name=name, verdict=BROKEN, found=text or type(error).__name__))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if said:
        return said[0]
    return Check(
        name=name,
        verdict=BROKEN,
        found=f"no answer within {_PATIENCE_S:g} s",
        mend="look at the network, the disk or the server behind it",
    )


def _python() -> Check:
    own = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        return Check(name="Python", verdict=OK, found=own)
    mend = "use Python 3.11 to 3.13: make setup PYTHON=python3.11"
    return Check(name="Python", verdict=BROKEN, found=own, mend=mend)


def _packages() -> Check:
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        mend = "install the project again: make setup"
        found = f"missing: {', '.join(missing)}"
        return Check(name="packages", verdict=BROKEN, found=found, mend=mend)
    return Check(name="packages", verdict=OK, found=", ".join(versions))


def _torch() -> Check:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    where = ", ".join(devices) or "no GPU, trains on the processor"
    result = torch.ones(2, 2) @ torch.ones(2, 2)
    if float(result.sum()) != 8.0:
        mend = "install torch again: make setup"
        return Check(
            name="torch",
            verdict=BROKEN,
            found="a product of two matrices came out wrong",
            mend=mend,
        )
    if torch.version.cuda is not None and not devices:
        return Check(
            name="torch",
            verdict=WARNING,
            found=f"{torch.__version__} for CUDA {torch.version.cuda}, but no GPU is seen",
            mend="look at nvidia-smi, or install torch's CPU build",
        )
    return Check(name="torch", verdict=OK, found=f"{torch.__version__}; {where}")


def _threads() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    found = f"{usable} processor cores; OMP_NUM_THREADS {asked}"
    if usable == 1:
        mend = "use [ray] workers = 1"
        return Check(name="threads", verdict=WARNING, found=found, mend=mend)
    return Check(name="threads", verdict=OK, found=found)


def _storage(storage: Path) -> Check:
    shown = str(storage)
    try:
        storage.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=storage) as file:
            file.write(b"written")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check(
            name="storage",
            verdict=BROKEN,
            found=f"{shown!r} cannot be written ({error.strerror})",
            mend="choose another folder with --storage",
        )
    return Check(name="storage", verdict=OK, found=f"{shown!r} can be written")


def _disk(storage: Path) -> Check:
    place = next(
        path for path in (storage.absolute(), *storage.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(place).free / 1e9
    found = f"{free:.1f} GB free"
    if free < _LEAST_GB:
        mend = "make room, or choose another folder with --storage"
        return Check(name="disk", verdict=WARNING, found=found, mend=mend)
    return Check(name="disk", verdict=OK, found=found)


def _studies(storage: Path) -> Check:
    from search.study import Study

    damaged = []
    names = study_names(storage)
    for name in names:
        try:
            Study.open(StudyFolder(storage, name)).counts()
        except CrossfrontError as error:
            damaged.append(str(error))
    if damaged:
        return Check(name="studies", verdict=BROKEN, found="; ".join(damaged))
    return Check(name="studies", verdict=OK, found=f"{len(names)} can be read")


def _tracking(uri: str | None) -> Check:
    from search.mlflow_store import check_tracking

    if uri is None:
        found = f"MLflow's local database (SQLite {sqlite3.sqlite_version})"
        return Check(name="tracking", verdict=OK, found=found)
    try:
        check_tracking(uri)
    except CrossfrontError as error:
        mend = "start the server, set its login, or leave --tracking-uri out"
        return Check(name="tracking", verdict=BROKEN, found=str(error), mend=mend)
    return Check(name="tracking", verdict=OK, found="answers and lets us in")


def _ray(address: str | None) -> Check:
    from search.config import RayConfig
    from search.ray_session import prepare_ray, start_ray

    if address is None:
        return Check(name="Ray", verdict=OK, found="starts on this machine; a cluster: --address")
    prepare_ray(local=False)
    try:
        start_ray(RayConfig(address=address))
    except CrossfrontError as error:
        mend = "start its head (ray start --head), or search on this machine alone"
        return Check(name="Ray", verdict=BROKEN, found=str(error), mend=mend)
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    cpus = sum(node["Resources"].get("CPU", 0) for node in alive)
    gpus = sum(node["Resources"].get("GPU", 0) for node in alive)
    ray.shutdown()
    found = f"{len(alive)} nodes with {cpus:g} CPUs and {gpus:g} GPUs, Ray {ray.__version__}"
    return Check(name="Ray", verdict=OK, found=found)
