"""The command that looks after the installation: doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from search.cli.messages import print_json
from search.cli.options import Json, Quiet
from search.folder import DEFAULT_STORAGE

__all__ = ["COMMANDS"]


def doctor(
    storage: Annotated[Path, typer.Option(help="Folder of all studies.")] = DEFAULT_STORAGE,
    tracking_uri: Annotated[str | None, typer.Option(help="An MLflow server or database.")] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check everything that a search needs, and say how to mend it: crossfront doctor.

    With --quiet only what is not well. Exit code 1: something is broken.
    """
    from search.doctor import BROKEN, OK, examine

    checks = examine(storage, tracking_uri, address)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            if quiet and check.verdict == OK:
                continue
            print(f"{check.verdict:8} {check.name:9} {check.found}")
            if check.mend:
                print(f"{'':18} to mend: {check.mend}")
    if any(check.verdict == BROKEN for check in checks):
        raise typer.Exit(1)


COMMANDS = (doctor,)
