"""Whole integer networks on lossy devices and under ADCs that are too small."""

import math
import statistics

import pytest
import torch
from torch import nn

from hwmodel.errors import SpecError
from hwmodel.nonideality import Nonideality
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    as_floats,
    finalised,
    toy_fit,
    toy_images,
    toy_tinyadc,
)
from trainers.data import ImageSet
from trainers.finalise import finalise
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, CrossbarLayer, Readout, set_readout
from trainers.networks import build_network
from trainers.robustness import Robustness, robust_accuracy
from trainers.tracing import layer_shapes

IMAGES = toy_images(24)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    trained = build_network(CONV_NET, SHAPE, CLASSES)
    method = toy_tinyadc(trained, nonzeros=6)
    toy_fit(trained, IMAGES, method, epochs=16)
    return finalise(trained, method, layer_shapes(trained, SHAPE), IMAGES)


def _readouts(network: nn.Module) -> list[Readout]:
    return [m.readout for m in network.modules() if isinstance(m, CrossbarLayer)]


@torch.no_grad()
def _logits(network: nn.Module, readout: Readout) -> torch.Tensor:
    set_readout(network, readout)
    try:
        return torch.as_tensor(network(as_floats(IMAGES)))
    finally:
        set_readout(network, Readout())


def test_ideal_devices_have_the_accuracy_of_the_integer_network(network: nn.Module) -> None:
    found = robust_accuracy(network, IMAGES, Nonideality(), [0, 1, 2])
    assert found.per_seed == (accuracy(network, IMAGES),) * 3
    assert (found.mean, found.spread) == (found.ideal, 0)
    assert found.images == len(IMAGES)


def test_mean_and_spread_are_over_the_seeds(network: nn.Module) -> None:
    found = robust_accuracy(network, IMAGES, Nonideality(variation=1.0), range(5))
    assert found.seeds == (0, 1, 2, 3, 4)
    assert len(set(found.per_seed)) > 1
    assert found.mean == statistics.fmean(found.per_seed)
    assert found.spread == statistics.stdev(found.per_seed)
    again = robust_accuracy(network, IMAGES, Nonideality(variation=1.0), [3])
    assert again.per_seed == found.per_seed[3:4]
    assert again.spread == 0


def test_network_is_left_as_it_was(network: nn.Module) -> None:
    set_readout(network, EVERY_READING)
    robust_accuracy(network, IMAGES, Nonideality.with_faults(0.01), [0])
    assert set(_readouts(network)) == {EVERY_READING}
    set_readout(network, Readout())


def test_network_is_left_as_it_was_after_an_error(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> float:
        raise RuntimeError("stopped")

    monkeypatch.setattr("trainers.robustness.accuracy", fail)
    set_readout(network, EVERY_READING)
    with pytest.raises(RuntimeError, match="stopped"):
        robust_accuracy(network, IMAGES, Nonideality(), [0])
    assert set(_readouts(network)) == {EVERY_READING}
    set_readout(network, Readout())


def test_no_seed_is_refused(network: nn.Module) -> None:
    with pytest.raises(SpecError, match="0 seeds; allowed: at least one"):
        robust_accuracy(network, IMAGES, Nonideality(), [])
    with pytest.raises(SpecError, match="seed is -1"):
        robust_accuracy(network, IMAGES, Nonideality(), [-1])


def test_each_layer_draws_its_own_device(network: nn.Module) -> None:
    set_readout(network, Readout(nonideality=Nonideality.with_faults(0.01)))
    devices = [readout.nonideality for readout in _readouts(network)]
    set_readout(network, Readout())
    seeds = {device.seed for device in devices if device is not None}
    assert len(seeds) == len(devices) == 4


def test_faults_reach_the_logits_the_same_by_every_reading(network: nn.Module) -> None:
    device = Nonideality.with_faults(0.02)
    joined = _logits(network, Readout(nonideality=device))
    read = _logits(network, Readout(nonideality=device, every_reading=True))
    assert torch.equal(joined, read)
    assert not torch.equal(joined, _logits(network, Readout()))


@pytest.mark.parametrize("every_reading", [False, True])
def test_cap_on_the_adcs_clips_only_where_it_is_below_the_certificate(
    network: nn.Module, every_reading: bool
) -> None:
    exact = _logits(network, Readout())
    for bits, same in ((12, True), (1, False)):
        capped = _logits(network, Readout(adc_bits=bits, every_reading=every_reading))
        assert torch.equal(capped, exact) is same


def test_adcs_of_no_bits_tell_no_images_apart(network: nn.Module) -> None:
    logits = _logits(network, Readout(adc_bits=0))
    assert len(logits.unique(dim=0)) == 1
    found = robust_accuracy(network, IMAGES, Nonideality(), [0], adc_bits=0)
    assert found.adc_bits == 0
    assert found.mean == pytest.approx(1 / CLASSES)


def test_negative_cap_is_refused() -> None:
    with pytest.raises(SpecError, match="adc_bits is -1; allowed: at least 0"):
        Readout(adc_bits=-1)


def test_default_readout_simulates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = finalised(build_network(CONV_NET, SHAPE, CLASSES), IMAGES)
    monkeypatch.setattr("trainers.integer.CrossbarSimulator", None)
    assert not Readout().simulates
    network(as_floats(IMAGES))


def test_images_are_taken_in_batches(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    largest: list[int] = []
    monkeypatch.setattr("trainers.robustness._BATCH", 5)
    handle = network.register_forward_pre_hook(lambda _, x: largest.append(len(x[0])))
    for count in (10, 24):
        chosen: ImageSet = IMAGES.subset(count)
        robust_accuracy(network, chosen, Nonideality(), [0])
        assert max(largest) == 5
    handle.remove()


def test_json_is_plain() -> None:
    found = Robustness(
        nonideality=Nonideality(variation=0.1),
        adc_bits=None,
        images=4,
        ideal=1.0,
        seeds=(0, 1),
        per_seed=(0.5, 0.75),
    ).to_json()
    assert found["n"] == 2
    assert found["mean"] == 0.625
    assert found["spread"] == pytest.approx(math.sqrt(2) / 8)
    assert (found["seeds"], found["per_seed"]) == ([0, 1], [0.5, 0.75])
