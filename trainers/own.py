"""A user's own network, data set or method, by `module:name`."""

import importlib
from pathlib import Path
from typing import Any

from hwmodel.errors import ConfigError

__all__ = ["is_own", "load_own"]


def is_own(name: object) -> bool:
    """Whether a name means something of the user's."""
    return isinstance(name, str) and ":" in name


def load_own(name: str, what: str) -> Any:
    """What `module:name` means, a callable; the module is looked for where Python looks.

    The command line looks in the folder that it is called in, too, and so do its workers.

    Args:
        name: `module:name`.
        what: what it is to be, for messages.

    Raises:
        ConfigError: it cannot be imported, or is no callable.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # of something that it imports
            raise ConfigError(f"{what} {name!r} cannot be imported: {error}") from None
        raise ConfigError(
            f"{what} {name!r} cannot be imported: no module {error.name!r} in {str(Path.cwd())!r} "
            f"or elsewhere on Python's path; go to the folder of {error.name}.py, or put it into "
            "PYTHONPATH"
        ) from None
    except Exception as error:  # a module of the user may raise anything
        raise ConfigError(f"{what} {name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ConfigError(f"{what} {name!r} is a {type(found).__name__}; allowed: a callable")
    return found
