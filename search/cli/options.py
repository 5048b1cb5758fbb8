"""Options that commands share, and how they become settings."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

__all__ = ["Json", "Quiet", "completes", "given"]

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}


def completes(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for the letters typed so far; the names are asked for only then."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete
