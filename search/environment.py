"""What a study ran on, for its records."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["crossfront_version", "describe_environment"]

_PACKAGES = ("crossfront", "torch", "ray", "optuna", "mlflow", "numpy", "pyarrow", "onnx")


def crossfront_version() -> str:
    """The installed version."""
    return _version("crossfront")


def describe_environment() -> dict[str, Any]:
    """Versions and machine, without names of hosts or users."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
