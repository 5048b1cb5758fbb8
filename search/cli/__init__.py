"""The command line. Each module holds one group of commands; heavy imports wait for their use."""

import os
import sys
from inspect import Parameter, signature
from typing import Annotated

import typer

from hwmodel.errors import CrossfrontError
from search.cli import checkpoints, cluster, hardware, health, studies

__all__ = ["app", "main"]

app = typer.Typer(
    name="crossfront",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Searches crossbar-aware pruning and crossbar sizes for ReRAM accelerators.",
)


@app.callback()
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        from search.environment import crossfront_version

        print(f"crossfront {crossfront_version()}")
        raise typer.Exit


for group in (studies, cluster, checkpoints, hardware, health):
    for command in group.COMMANDS:
        needed = any(x.default is Parameter.empty for x in signature(command).parameters.values())
        app.command(no_args_is_help=needed)(command)


def main() -> None:
    """Runs the command line; a user's mistake is one line and exit code 2."""
    sys.path.insert(0, os.getcwd())  # `module:factory` of the user's own
    try:
        app()
    except CrossfrontError as error:
        print(f"crossfront: {error}", file=sys.stderr)
        raise SystemExit(2) from None
