"""Packages that only some uses need: what `pip install 'crossfront[EXTRA]'` adds."""

from importlib.util import find_spec

from hwmodel.errors import ConfigError

__all__ = ["EXTRAS", "hint", "missing", "need"]

EXTRAS = {
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "report": ("matplotlib", "plotly"),
    "tracking": ("mlflow",),
}
"""Packages by extra."""


def missing(extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if not _is_installed(name)]


def hint(extra: str) -> str:
    """How to install an extra."""
    return f"pip install 'crossfront[{extra}]'"


def need(extra: str, what: str) -> None:
    """Refuses what an extra is missing for.

    Args:
        extra: its name.
        what: needs it.

    Raises:
        ConfigError: naming the packages and the extra.
    """
    absent = missing(extra)
    if absent:
        raise ConfigError(f"{what} needs {' and '.join(absent)}: {hint(extra)}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
