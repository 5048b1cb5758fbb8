"""Options that commands share, and how they become settings."""

from typing import Annotated, Any

import typer

__all__ = ["Json", "Quiet", "given"]

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output; no progress.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}
