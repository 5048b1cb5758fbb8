"""Commands about single networks: compress, verify, list."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodel.components import preset_names
from hwmodel.crossbar import SignEncoding
from hwmodel.errors import ConfigError
from hwmodel.extras import hint, missing
from search.cli.messages import print_json, say
from search.cli.options import LAWS, NETWORKS, Force, Json, Quiet, completes, given

if TYPE_CHECKING:
    from trainers.robustness import Robustness
    from trainers.slices import SliceReport
    from trainers.verify import Verification

__all__ = ["COMMANDS"]
_RATIO_TO = "the trained network, unpruned, with the ADCs that it is certified for"


def _datasets() -> Iterable[str]:
    from trainers.data import dataset_names

    return dataset_names()


def _methods() -> Iterable[str]:
    from trainers.methods import METHODS

    return METHODS


_LISTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "networks": lambda: NETWORKS,
    "datasets": _datasets,
    "methods": _methods,
    "presets": preset_names,
    "laws": lambda: LAWS,
    "encodings": lambda: SignEncoding,
}
"""What there is, each asked for alone: datasets and methods need torch."""


def compress(
    config: Annotated[
        Path,
        typer.Argument(help="The study's TOML file; its table 'candidate' counts."),
    ],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    nonzeros: Annotated[int | None, typer.Option(help="Non-zeros per bitline segment.")] = None,
    adc_bits: Annotated[int | None, typer.Option(help="ADC bits of level sums.")] = None,
    wordlines: Annotated[int | None, typer.Option(help="Height of the crossbars.")] = None,
    bitlines: Annotated[int | None, typer.Option(help="Width of the crossbars.")] = None,
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="Train the candidate, or not at all.")
    ] = None,
    reconstruct: Annotated[
        bool | None, typer.Option(help="Fit each layer's outputs to the dense one's.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prune, train and export one candidate: crossfront compress F.toml --nonzeros 5 --to out/."""
    from search.api import compress as compress_candidate
    from search.cli.progress import progress_bars
    from search.units import display_value

    chosen = given(nonzeros=nonzeros, adc_bits=adc_bits, wordlines=wordlines, bitlines=bitlines)
    training = given(epochs=0 if train is False else None, reconstruct=reconstruct)
    with progress_bars(quiet=quiet or as_json):
        made = compress_candidate(
            config,
            to,
            say=(lambda text: None) if quiet else say,
            force=force,
            candidate=chosen,
            train=training,
            fidelity=given(rungs=[] if train is False else None),
        )
    if as_json:
        print_json(
            {
                "folder": str(to),
                "values": made.values,
                "dense": made.dense,
                "ratio": made.ratio,
                "ratio_to": _RATIO_TO,
                "adc_bits": made.adc_bits,
                **given(dead_paths=made.dead_paths),
            }
        )
        return
    for name, value in made.values.items():
        less = f" ({made.ratio[name]:.2f} times less than dense)" if name in made.ratio else ""
        print(f"{name:10} {display_value(name, value)}{less}")
    print(f"dense      {_RATIO_TO}")
    print(f"ADC bits   {_bits_of_layers(made.adc_bits)}")
    if made.dead_paths is not None:
        _print_dead_paths(made.dead_paths)
    print(f"exported   {to}; prove it with: crossfront verify {to}")
    if missing("export"):
        print(f"           without an ONNX graph: {hint('export')}")


def verify(
    folder: Annotated[Path, typer.Argument(help="An export folder.")],
    images: Annotated[
        int, typer.Option(help="Images to simulate reading by reading.", min=1)
    ] = 256,
    faults: Annotated[
        float | None, typer.Option(help="Share of stuck cells; 5.2 stuck on for 1 stuck off.")
    ] = None,
    variation: Annotated[
        float | None, typer.Option(help="Sigma of the cells' log-normal conductance.")
    ] = None,
    read_noise: Annotated[
        float | None, typer.Option(help="Noise of a reading in level units, rms.")
    ] = None,
    ir_drop: Annotated[
        bool, typer.Option("--ir-drop", help="Wires of 1 ohm a cell, cells of 33 to 333 kohm.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Lossy devices to draw, seeds 0, 1, ...", min=1)] = 10,
    slices: Annotated[
        bool, typer.Option("--slices", help="Share of non-zeros and ADC bits of each bit slice.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prove an export again from its files alone: crossfront verify out/ --faults 0.001."""
    from hwmodel.nonideality import REFERENCE_WIRE_RATIO, Nonideality
    from search.cli.progress import progress_bars
    from trainers.verify import measure_folder, slices_of_folder, verify_folder

    lossy = ir_drop or any(size is not None for size in (faults, variation, read_noise))
    # A mistake in an option is better known before the proof.
    device = Nonideality.with_faults(
        faults or 0.0,
        variation=variation or 0.0,
        read_noise=read_noise or 0.0,
        ir_drop=REFERENCE_WIRE_RATIO if ir_drop else 0.0,
    )
    with progress_bars(quiet=quiet or as_json):
        proof = verify_folder(folder, images=images)
    if not as_json:
        _print_proof(proof)
    found = None
    if lossy and proof.ok:  # what is not proven is not worth measuring
        with progress_bars(quiet=quiet or as_json):
            found = measure_folder(folder, device, range(seeds), images=images)
    sliced = None
    if slices and proof.ok:
        with progress_bars(quiet=quiet or as_json):
            sliced = slices_of_folder(folder, images=images)
    if as_json:
        measured = {} if found is None else {"robustness": found.to_json()}
        counted = {} if sliced is None else {"bit_slices": sliced.to_json()}
        print_json({**proof.to_json(), **measured, **counted})
    else:
        if found is not None:
            _print_robustness(found)
        if sliced is not None:
            _print_slices(sliced)
    for failure in proof.failures:
        say(f"not proven: {failure}")
    if not proof.ok:
        raise typer.Exit(1)


def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="networks, datasets, methods, presets, laws or encodings.",
            autocompletion=completes(lambda: _LISTS),
        ),
    ],
    as_json: Json = False,
) -> None:
    """List what there is: crossfront list presets."""
    if what not in _LISTS:
        raise ConfigError(f"list {what!r}; allowed: {', '.join(_LISTS)}")
    found = [str(name) for name in _LISTS[what]()]
    if as_json:
        print_json(found)
    else:
        print("\n".join(found))


list_.__name__ = "list"
COMMANDS = (compress, verify, list_)


def _bits_of_layers(found: Mapping[str, int]) -> str:
    """Which layers need how many ADC bits; a layer's name may be a number, too."""
    parts = []
    for bits in sorted(set(found.values())):
        names = [name for name, own in found.items() if own == bits]
        parts.append(f"{bits} in layer{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return "; ".join(parts)


def _print_dead_paths(found: Mapping[str, Any]) -> None:
    removed = [
        " ".join([name, *(f"{count} {what}" for what, count in counts.items() if count)])
        for name, counts in found["removed"].items()
    ]
    print(f"dead paths removed: {', '.join(removed) or 'none'}")
    for layer, reason in found["kept"].items():
        print(f"           outputs of {layer} stay: {reason}")


def _print_proof(proof: "Verification") -> None:
    for layer in proof.layers:
        print(
            f"{layer.name:24} {layer.adc_bits} ADC bits: largest possible reading "
            f"{layer.worst_sum}, limit {layer.limit}"
        )
    print(f"accuracy   {proof.accuracy:.4f} on all {proof.samples} samples")
    print(
        f"simulation {proof.images} of the samples, every ADC reading of them: "
        f"{proof.mismatches} come out differently"
    )
    differing = "is not there, or not as it was exported"
    if proof.onnx_differing is not None:
        differing = f"classifies {proof.onnx_differing} of these {proof.images} differently"
    print(f"ONNX graph {differing}")
    print(f"files      {'match' if proof.digests_ok else 'do NOT match'} their digests")
    if proof.ok:
        print("proven: no input can exceed an ADC, and whatever was run agrees")
    else:
        count = len(proof.failures)
        print(f"not proven, for {count} reason{'s' if count > 1 else ''}")


def _print_robustness(found: "Robustness") -> None:
    device = found.nonideality
    said = [f"stuck on {device.stuck_on_rate:.3g}, stuck off {device.stuck_off_rate:.3g} (5.2 : 1)"]
    said += [f"variation {device.variation:g}"] if device.variation else []
    said += [f"read noise {device.read_noise:g} levels"] if device.read_noise else []
    said += [f"IR drop {device.ir_drop:.3g} per segment"] if device.ir_drop else []
    print(f"lossy devices: {', '.join(said)}")
    print(
        f"accuracy {found.mean:.4f}, standard deviation {found.spread:.4f} over "
        f"{len(found.seeds)} seeds (from {min(found.per_seed):.4f} to {max(found.per_seed):.4f}) "
        f"on {found.images} images; ideal {found.ideal:.4f}"
    )


def _print_slices(found: "SliceReport") -> None:
    print("bit slices  non-zero  ADC bits of segments: largest  99.9 percent  mean")
    for index, group in reversed(list(enumerate(found.slices))):
        print(
            f"{index:10}  {group.nonzero_share:8.2%}  {group.max_bits:29}  "
            f"{found.clipped_bits[index]:12}  {group.mean_bits:4.2f}"
        )
    bits = ", ".join(map(str, reversed(found.clipped_bits)))
    print(
        f"accuracy {found.clipped_accuracy:.4f} with ADCs of {bits} bits, which clip up to 1 in "
        f"1000 segments; lossless {found.accuracy:.4f}, both on {found.images} images"
    )
