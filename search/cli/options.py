"""Options that commands share, and how they become settings."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from hwmodel.adc import ADC_LAWS
from search.folder import DEFAULT_STORAGE, study_names
from search.objectives import ACCURACIES, COSTS

__all__ = [
    "LAWS",
    "NETWORKS",
    "RULES",
    "Force",
    "Json",
    "Quiet",
    "completes",
    "given",
    "studies",
]

LAWS = tuple(ADC_LAWS)
NETWORKS = (
    "lenet5",
    "mlp",
    "mobilenet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet50",
    "resnet56",
    "vgg8",
    "vgg11",
    "vgg16",
)
"""What the shell offers; the networks themselves (`trainers.networks`) need torch."""
RULES = ("knee", *ACCURACIES, *COSTS)
"""Ways to choose one front member by a word."""

Force = Annotated[bool, typer.Option("--force", help="Replace an export of another network.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and the result.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}


def completes(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for the letters typed so far; the names are asked for only then."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """Studies that the shell offers, of the storage that the line names."""
    names = study_names(Path(context.params.get("storage") or DEFAULT_STORAGE))
    return [name for name in names if name.startswith(incomplete)]
