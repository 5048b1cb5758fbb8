"""Commands about single networks: compress, verify, list."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from hwmodel.errors import ConfigError, CrossfrontError

__all__ = ["COMMANDS"]

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def compress(
    config: Annotated[Path, typer.Argument(help="The study's TOML file; see [candidate].")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    nonzeros: Annotated[int | None, typer.Option(help="Non-zeros per bitline segment.")] = None,
    wordlines: Annotated[int | None, typer.Option(help="Height of the crossbars.")] = None,
    bitlines: Annotated[int | None, typer.Option(help="Width of the crossbars.")] = None,
    as_json: Json = False,
) -> None:
    """Prune, train and export one candidate: crossfront compress F.toml --nonzeros 5 --to out/."""
    from search.cli.output import print_json, say
    from search.cli.studies import _given
    from search.config import load_config
    from search.evaluate import FAILED, evaluate, load_problem, train_dense
    from search.report import display_value, ratios
    from trainers.export import check_target, export_folder

    check_target(to)
    chosen = _given(nonzeros=nonzeros, wordlines=wordlines, bitlines=bitlines)
    settings = load_config(config, {"candidate": chosen})
    problem = load_problem(settings)
    candidate = settings.candidate.candidate(
        problem.shapes,
        problem.cost_model.preset.crossbar,
        network=settings.network.name,
        method=settings.method_name,
    )
    candidate.targets(problem.shapes)  # a mistake is better known before the training
    test = problem.dataset.test
    with tempfile.TemporaryDirectory(dir=_parent(to)) as scratch:
        weights, checkpoint = Path(scratch) / "dense.safetensors", Path(scratch) / "checkpoint"
        say("training the dense baseline")
        dense = train_dense(problem, weights, Path(scratch) / "dense")
        say(f"dense accuracy {dense.values['accuracy']:.4f}; pruning")
        found = evaluate(problem, candidate, weights, checkpoint)
        if found.status == FAILED:
            raise CrossfrontError(found.reason)
        ratio = ratios(dict(dense.values), dict(found.values))
        facts = {"dense": dict(dense.values), "ratio": ratio}
        export_folder(checkpoint, to, test.subset(min(2000, len(test))), facts)
    if as_json:
        print_json(
            {
                "folder": str(to),
                "values": found.values,
                "dense": dense.values,
                "ratio": ratio,
                "adc_bits": found.adc_bits,
            }
        )
        return
    for name, value in found.values.items():
        less = f" ({ratio[name]:.2f} times less than dense)" if name in ratio else ""
        print(f"{name:10} {display_value(name, value)}{less}")
    print(f"ADC bits   {', '.join(f'{name} {bits}' for name, bits in found.adc_bits.items())}")
    print(f"exported   {to}; prove it with: crossfront verify {to}")


def verify(
    folder: Annotated[Path, typer.Argument(help="An export folder.")],
    images: Annotated[
        int, typer.Option(help="Images to simulate reading by reading.", min=1)
    ] = 256,
    as_json: Json = False,
) -> None:
    """Prove an export again from its files alone: crossfront verify out/."""
    from search.cli.output import print_json, say
    from trainers.verify import verify_folder

    proof = verify_folder(folder, images=images)
    if as_json:
        print_json(proof.to_json())
    else:
        for layer in proof.layers:
            print(
                f"{layer.name:24} {layer.adc_bits} ADC bits: largest possible reading "
                f"{layer.worst_sum}, limit {layer.limit}"
            )
        print(
            f"{proof.images} images read by read: {proof.mismatches} differ; "
            f"accuracy {proof.accuracy:.4f}; digests {'match' if proof.digests_ok else 'DIFFER'}"
        )
    for failure in proof.failures:
        say(f"not proven: {failure}")
    if not proof.ok:
        raise typer.Exit(1)


def list_(
    what: Annotated[
        str, typer.Argument(help="networks, datasets, methods, presets, laws or encodings.")
    ],
    as_json: Json = False,
) -> None:
    """List what there is: crossfront list presets."""
    from hwmodel.adc import ADC_LAWS
    from hwmodel.components import preset_names
    from hwmodel.crossbar import SignEncoding
    from search.cli.output import print_json
    from trainers.data import dataset_names
    from trainers.methods import METHOD_CONFIGS
    from trainers.networks import NETWORKS

    found: dict[str, list[str]] = {
        "networks": list(NETWORKS),
        "datasets": list(dataset_names()),
        "methods": list(METHOD_CONFIGS),
        "presets": list(preset_names()),
        "laws": list(ADC_LAWS),
        "encodings": [str(encoding) for encoding in SignEncoding],
    }
    if what not in found:
        raise ConfigError(f"list {what!r}; allowed: {', '.join(found)}")
    if as_json:
        print_json(found[what])
    else:
        print("\n".join(found[what]))


list_.__name__ = "list"
COMMANDS = (compress, verify, list_)


def _parent(folder: Path) -> Path:
    """The folder that will hold `folder`, made if need be."""
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--to {folder}: cannot be written ({error.strerror})") from None
    return parent
