"""What is wrong with an installation, before a search finds out."""

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any

from hwmodel.errors import CrossfrontError, StudyError
from hwmodel.extras import EXTRAS, hint, missing
from search.environment import describe_environment
from search.folder import StudyFolder, study_names

__all__ = ["BROKEN", "OK", "WARNING", "Check", "examine"]

OK, WARNING, BROKEN = "ok", "warning", "broken"

_LEAST_GB = 2.0
_PATIENCE_S = 60.0
_NODE_PATIENCE_S = 30.0
_MENDS = {
    True: "install the cluster's Ray and Python here, or ours there; they must be the same",
    False: "start its head (ray start --head), or search on this machine alone",
}
"""Of a cluster that cannot be joined: whether it is because of its versions."""
_SAME = ("ray", "crossfront", "torch")
"""Packages whose versions have to be the same on every node."""
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
    """Looks at everything that a search needs; each look has a minute to answer.

    Args:
        storage: folder of all studies.
        tracking_uri: an MLflow server or database; None for the local one.
        address: a Ray cluster; None for this machine alone.
    """
    checks: dict[str, Callable[[], str]] = {
        "Python": _python,
        "packages": _packages,
        "torch": _torch,
        "threads": _threads,
        "storage": lambda: _storage(storage),
        "disk": lambda: _disk(storage),
        "tracking": lambda: _tracking(tracking_uri),
        "Ray": lambda: _ray(address),
    }
    found = [_in_time(name, look) for name, look in checks.items()]
    studies = [_in_time("study", partial(_study, storage, name)) for name in study_names(storage)]
    damaged = [check for check in studies if check.verdict != OK]
    readable = f"{len(studies) - len(damaged)} can be read"
    return [*found, Check(name="studies", verdict=OK, found=readable), *damaged]


class _Trouble(Exception):
    """What a look found that is not well.

    Args:
        found: what there is.
        mend: what to do about it.
        verdict: how bad it is.
    """

    def __init__(self, found: str, mend: str = "", *, verdict: str = BROKEN) -> None:
        super().__init__(found)
        self.mend = mend
        self.verdict = verdict


def _in_time(name: str, look: Callable[[], str]) -> Check:
    """What a look says; one that fails or hangs still lets the others speak."""
    said: list[Check] = []

    def run() -> None:
        try:
            said.append(Check(name=name, verdict=OK, found=look()))
        except _Trouble as trouble:
            found, mend = str(trouble), trouble.mend
            said.append(Check(name=name, verdict=trouble.verdict, found=found, mend=mend))
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


def _python() -> str:
    own = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info < (3, 14):
        raise _Trouble(own, "use Python 3.11 to 3.13: make setup PYTHON=python3.11")
    return own


def _packages() -> str:
    versions, absent = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    extras = [extra for extra in EXTRAS if missing(extra)]
    needed = [name for name in absent if not any(name in EXTRAS[extra] for extra in EXTRAS)]
    if needed:
        raise _Trouble(f"missing: {', '.join(needed)}", "install the project again: make setup")
    if extras:
        found = f"{', '.join(versions)}; without the extras {', '.join(extras)}"
        raise _Trouble(found, f"if you want them: {hint(','.join(extras))}", verdict=WARNING)
    return ", ".join(versions)


def _torch() -> str:
    import torch

    from trainers.devices import multiplies_bfloat16

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    product = torch.ones(2, 2) @ torch.ones(2, 2)
    if float(product.sum()) != 8.0:
        found = "a product of two matrices came out wrong"
        raise _Trouble(found, "install torch again: make setup")
    if torch.version.cuda is not None and not devices:
        raise _Trouble(
            f"{torch.__version__} for CUDA {torch.version.cuda}, but no GPU is seen",
            "look at nvidia-smi, or install torch's CPU build",
            verdict=WARNING,
        )
    where = ", ".join(devices) or "no GPU, trains on the processor"
    own = torch.device("cuda" if devices else "cpu")
    narrow = "" if multiplies_bfloat16(own) else ", bfloat16 slower than float32"
    return f"{torch.__version__}; {where}{narrow}"


def _threads() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    found = f"{usable} processor cores; OMP_NUM_THREADS {asked}"
    if usable == 1:
        raise _Trouble(found, "use [ray] workers = 1", verdict=WARNING)
    return found


def _storage(storage: Path) -> str:
    shown, place = str(storage), _nearest(storage)
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"written")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{shown!r} cannot be written ({error.strerror})"
        raise _Trouble(found, "choose another folder with --storage") from None
    return f"{shown!r} can be {'written' if storage.exists() else 'made'}"


def _disk(storage: Path) -> str:
    free = shutil.disk_usage(_nearest(storage)).free / 1e9
    found = f"{free:.1f} GB free"
    if free < _LEAST_GB:
        mend = "make room, or choose another folder with --storage"
        raise _Trouble(found, mend, verdict=WARNING)
    return found


def _nearest(storage: Path) -> Path:
    """The storage folder, or of the folders above it the nearest that exists."""
    return next(p for p in (storage.absolute(), *storage.absolute().parents) if p.exists())


def _study(storage: Path, name: str) -> str:
    from search.study import Study
    from search.trials import candidate_of

    try:
        study = Study.open(StudyFolder(storage, name))
        study.counts()
        study.front_means()
        for trial in study.front():
            candidate_of(trial)
    except StudyError as error:
        mend = error.mend or f"mend what it names, or move {storage / name} away"
        raise _Trouble(error.found, mend) from None
    return "can be read"


def _tracking(uri: str | None) -> str:
    from search.mlflow_store import check_tracking

    absent = missing("tracking")
    if absent:
        found = f"runs are not mirrored without {' and '.join(absent)}"
        raise _Trouble(found, hint("tracking"), verdict=WARNING if uri is None else BROKEN)
    if uri is None:
        return f"MLflow's local database (SQLite {sqlite3.sqlite_version})"
    try:
        check_tracking(uri)
    except CrossfrontError as error:
        mend = "start the server, set its login, or leave --tracking-uri out"
        raise _Trouble(str(error), mend) from None
    return "answers and lets us in"


def _ray(address: str | None) -> str:
    from search.config import RayConfig
    from search.ray_session import OTHER_VERSIONS, prepare_ray, start_ray

    if address is None:
        return "starts on this machine; a cluster: --address"
    config = RayConfig(address=address)
    prepare_ray(config)
    try:
        start_ray(config)
    except CrossfrontError as error:
        raise _Trouble(str(error), _MENDS[OTHER_VERSIONS in str(error)]) from None
    import ray

    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        cpus = sum(node["Resources"].get("CPU", 0) for node in alive)
        gpus = sum(node["Resources"].get("GPU", 0) for node in alive)
        nodes = f"{len(alive)} node{'s' * (len(alive) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"
        return f"{nodes}; {_same_versions(_versions_of_nodes(alive), _versions())}"
    finally:
        ray.shutdown()


def _versions_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str] | None]:
    """Versions on each node of the cluster by its address; None of one that does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    packages = _SAME

    def look() -> dict[str, str]:  # sent as it is: a node may have no Crossfront to look it up in
        import importlib.metadata
        import platform

        found = {"Python": platform.python_version()}
        for name in packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "not installed"
        return found

    task = ray.remote(num_cpus=0)(look)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        asked[name] = task.options(scheduling_strategy=there).remote()
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_NODE_PATIENCE_S)
    found: dict[str, dict[str, str] | None] = {}
    for name, answer in asked.items():
        try:
            found[name] = ray.get(answer, timeout=0)
        except ray.exceptions.RayError:
            found[name] = None
    return found


def _same_versions(found: Mapping[str, Mapping[str, str] | None], own: Mapping[str, str]) -> str:
    """What all nodes have, if it is what this machine has."""
    odd = []
    for node, versions in found.items():
        if versions is None:
            odd.append(f"node {node} does not run tasks")
            continue
        differing = [f"{name} {versions[name]}" for name in own if versions[name] != own[name]]
        if differing:
            odd.append(f"node {node} has {', '.join(differing)}")
    ours = ", ".join(f"{name} {number}" for name, number in own.items())
    if odd:
        mend = "install the same versions on every node, or leave out those that do not answer"
        raise _Trouble(f"{'; '.join(odd)}; here it is {ours}", mend)
    return f"everywhere {ours}"


def _versions() -> dict[str, str]:
    """Versions here of what has to be the same on every node."""
    here = describe_environment()
    return {"Python": here["python"], **{name: here["packages"][name] for name in _SAME}}
