import pytest
import torch
from torch import nn

from hwmodel.slice_statistics import merge_statistics
from tests.trainers.toys import CONV_NET, SHAPE, as_floats, finalised, toy_images
from trainers.fit import accuracy
from trainers.integer import EXACT, CrossbarLayer, Readout, integer_layers, set_readout
from trainers.networks import build_network
from trainers.slices import clipped_network, slice_report


@pytest.fixture(scope="module")
def integer() -> nn.Module:
    return finalised(build_network(CONV_NET, SHAPE, 3), toy_images())


def test_report_is_of_the_stored_weights(integer: nn.Module) -> None:
    images = toy_images()
    report = slice_report(integer, images)
    assert set(report.layers) == set(integer_layers(integer))
    for name, layer in integer_layers(integer).items():
        bits = tuple(statistics.max_bits for statistics in report.layers[name])
        assert bits == layer.adc_bits_per_slice
    assert report.slices == merge_statistics(report.layers.values())
    assert report.clipped_bits == tuple(s.covering_bits(0.999) for s in report.slices)
    assert report.accuracy == accuracy(integer, images)
    assert report.images == len(images)


def test_network_is_left_as_it_was(integer: nn.Module) -> None:
    before = {name: layer.adc_bits_per_slice for name, layer in integer_layers(integer).items()}
    slice_report(integer, toy_images())
    after = {name: layer.adc_bits_per_slice for name, layer in integer_layers(integer).items()}
    assert after == before
    layers = [module for module in integer.modules() if isinstance(module, CrossbarLayer)]
    assert all(layer.readout == EXACT for layer in layers)


@torch.no_grad()
def test_certified_bits_clip_nothing_and_fewer_do(integer: nn.Module) -> None:
    inputs = as_floats(toy_images())
    expected = integer(inputs)
    assert torch.equal(clipped_network(integer, (9, 9, 9, 9))(inputs), expected)
    assert not torch.equal(clipped_network(integer, (1, 1, 1, 1))(inputs), expected)


@torch.no_grad()
def test_one_resolution_for_all_slices_is_the_readout_s_cap(integer: nn.Module) -> None:
    inputs = as_floats(toy_images())
    clipped = clipped_network(integer, (2, 2, 2, 2))(inputs)
    try:
        set_readout(integer, Readout(adc_bits=2, every_reading=True))
        assert torch.equal(integer(inputs), clipped)
    finally:
        set_readout(integer, EXACT)


def test_json_holds_slice_groups_layers_and_the_smaller_adcs(integer: nn.Module) -> None:
    report = slice_report(integer, toy_images())
    found = report.to_json()
    assert [row["max_bits"] for row in found["slices"]] == [s.max_bits for s in report.slices]
    assert set(found["slices_per_layer"]) == set(report.layers)
    assert found["clipped"] == {
        "adc_bits_per_slice": list(report.clipped_bits),
        "accuracy": report.clipped_accuracy,
    }
