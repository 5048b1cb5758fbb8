"""From options of the command line to settings that replace a file's."""

from typing import Any

__all__ = ["given"]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}
