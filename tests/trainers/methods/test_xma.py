"""Shift masks on a frozen backbone: what is frozen, what is learnt, and what is stored."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import CheckpointError, ConfigError, ConstraintError, MappingError
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    SPEC,
    as_floats,
    toy_fit,
    toy_images,
    toy_targets,
)
from trainers.checkpoint import load_checkpoint, read_manifest, save_checkpoint, write_manifest
from trainers.config import TrainConfig
from trainers.export import export_folder
from trainers.finalise import finalise
from trainers.fit import fit
from trainers.integer import EVERY_READING, IntegerLayer, integer_layers, set_readout
from trainers.methods import Xma, XmaConfig
from trainers.methods.xma import FrozenCells
from trainers.networks import build_network
from trainers.tracing import layer_shapes
from trainers.verify import verify_folder

IMAGES = toy_images()
ELEMENT = XmaConfig(granularity="element", mask_rate=400.0)
SEGMENT = XmaConfig(mask_rate=400.0)
HEAD_ONLY = XmaConfig(levels=(1.0,))


def _network() -> nn.Module:
    return build_network(CONV_NET, SHAPE, CLASSES, seed=3)


def _trained(config: XmaConfig, seed: int = 0, **kept: int) -> tuple[nn.Module, Xma]:
    """A network trained on a task of its own, under masks."""
    network = _network()
    targets = {name: replace(t, **kept) for name, t in toy_targets(network).items()}
    method = Xma(targets, config)
    toy_fit(network, toy_images(seed=seed), method, epochs=3)
    return network, method


def _finalised(network: nn.Module, method: Xma) -> nn.Module:
    return finalise(network, method, layer_shapes(network, SHAPE), IMAGES)


@cache
def _stored(config: XmaConfig, seed: int = 0) -> dict[str, IntegerLayer]:
    return integer_layers(_finalised(*_trained(config, seed)))


def test_tasks_share_their_cells_and_differ_in_their_masks() -> None:
    one, two = _stored(SEGMENT, 0), _stored(SEGMENT, 1)
    *frozen, head = one
    for name in frozen:
        assert torch.equal(one[name].weight_q, two[name].weight_q)
        assert one[name].certify() == two[name].certify()
        assert one[name].adc_bits_per_slice == two[name].adc_bits_per_slice
    factors = [[layers[n].mask.factors for n in frozen] for layers in (one, two)]  # type: ignore[union-attr]
    assert any(not torch.equal(a, b) for a, b in zip(*factors, strict=True))
    assert one[head].mask is None
    assert not torch.equal(one[head].weight_q, two[head].weight_q)


def test_the_network_trains_on_frozen_weights_times_levels() -> None:
    network, method = _trained(SEGMENT)
    seen = set()
    for name, cells in method.cells.items():
        weight = method.modules[name].weight.detach()
        scale = method.scales[name].reshape(-1, *[1] * (weight.ndim - 1))
        level = (weight / (cells * scale)).nan_to_num(nan=1.0)
        seen |= {round(x, 4) for x in level.unique().tolist()}
    assert seen <= set(SEGMENT.chosen_levels)
    assert len(seen) > 2
    before = _network().state_dict()
    assert not torch.equal(before["norm.weight"], network.state_dict()["norm.weight"])
    assert not torch.equal(before["grouped.bias"], network.state_dict()["grouped.bias"])


def test_weights_that_lie_on_no_crossbar_are_frozen_too() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 2), nn.Flatten(), nn.Linear(50, CLASSES)
    )
    before = network[1].weight.detach().clone()
    toy_fit(network, IMAGES, Xma(toy_targets(network), SEGMENT))
    assert torch.equal(network[1].weight, before)


def test_the_integers_under_the_mask_are_the_weights_that_were_trained() -> None:
    network, method = _trained(SEGMENT)
    weights = {name: module.weight.detach().clone() for name, module in method.modules.items()}
    for name, layer in list(integer_layers(_finalised(network, method)).items())[:-1]:
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight_q.ndim - 1))
        assert torch.allclose(layer.unpacked_weight * scale, weights[name], rtol=1e-6, atol=0)


def test_a_masks_gradient_is_that_of_its_level() -> None:
    network = _network()
    method = Xma(toy_targets(network), XmaConfig(mask_rate=1.0))
    method.attach(network, epochs=1, steps_per_epoch=1)
    name, module = "grouped", method.modules["grouped"]
    direction = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(0))
    (module.weight * direction).sum().backward()  # type: ignore[no-untyped-call]
    method.after_backward()
    assert module.weight.grad is None
    gradient = dict(network.named_parameters())["grouped.mask_moves"].grad
    assert gradient is not None
    frozen, rows = method.cells[name] * method.scales[name].reshape(-1, 1, 1, 1), SPEC.wordlines
    expected: list[Tensor] = []
    for group in range(2):
        for tile in range(3):  # 18 rows on 8 wordlines
            for output in range(2):
                flat = (frozen * direction)[group * 2 + output].flatten()
                expected.append(flat[tile * rows : (tile + 1) * rows].sum())
    assert torch.allclose(gradient, torch.stack(expected))


@pytest.mark.parametrize("config", [SEGMENT, ELEMENT, HEAD_ONLY])
def test_every_kind_of_mask_survives_its_checkpoint(config: XmaConfig, tmp_path: Path) -> None:
    integer = _finalised(*_trained(config))
    folder = tmp_path / "checkpoint"
    save_checkpoint(
        folder, integer, CONV_NET, input_shape=SHAPE, classes=CLASSES, facts={"accuracy": 0.0}
    )
    with torch.no_grad():
        expected = integer(as_floats(IMAGES))
        loaded = load_checkpoint(folder).network
        assert torch.equal(loaded(as_floats(IMAGES)), expected)
        set_readout(loaded, EVERY_READING)
        assert torch.equal(loaded(as_floats(IMAGES)), expected)
    if config == SEGMENT:
        export_folder(folder, tmp_path / "out", IMAGES)
        assert verify_folder(tmp_path / "out").ok


def test_a_damaged_mask_is_refused(tmp_path: Path) -> None:
    integer = _finalised(*_trained(SEGMENT))
    layers = integer_layers(integer)
    factors = layers["first"].mask.factors  # type: ignore[union-attr]
    layer = replace(layers["first"], mask=replace(layers["first"].mask, factors=factors[:, :1]))  # type: ignore[type-var]
    integer.first.layer = layer  # type: ignore[union-attr, assignment]
    save_checkpoint(tmp_path / "a", integer, CONV_NET, input_shape=SHAPE, classes=CLASSES, facts={})
    with pytest.raises(MappingError, match="first: a shift mask of shape"):
        load_checkpoint(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    manifest["layers"]["linear"]["mask_bits"] = 2
    write_manifest(tmp_path / "a", manifest)
    with pytest.raises(CheckpointError, match="segment_factors"):
        load_checkpoint(tmp_path / "a")


def test_an_element_mask_erases_cells_and_a_segment_mask_does_not() -> None:
    segment, element = _stored(SEGMENT), _stored(ELEMENT)
    erased = {n: (element[n].weight_q == 0) & (segment[n].weight_q != 0) for n in element}
    *frozen, _ = element
    assert any(bool(erased[name].any()) for name in frozen)
    for name in frozen:
        assert element[name].mask is None
        assert torch.equal(
            torch.where(erased[name], 0, segment[name].weight_q), element[name].weight_q
        )


def test_memory_is_a_few_bits_per_segment_and_one_per_weight() -> None:
    memory = {}
    for config in (SEGMENT, ELEMENT, HEAD_ONLY):
        network = _network()
        method = Xma(toy_targets(network), config)
        method.attach(network, epochs=1, steps_per_epoch=1)
        memory[config] = method.mask_memory_bits
    assert memory[ELEMENT] == 4 * 9 + 4 * 18 + 4 * 4
    assert memory[SEGMENT] == 3 * (4 * 2 + 4 * 3 + 4 * 1)  # rows over 8 wordlines
    assert memory[HEAD_ONLY] == 0


def test_mapped_layers_say_what_their_masks_take() -> None:
    network, method = _trained(SEGMENT)
    shapes = layer_shapes(network, SHAPE)
    layers = integer_layers(_finalised(network, method))
    mapped = {name: layer.mapped(shapes[name]) for name, layer in layers.items()}
    assert sum(layer.mask_memory_bits for layer in mapped.values()) == method.mask_memory_bits
    for name, layer in layers.items():
        if layer.mask is not None and bool((~layer.mask.on).any()):
            assert (
                mapped[name].conversions
                < replace(layer, mask=None).mapped(shapes[name]).conversions
            )
            break
    else:
        pytest.fail("no segment is off; train longer")


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(epochs_first: int | None) -> tuple[nn.Module, Xma]:
        network = _network()
        method = Xma(toy_targets(network), SEGMENT)
        path = None if epochs_first is None else tmp_path / "state"
        train = TrainConfig(batch_size=8, optimiser="adam")
        if path is not None:

            class Killed(Exception):
                pass

            def kill(report: object) -> None:
                raise Killed

            with pytest.raises(Killed):
                fit(
                    network,
                    IMAGES,
                    method,
                    train,
                    epochs=3,
                    learning_rate=0.01,
                    seed=0,
                    state_path=path,
                    report=kill,
                )
            network = build_network(CONV_NET, SHAPE, CLASSES, seed=9)
            method = Xma(toy_targets(network), SEGMENT)
        fit(network, IMAGES, method, train, epochs=3, learning_rate=0.01, seed=0, state_path=path)
        return network, method

    through, resumed = run(None), run(1)
    states = [network.state_dict() for network, _ in (through, resumed)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    stored = [integer_layers(_finalised(*pair)) for pair in (through, resumed)]
    for name in stored[0]:
        assert torch.equal(stored[0][name].weight_q, stored[1][name].weight_q)
        assert torch.equal(stored[0][name].packed_weight, stored[1][name].packed_weight)


def test_a_pruned_backbone_keeps_masks_for_what_is_left() -> None:
    network, method = _trained(SEGMENT, rows=4)
    layers = integer_layers(_finalised(network, method))
    assert layers["grouped"].layout.packed_rows == 4
    assert layers["grouped"].mask is not None
    assert layers["grouped"].mask.factors.shape == (2, 1, 2)


def test_masks_stay_between_their_levels() -> None:
    network, method = _trained(XmaConfig(mask_rate=1000.0))
    for name, parameter in network.named_parameters():
        if name.endswith("mask_moves"):
            real = 1 + 1000 * parameter.detach()
            assert float(real.min()) >= -4 - 1e-3
            assert float(real.max()) <= 8 + 1e-3
    assert method.masks


def test_cells_that_are_not_the_backbones_are_named() -> None:
    cells = torch.zeros(2, 10, dtype=torch.int32)
    cells[1, 9] = 5
    spec = CrossbarSpec(wordlines=4, bitlines=16)
    network = nn.Linear(10, 2)
    layout = Xma(toy_targets(nn.Sequential(network)), SEGMENT)
    layout.attach(nn.Sequential(network), epochs=1, steps_per_epoch=1)
    erased, other = torch.zeros_like(cells), cells + 1
    message = r"l: stores 0 in segment \(tile 2, bitline 8\), where the frozen backbone has 5"
    with pytest.raises(ConstraintError, match=message):
        FrozenCells(cells).check("l", erased, spec, layout.layouts["0"])
    FrozenCells(cells, erasable=True).check("l", erased, spec, layout.layouts["0"])
    with pytest.raises(ConstraintError, match=r"l: stores 1 in segment \(tile 0, bitline 0\)"):
        FrozenCells(cells, erasable=True).check("l", other, spec, layout.layouts["0"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"granularity": "column"}, "method.granularity is 'column'; allowed: segment, element"),
        ({"mask_rate": -1.0}, "method.mask_rate is -1.0; allowed: a number from 0"),
        ({"levels": ()}, r"method.levels is \[\]; allowed: ascending"),
        ({"levels": (0.0, 0.5)}, "1 among them"),
        ({"levels": (1.0, 0.5)}, "allowed: ascending"),
        ({"levels": (0.0, 0.75, 1.0)}, "0 or powers of two"),
        ({"levels": (-1.0, 0.5)}, "0 or powers of two, 1 among them"),
        ({"levels": (2.0**-20, 1.0)}, "at most 14 doublings"),
        ({"levels": (0.5, 1.0), "granularity": "element"}, "allowed per element: 0 and 1"),
    ],
)
def test_impossible_setting_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        XmaConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("levels", "bits"), [((1.0,), 0), ((0.0, 1.0), 1), ((0.0, 0.5, 1.0), 2), (None, 3)]
)
def test_bits_of_a_code_follow_from_its_levels(levels: tuple[float, ...] | None, bits: int) -> None:
    assert XmaConfig(levels=levels).mask_bits == bits
