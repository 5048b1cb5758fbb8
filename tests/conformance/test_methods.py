"""What every method keeps, whatever it prunes and however it trains."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import CrossfrontError
from hwmodel.exact import exact_product
from hwmodel.mapping import to_bitlines, to_segments
from hwmodel.simulator import simulate
from tests.conformance.cases import CASES, EPOCHS, Case, images, same, shapes_of, train, trained
from tests.conformance.networks import CLASSES, NETWORKS, SHAPE
from tests.trainers.toys import as_floats
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.export import export_folder
from trainers.finalise import finalise
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, EXACT, IntegerLayer, integer_layers, set_readout
from trainers.method import LayerTarget, Method
from trainers.verify import verify_folder

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_method = pytest.mark.parametrize(
    "case", [case for case in CASES if case.network == "residual" and not case.packed], ids=str
)
FROZEN = ("xma",)
"""Methods that leave the weights as they are."""
STEPS = len(images()) // 8
"""Of an epoch."""


@every_case
def test_base_trains(case: Case) -> None:
    found = trained(case)
    before = case.build_network().state_dict()
    moved = [n for n, p in found.network.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(list(found.network.parameters()))
    if not case.packed and case.method not in FROZEN:  # else too little is left to learn with
        assert accuracy(found.integer, images()) > 1.5 / CLASSES


@every_case
def test_finalised_layers_are_what_was_asked_for(case: Case) -> None:
    found = trained(case)
    shapes, layers = shapes_of(found.network), integer_layers(found.integer)
    assert list(layers) == list(found.method.modules)
    for name, layer in layers.items():
        target = found.method.targets[name]
        assert not failures(layer, target, case), name
        found.method.constraint(name).check(name, layer.weight_q, target.spec, layer.layout)
        planned = target.planned(shapes[name])
        layer.certify().check(name, planned.adc_bits_per_slice)
        mapped = layer.mapped(shapes[name])
        assert mapped.outputs == planned.outputs
        # Dead paths take rows along.
        assert mapped.rows == planned.rows or (
            case.method == "memristor" and mapped.rows < planned.rows
        )
        assert mapped.crossbars <= planned.crossbars
        assert mapped.conversions <= planned.conversions


@every_case
def test_stored_integers_are_the_finalised_weights(case: Case) -> None:
    found = trained(case)
    for name, layer in integer_layers(found.integer).items():
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight_q.ndim - 1))
        weight = found.method.modules[name].weight.detach()
        assert ((layer.unpacked_weight * scale - weight).abs() <= 0.51 * scale).all(), name


@every_case
def test_broken_promise_is_refused_or_kept_by_the_quantiser(case: Case) -> None:
    network = case.build_network()
    method = case.build_method(network)
    method.attach(network, epochs=0, steps_per_epoch=1)
    finish = method.finalize

    def forgetful() -> None:
        finish()
        generator = torch.Generator().manual_seed(1)
        for module in method.modules.values():
            noise = torch.randn(module.weight.shape, generator=generator)
            module.weight.data.copy_(noise * module.weight.abs().amax())

    method.finalize = forgetful  # type: ignore[method-assign]
    refused, broken = "", []
    try:
        integer = finalise(network, method, shapes_of(network), images())
        for name, layer in integer_layers(integer).items():
            broken += failures(layer, method.targets[name], case)
    except CrossfrontError as error:
        refused = str(error)
    assert not broken
    assert refused.startswith(tuple(method.modules) if refused else "")


@every_case
def test_untrained_network_can_be_finalised(case: Case) -> None:
    found = train(case, epochs=0)
    for name, layer in integer_layers(found.integer).items():
        assert not failures(layer, found.method.targets[name], case), name


@every_case
def test_reconstruction_stays_within_the_promise(case: Case) -> None:
    network, dense = case.build_network(), case.build_network()
    method = case.build_method(network)
    method.attach(network, epochs=0, steps_per_epoch=1)
    integer = finalise(network, method, shapes_of(network), images(), dense=dense)
    for name, layer in integer_layers(integer).items():
        assert not failures(layer, method.targets[name], case), name


class Killed(Exception):
    """As a lost machine ends a run."""


def killer(step: int) -> Callable[[Method], None]:
    """Ends a run after so many steps."""
    steps = iter(range(1, step))

    def watch(_method: Method) -> None:
        if next(steps, None) is None:
            raise Killed

    return watch


@every_case
def test_killed_run_goes_on_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole, path = trained(case), tmp_path / "training.pt"
    for start, step in ((0, STEPS + 2), (1, STEPS + 1)):
        # Killed within the second epoch, then, resumed, within the third. The networks hold other
        # weights each time, so that all must come from the file.
        with pytest.raises(Killed):
            train(case, network_seed=start, state_path=path, watch=killer(step))
        assert len(torch.load(path)["reports"]) == 1 + start
    resumed = train(case, network_seed=2, state_path=path)
    assert len(resumed.result.epochs) == EPOCHS
    assert same(resumed.state, whole.state)
    assert same(stored(resumed.integer), stored(whole.integer))


@every_method
def test_seed_decides_everything(case: Case) -> None:
    first, again = trained(case), train(case)
    assert same(first.state, again.state)
    assert same(stored(first.integer), stored(again.integer))
    other = train(case, seed=1)
    assert not same(first.state, other.state)


@every_case
def test_every_reading_gives_the_integer_product(case: Case) -> None:
    integer, values = trained(case).integer, as_floats(images())[:6]
    with torch.no_grad():
        expected = integer(values)
        set_readout(integer, EVERY_READING)
        try:
            assert torch.equal(integer(values), expected)
        finally:
            set_readout(integer, EXACT)


@every_case
def test_one_bit_less_than_certified_misreads_the_witness(case: Case) -> None:
    for name, layer in integer_layers(trained(case).integer).items():
        if layer.block_size > 1:
            continue  # read with rotated inputs: tests/hwmodel/test_rotation.py
        certificate = layer.certify()
        worst = max(range(layer.spec.slice_count), key=lambda s: certificate.worst_sums[s])
        inputs = witness_inputs(layer, worst)
        weight_q = layer.weight_q.int()
        product = exact_product(inputs, layer.layout.pack(weight_q), layer.spec.input_limit)
        bits = list(certificate.adc_bits_per_slice)
        read = simulate(inputs, weight_q, layer.spec, bits, layout=layer.layout)
        assert torch.equal(read.double(), product.double()), name
        if bits[worst] == 0:
            continue  # nothing is stored
        bits[worst] -= 1
        read = simulate(inputs, weight_q, layer.spec, bits, layout=layer.layout)
        assert not torch.equal(read.double(), product.double()), name


@every_case
def test_checkpoint_holds_the_same_network(case: Case, tmp_path: Path) -> None:
    integer = trained(case).integer
    save(case, tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved").network
    assert same(stored(loaded), stored(integer))
    with torch.no_grad():
        assert torch.equal(loaded(as_floats(images())), integer(as_floats(images())))


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.network == "grouped" and not c.packed and not c.settings],
    ids=str,
)
def test_export_proves_itself(case: Case, tmp_path: Path) -> None:
    save(case, tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters
        folder = export_folder(tmp_path / "saved", tmp_path / "exported", images())
    proof = verify_folder(folder, images=8)
    assert proof.failures == ()
    assert proof.accuracy == accuracy(trained(case).integer, images())


def save(case: Case, folder: Path) -> None:
    save_checkpoint(
        folder,
        trained(case).integer,
        NETWORKS[case.network],
        input_shape=SHAPE,
        classes=CLASSES,
        facts={"accuracy": accuracy(trained(case).integer, images())},
    )


def stored(integer: torch.nn.Module) -> dict[str, Tensor]:
    """All numbers that an integer network computes with."""
    tensors = dict(integer.state_dict())
    for name, layer in integer_layers(integer).items():
        tensors[f"{name}.weight_q"] = layer.weight_q
        tensors[f"{name}.weight_scale"] = layer.weight_scale
    return tensors


def witness_inputs(layer: IntegerLayer, slice_index: int) -> Tensor:
    """The largest digit where the witness of a slice holds a level, `[groups, 1, packed rows]`."""
    witness = layer.certify().witnesses[slice_index]
    lines = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    levels = lines.levels[witness.group, witness.tile, witness.bitline]
    rows, first = layer.layout.packed_rows, witness.tile * layer.spec.wordlines
    inputs = torch.zeros(layer.layout.groups, 1, rows)
    held = levels[: rows - first] > 0
    inputs[witness.group, 0, first : first + len(held)] = held.float() * layer.spec.digit_limit
    return inputs


def failures(layer: IntegerLayer, target: LayerTarget, case: Case) -> list[str]:
    """Strengths of the target that the stored integers do not keep, counted by hand."""
    broken = []
    segments = to_segments(layer.layout.pack(layer.weight_q.int()), target.spec.wordlines)
    if target.nonzeros is not None:
        counts = [(segments > 0).sum(-1), (segments < 0).sum(-1)]
        if dict(case.settings).get("both_signs"):
            counts = [counts[0] + counts[1]]
        broken += ["nonzeros"] * any(int(count.max()) > target.nonzeros for count in counts)
    if target.adc_bits is not None:
        broken += ["adc_bits"] * (largest_reading(segments, target.spec) >= 1 << target.adc_bits)
    if target.kept_weights is not None and case.method != "dub":  # there: of the densest bitline
        share = int(torch.count_nonzero(layer.weight_q)) / layer.weight_q.numel()
        broken += ["kept_weights"] * (share > target.kept_weights + 0.5 / layer.weight_q.numel())
    if target.weight_levels is not None:
        levels = layer.weight_q.int().abs().unique()
        broken += ["weight_levels"] * (int((levels > 0).sum()) > target.weight_levels)
    whole = layer.layout.unpack(layer.layout.pack(layer.weight_q), layer.weight_q.shape)
    return broken + ["kept rows and outputs"] * (not torch.equal(whole, layer.weight_q))


def largest_reading(segments: Tensor, spec: CrossbarSpec) -> int:
    """Of any segment's slices and polarities, from the bits of the magnitudes."""
    sums = [
        ((segments * sign).clamp(min=0) >> (spec.cell_bits * index) & spec.slice_limit(0)).sum(-1)
        for sign in (1, -1)
        for index in range(spec.slice_count)
    ]
    return max(int(total.max()) for total in sums) * spec.digit_limit
