"""Commands about hardware: cost, adc."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodel.adc.base import MAX_ADC_BITS
from hwmodel.components import preset_names
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.layers import split_layers
from search.cli.messages import print_json, say
from search.cli.options import LAWS, NETWORKS, Json, completes

if TYPE_CHECKING:
    from hwmodel.accelerator import CostModel
    from hwmodel.adc import AdcCost
    from hwmodel.geometry import LayerShape
    from hwmodel.layers import AnyLayer
    from trainers.config import NetworkConfig

__all__ = ["COMMANDS"]

_ALL = "all"
_POLICIES = ("layer", "chip_max", "slice", "early_stop", _ALL)
_RATIO_TO = "the dense network's worst case on the same crossbars"
_LEVELS = ("ima", "tile", "tiles", "chip")
Law = Annotated[
    str,
    typer.Option(
        help="ADC law; see 'crossfront list laws'.", autocompletion=completes(lambda: LAWS)
    ),
]


def cost(
    folder: Annotated[
        Path | None, typer.Argument(help="A checkpoint or export folder (default: a network).")
    ] = None,
    network: Annotated[
        str,
        typer.Option(help="Name, or module:factory.", autocompletion=completes(lambda: NETWORKS)),
    ] = "lenet5",
    image: Annotated[str, typer.Option(help="Channels x height x width.")] = "1x28x28",
    classes: Annotated[int, typer.Option(min=1)] = 10,
    unmapped: Annotated[
        str, typer.Option(help="Layers that no crossbar holds: refuse or digital.")
    ] = "refuse",
    nonzeros: Annotated[int | None, typer.Option(help="Non-zeros per bitline segment.")] = None,
    wordlines: Annotated[int | None, typer.Option(help="Default: the preset's.")] = None,
    bitlines: Annotated[int | None, typer.Option(help="Default: the preset's.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Name, or a TOML file.", autocompletion=completes(preset_names)),
    ] = None,
    law: Law = "sar_split",
    policy: Annotated[
        str,
        typer.Option(
            help="layer, chip_max, tile_types:K, slice, early_stop, or all side by side.",
            autocompletion=completes(lambda: _POLICIES),
        ),
    ] = "layer",
    provisioning: Annotated[str, typer.Option(help="share or whole.")] = "share",
    replication: Annotated[
        float, typer.Option(help="Crossbars with copies of slow layers, times the network's own.")
    ] = 1.0,
    node: Annotated[float | None, typer.Option(help="Node in nm (default: the preset's).")] = None,
    node_table: Annotated[
        str, typer.Option(help="How digital parts follow the node.")
    ] = "stillmaker-baas",
    band: Annotated[bool, typer.Option(help="Totals under every ADC law, and what leads.")] = False,
    peak: Annotated[bool, typer.Option(help="The preset's nameplate, all crossbars busy.")] = False,
    adc_bits: Annotated[int | None, typer.Option(help="ADC resolution of --peak.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw area and power by component: FILE.svg or .png.")
    ] = None,
    plot_bits: Annotated[
        Path | None, typer.Option(help="Draw ADC bits by layer and bit slice: FILE.svg or .png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Price a network or checkpoint: crossfront cost --network lenet5 --nonzeros 5."""
    from hwmodel.accelerator import ratio
    from hwmodel.compare import under_laws, under_policies
    from search.config import HardwareConfig
    from search.pictures import bits_map, cost_breakdown
    from trainers.config import NetworkConfig

    hardware = HardwareConfig(
        preset=preset or HardwareConfig().preset,
        law=law,
        policy="layer" if policy == _ALL else policy,
        provisioning=provisioning,
        replication=replication,
        node_m=None if node is None else node * 1e-9,
        node_table=node_table,
    )
    model = hardware.cost_model()
    chosen = {"nonzeros": nonzeros, "wordlines": wordlines, "bitlines": bitlines}
    if adc_bits is not None and not peak:
        raise ConfigError(f"--adc-bits is {adc_bits}; it goes with --peak")
    if folder is not None:
        for option, value in chosen.items():
            if value is not None:
                raise ConfigError(f"--{option} is {value}; a stored network has its own")
        name, layers, shapes = _stored(folder)
    else:
        name, layers, shapes = _planned(
            model, NetworkConfig(name=network, unmapped=unmapped), _image(image), classes, chosen
        )
    content: dict[str, Any] = {
        "network": name,
        "preset": model.preset.name,
        "law": model.law.name,
        "policy": model.policy,
    }
    try:
        report = model.evaluate(layers)
    except OutOfRangeError as error:  # other laws may answer
        if not band or plot is not None:
            raise
        content["refused"] = str(error)
    else:
        content |= {**report.to_json(), "dense": None, "ratio": None, "ratio_to": _RATIO_TO}
        reports = {name: report}
        try:
            dense = model.evaluate(_dense(layers, shapes))
        except OutOfRangeError as error:
            content["dense_refused"] = str(error)
        else:
            content |= {"dense": dense.to_json()["totals"], "ratio": ratio(dense, report)}
            reports = {"dense": dense, **reports}
        if plot is not None:
            cost_breakdown(reports, plot)
            say(f"wrote {plot}")
    if plot_bits is not None:
        mapped, _ = split_layers(layers)
        bits_map({layer.shape.name: layer.adc_bits_per_slice for layer in mapped}, plot_bits)
        say(f"wrote {plot_bits}")
    if policy == _ALL:
        content["policies"] = under_policies(model, layers)
    if band:
        content["band"] = under_laws(model, layers)
    if peak:
        nameplate = model.peak(adc_bits).to_json()
        levels = {level: nameplate.pop(level) for level in _LEVELS}
        content |= {**levels, "peak": nameplate}
    if as_json:
        print_json(content)
    else:
        _print_cost(content)


def _bits(text: str) -> range:
    """The resolutions of `8` or `1..10`; a single one is for the law to judge.

    Raises:
        typer.BadParameter: neither an integer nor a range of possible resolutions.
    """
    first, dots, last = text.partition("..")
    try:
        low = int(first)
        high = int(last) if dots else low
    except ValueError:
        low, high = 1, 0
    if low > high or (dots and not 1 <= low <= high <= MAX_ADC_BITS):
        raise typer.BadParameter(
            f"{text!r}; allowed: an integer, or a range a..b from 1 to {MAX_ADC_BITS}"
        )
    return range(low, high + 1)


def adc(
    bits: Annotated[
        range, typer.Option(parser=_bits, metavar="N|A..B", help="Resolution, or a range.")
    ],
    law: Annotated[
        str,
        typer.Option(
            help="See 'crossfront list laws'; table:FILE.csv, bound or all. Options follow a '+': "
            "sense_amp; survey also extrapolate, monotone.",
            autocompletion=completes(lambda: (*LAWS, "all", "bound")),
        ),
    ] = "sar_split",
    rate: Annotated[float, typer.Option(help="Conversions per second.")] = 1.28e9,
    node: Annotated[float, typer.Option(help="Technology node in nm.")] = 32.0,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves: FILE.svg or .png.")] = None,
    as_json: Json = False,
) -> None:
    """Price converters: crossfront adc --bits 4, or crossfront adc --law all --bits 1..10."""
    from search.cli.converters import ask, choose_laws, cost_json, print_costs

    laws = choose_laws(law)
    costs, refusals = ask(laws, bits, rate, node * 1e-9)
    if plot is not None:
        from search.pictures import adc_curves

        adc_curves(laws, bits, rate, node * 1e-9, plot)
        say(f"wrote {plot}")
    several = len(laws) * len(bits) > 1
    if as_json:
        for refusal in refusals:
            say(f"left out: {refusal}")
        content = [cost_json(cost, node) for cost in costs]
        print_json(content if several else content[0])
    elif several:
        print_costs(laws, bits, costs)
    else:
        _print_adc(costs[0], node)


COMMANDS = (cost, adc)


def _print_adc(found: "AdcCost", node_nm: float) -> None:
    note = " (extrapolated)" if found.extrapolated else ""
    print(
        f"{found.law}, {found.bits} bits, {node_nm:g} nm: {found.energy_j * 1e12:.4g} pJ per "
        f"conversion, {found.area_m2 * 1e12:.4g} um2{note}\n"
        f"{found.source}\nvalid for {found.validity}"
    )


def _stored(folder: Path) -> "tuple[str, list[AnyLayer], dict[str, LayerShape]]":
    """The layers of a checkpoint as they are stored."""
    from trainers.checkpoint import load_checkpoint
    from trainers.integer import integer_layers
    from trainers.networks import build_network
    from trainers.tracing import trace

    checkpoint = load_checkpoint(folder)
    plain = build_network(checkpoint.config, checkpoint.input_shape, checkpoint.classes)
    shapes, digital = trace(plain, checkpoint.config, checkpoint.input_shape)
    layers = integer_layers(checkpoint.network)
    mapped = [layer.mapped(shapes[name]) for name, layer in layers.items()]
    return checkpoint.config.name, [*mapped, *digital], shapes


def _planned(
    model: "CostModel",
    config: "NetworkConfig",
    image: tuple[int, int, int],
    classes: int,
    chosen: dict[str, Any],
) -> "tuple[str, list[AnyLayer], dict[str, LayerShape]]":
    """The layers of a network as planned, before any weight is known."""
    from search.config import CandidateConfig
    from trainers.networks import build_network
    from trainers.tracing import trace

    shapes, digital = trace(build_network(config, image, classes), config, image)
    candidate = CandidateConfig(**chosen).candidate(
        shapes, model.preset.crossbar, network=config.name, method="none"
    )
    return config.name, [*candidate.planned(shapes), *digital], shapes


def _dense(layers: "list[AnyLayer]", shapes: "dict[str, LayerShape]") -> "list[AnyLayer]":
    """The same layers unpruned on the same crossbars, at their worst case."""
    from hwmodel.geometry import plan_layer

    mapped, digital = split_layers(layers)
    return [*[plan_layer(shapes[layer.shape.name], layer.spec) for layer in mapped], *digital]


def _image(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--image is {text!r}; allowed: channels x height x width, as 3x32x32")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _print_cost(content: dict[str, Any]) -> None:
    if "peak" in content:
        print(f"nameplate of preset {content['preset']}, ADC law {content['law']}, all busy")
        for level in _LEVELS:
            power, area = content[level]["power_w"], content[level]["area_m2"]
            print(f"  {level:6} {power:.5g} W  {area * 1e6:.5g} mm2")
    print(
        f"{content['network']} on preset {content['preset']}, ADC law {content['law']}, "
        f"policy {content['policy']}"
    )
    if "refused" in content:
        print(f"  {content['law']} refused: {content['refused']}")
    else:
        _print_totals(content)
    if "policies" in content:
        _print_side_by_side("ADC policy", content["policies"]["totals"])
        _print_refused(content["policies"]["refused"])
    if "band" in content:
        _print_band(content["band"])


def _print_totals(content: dict[str, Any]) -> None:
    from search.units import TOTALS

    for layer in content["layers"]:
        print(
            f"  {layer['name']:24} {layer['crossbars']:5} crossbars of "
            f"{layer['wordlines']}x{layer['bitlines']}, {layer['adc_bits']} ADC bits, "
            f"{layer['conversions']:.3g} conversions{_copies(layer['replication'])}"
        )
    for layer in content["digital"]:
        print(f"  {layer['name']:24} digital: {layer['macs']:.3g} multiply-accumulates")
    for key, (label, factor, unit) in TOTALS.items():
        print(f"  {label:30} {content['totals'][key] * factor:.5g} {unit}".rstrip())
    if "dense_refused" in content:
        print(f"  no price for {_RATIO_TO}: {content['dense_refused']}")
    else:
        less = ", ".join(f"{key} {value:.2f}" for key, value in content["ratio"].items())
        print(f"  times less than {_RATIO_TO}: {less}")


def _copies(count: int) -> str:
    return f", {count} copies" if count > 1 else ""


def _print_band(band: dict[str, Any]) -> None:
    _print_side_by_side("ADC law", {name: x["totals"] for name, x in band["laws"].items()})
    for name, entry in band["laws"].items():
        leads = ", ".join(
            f"{total}: {part['component']} {part['share']:.0%}"
            for total, part in entry["dominant"].items()
        )
        note = " (extrapolated)" if entry["extrapolated"] else ""
        print(f"  {name}{note}, largest component of {leads}")
    _print_refused(band["refused"])


def _print_side_by_side(what: str, columns: dict[str, dict[str, float]]) -> None:
    """One line per total, one column per name."""
    from search.units import TOTALS

    width = max([len(name) for name in columns] + [10])
    print(f"  {what:30} " + " ".join(f"{name:>{width}}" for name in columns))
    for key, (label, factor, unit) in TOTALS.items():
        values = " ".join(f"{x[key] * factor:>{width}.4g}" for x in columns.values())
        print(f"  {label:30} {values} {unit}".rstrip())


def _print_refused(refused: dict[str, str]) -> None:
    for name, reason in refused.items():
        print(f"  {name} refused: {reason}")
