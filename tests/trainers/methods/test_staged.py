"""The schedule that `memristor` and `admm-nn` share, step by step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hwmodel.errors import ConfigError
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    SPEC,
    seeded,
    toy_fit,
    toy_images,
    toy_targets,
)
from trainers.finalise import finalise
from trainers.integer import integer_layers
from trainers.method import LayerTarget
from trainers.methods import AdmmNn, AdmmNnConfig, Memristor, MemristorConfig
from trainers.methods.staged import Staged
from trainers.networks import build_network
from trainers.tracing import layer_shapes

SCHEDULE: dict[str, Any] = {
    "prune_stages": 1,
    "prune_share": 0.2,
    "retrain_share": 0.2,
    "levels_share": 0.2,
    "snap_stages": 2,
    "rounds_per_epoch": 2,
}


def one_layer() -> nn.Sequential:
    return nn.Sequential(seeded(nn.Linear(20, 4)))


def admm_nn(targets: Mapping[str, LayerTarget], **settings: Any) -> AdmmNn:
    return AdmmNn(targets, AdmmNnConfig(**{**SCHEDULE, **settings}))


def memristor(targets: Mapping[str, LayerTarget], **settings: Any) -> Memristor:
    return Memristor(targets, MemristorConfig(**{**SCHEDULE, **settings}))


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "admm-nn": (admm_nn, {"kept_weights": 0.25, "weight_levels": 3}),
    "memristor": (memristor, {"rows": 10, "outputs": 2, "weight_levels": 3}),
}


def step(method: Staged, network: nn.Module, seed: int) -> None:
    """One step of plain descent on noise."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.2
    method.after_backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    method.after_step()


def attached(kind: str, network: nn.Module, **settings: Any) -> Staged:
    build, target = METHODS[kind]
    method: Staged = build({"0": LayerTarget(spec=SPEC, **target)}, **settings)
    method.attach(network, epochs=5, steps_per_epoch=4)
    return method


@pytest.mark.parametrize("kind", METHODS)
def test_phases_follow_the_shares(kind: str) -> None:
    network = one_layer()
    method, admm, kept, frozen = attached(kind, network), [], [], []
    for seed in range(20):
        admm.append(method.admm is not None)
        kept.append(int(method.masks["0"].sum()))
        frozen.append(int((method.snapped["0"] != 0).sum()) if method.snapped else 0)
        step(method, network, seed)
    assert admm == [True] * 4 + [False] * 4 + [True] * 4 + [False] * 8
    assert kept == [80] * 4 + [20] * 16
    assert frozen[:12] == [0] * 12
    assert 0 < frozen[12] == frozen[15] < frozen[16] == frozen[19] < 20


@pytest.mark.parametrize("kind", METHODS)
def test_pruned_weights_stay_zero_and_frozen_ones_on_their_level(kind: str) -> None:
    network = one_layer()
    method = attached(kind, network)
    weight = network[0].weight
    for seed in range(18):
        step(method, network, seed)
    level, interval = method.snapped["0"].clone(), method.intervals["0"]
    free = method.masks["0"] & (level == 0)
    before = weight.detach().clone()
    step(method, network, 18)
    assert not weight[~method.masks["0"]].any()
    assert torch.equal(weight[level != 0], (level * interval)[level != 0])
    assert bool((weight != before)[free].all())


@pytest.mark.parametrize("kind", METHODS)
def test_stages_keep_a_geometric_share(kind: str) -> None:
    network = one_layer()
    method = attached(kind, network, prune_stages=2)
    kept = []
    for seed in range(8):
        step(method, network, seed)
        kept.append(int(method.masks["0"].sum()))
    half_way = {"admm-nn": 40, "memristor": 42}[kind]  # of rows 14, of outputs 3
    assert kept == [80] + [half_way] * 4 + [20] * 3


@pytest.mark.parametrize("steps", [0, 3, 6, 10, 13, 18, 20])
@pytest.mark.parametrize("kind", METHODS)
def test_state_round_trip_in_every_phase(kind: str, steps: int) -> None:
    network, again = one_layer(), nn.Sequential(seeded(nn.Linear(20, 4), seed=9))
    method = attached(kind, network)
    for seed in range(steps):
        step(method, network, seed)
    other = attached(kind, again)
    again.load_state_dict(network.state_dict())
    other.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    for seed in range(steps, 20):
        step(method, network, seed)
        step(other, again, seed)
        assert torch.equal(network[0].weight, again[0].weight)
    method.finalize()
    other.finalize()
    assert torch.equal(network[0].weight, again[0].weight)
    for left, right in zip(
        method.quantise("0", network[0].weight), other.quantise("0", again[0].weight), strict=True
    ):
        assert torch.equal(left, right)


@pytest.mark.parametrize("steps", [0, 3, 10, 13])
@pytest.mark.parametrize("kind", METHODS)
def test_finalize_catches_up_with_the_schedule(kind: str, steps: int) -> None:
    network = one_layer()
    method = attached(kind, network)
    for seed in range(steps):
        step(method, network, seed)
    method.finalize()
    integers, scale = method.quantise("0", network[0].weight)
    method.constraint("0").check("0", integers, SPEC, method.layouts["0"])
    assert int(torch.count_nonzero(integers)) == 20
    torch.testing.assert_close(integers * scale[:, None], network[0].weight.detach())


@pytest.mark.parametrize("kind", METHODS)
def test_layers_that_keep_everything_feel_no_pull_while_others_are_pruned(kind: str) -> None:
    network = nn.Sequential(seeded(nn.Linear(20, 4)), seeded(nn.Linear(4, 2)))
    build, target = METHODS[kind]
    method = build({"0": LayerTarget(spec=SPEC, **target), "1": LayerTarget(spec=SPEC)})
    method.attach(network, epochs=5, steps_per_epoch=4)
    assert list(method.admm.parameters) == ["0"]
    for seed in range(9):
        step(method, network, seed)
    assert list(method.admm.parameters) == ["0", "1"]
    assert method.level_count("1") == SPEC.weight_limit


@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_of_layer_trains_and_finalises_to_few_levels(kind: str) -> None:
    images = toy_images()
    network = build_network(CONV_NET, SHAPE, CLASSES)
    shapes = layer_shapes(network, SHAPE)
    targets = {name: replace(t, weight_levels=4) for name, t in toy_targets(network).items()}
    if kind == "admm-nn":
        targets = {name: replace(target, kept_weights=0.5) for name, target in targets.items()}
    else:
        targets["first"] = replace(targets["first"], outputs=2)
        targets["grouped"] = replace(targets["grouped"], rows=9, outputs=1)
    method = METHODS[kind][0](targets)
    toy_fit(network, images, method, epochs=3)
    layers = integer_layers(finalise(network, method, shapes, images))
    for name, layer in layers.items():
        magnitudes = layer.weight_q.abs()
        assert 1 <= int(magnitudes.max()) <= 4
        assert len(layer.weight_scale.unique()) == 1
        share = int(torch.count_nonzero(layer.weight_q)) / layer.weight_q.numel()
        expected = {"first": 0.5, "grouped": 0.25}.get(name, 1.0) if kind == "memristor" else 0.5
        assert share == pytest.approx(expected, abs=0.03)


def test_a_schedule_has_at_most_all_epochs() -> None:
    with pytest.raises(ConfigError, match=r"prune_share \+ retrain_share \+ levels_share is 1\.2"):
        MemristorConfig(prune_share=0.5, retrain_share=0.5, levels_share=0.2)
    with pytest.raises(ConfigError, match=r"method\.break_even is 'speed'"):
        AdmmNnConfig(break_even="speed")
    with pytest.raises(ConfigError, match=r"method\.snap_share"):
        AdmmNnConfig(snap_share=1.5)


def test_memristor_removes_paths_that_its_pruning_made_dead() -> None:
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    outputs, methods = [], []
    for remove in (False, True):
        network = nn.Sequential(
            seeded(nn.Conv2d(1, 6, 3)), nn.MaxPool2d(2), nn.Flatten(), seeded(nn.Linear(24, 3))
        )
        targets = {"0": LayerTarget(spec=SPEC, outputs=2), "3": LayerTarget(spec=SPEC)}
        settings = {"prune_share": 0.0, "retrain_share": 1.0, "levels_share": 0.0}
        method = memristor(targets, remove_dead_paths=remove, **settings)
        method.attach(network, epochs=1, steps_per_epoch=10)
        outputs.append(network(images).detach())
        methods.append(method)
    assert [method.layouts["3"].packed_rows for method in methods] == [24, 8]
    assert int(methods[1].masks["3"].sum()) == 3 * 8
    torch.testing.assert_close(outputs[1], outputs[0])
    assert methods[0].facts() == {}
    assert methods[1].facts() == {
        "dead_paths": {"removed": {"3": {"rows": 16, "outputs": 0}}, "kept": {}}
    }


def test_memristor_says_why_dead_outputs_stay_even_when_it_is_resumed() -> None:
    def build() -> Memristor:
        network = build_network(CONV_NET, SHAPE, CLASSES)
        targets = toy_targets(network)
        targets["first"] = replace(targets["first"], outputs=2)
        method = memristor(targets)
        method.attach(network, epochs=5, steps_per_epoch=4)
        return method

    method = build()
    assert not any(key.startswith("kept_path") for key in method.state_dict())
    method.finalize()
    kept = method.facts()["dead_paths"]["kept"]
    assert kept
    assert set(kept) <= set(method.modules)
    other = build()
    other.load_state_dict(method.state_dict())
    assert other.facts() == method.facts()


def test_rows_and_outputs_asked_away_are_not_dead_paths() -> None:
    method = attached("memristor", one_layer())
    method.finalize()
    layout = method.layouts["0"]
    assert (layout.packed_rows, layout.packed_outputs) == (10, 2)
    assert method.facts()["dead_paths"] == {
        "removed": {},
        "kept": {"0": "read by the network's output"},
    }
