"""The files that a configuration names, for nodes that do not have them.

The driver puts data, presets and tables of ADC costs into the exchange; a node that does not find
one under its own path fetches it once, for all its workers.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.config import StudyConfig, named_files, with_files
from search.drivers import exclusive
from search.exchange import Exchange
from trainers.data.cache import cache_folder

__all__ = ["find_inputs", "identity", "own_modules", "send_inputs"]

_NOT_SENT = (("data", "cache"), ("network", "checkpoint"))
"""Nodes make the one, and only the driver reads the other."""
_LIMIT_BYTES = 2 << 30
"""Larger data must be on every node."""
_KEPT_S = 7 * 86_400.0


def own_modules(config: StudyConfig, folder: Path) -> list[Path]:
    """The user's modules and packages that a folder holds; what is installed is on every node."""
    places = (folder / f"{name}{end}" for name in config.own_modules for end in (".py", ""))
    return [place for place in places if place.exists()]


def send_inputs(exchange: Exchange, tables: Mapping[str, Any]) -> dict[str, str]:
    """Puts what a configuration names into the exchange, unless it is there.

    Returns:
        Its names there, by path.
    """
    names: dict[str, str] = {}
    if not exchange.copies:
        return names
    for section, key, path in named_files(tables):
        if (section, key) not in _NOT_SENT and Path(path).exists():
            name, size = identity(Path(path))
            if size <= _LIMIT_BYTES:
                exchange.share(Path(path), name)
                names[path] = name
    return names


def find_inputs(
    exchange: Exchange, tables: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """The tables with paths of this node's own for what it lacks.

    Args:
        exchange: holds what was sent.
        tables: of the configuration.
        names: what `send_inputs` returned.
    """
    found = {
        path: str(_fetched(exchange, Path(path), name))
        for path, name in names.items()
        if not Path(path).exists()
    }
    return with_files(tables, found)


def _fetched(exchange: Exchange, path: Path, name: str) -> Path:
    """The place on this node of what was sent from a path."""
    base = cache_folder() / "inputs"
    place = base / Path(name).name / path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(base / ".lock"):
        os.utime(place.parent)
        for other in base.iterdir():
            if other.is_dir() and time.time() - other.stat().st_mtime > _KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
        if not place.exists():
            exchange.fetch(place, name)
    return place


def identity(path: Path) -> tuple[str, int]:
    """A name that changes with a file, or with any of a folder's, and the size of them all."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in found if file.is_file() and "__pycache__" not in file.parts]
    content, size = hashlib.sha256(str(path).encode()), 0
    for file in files:
        status = file.stat()
        content.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        size += status.st_size
    return f"inputs/{content.hexdigest()[:24]}", size
