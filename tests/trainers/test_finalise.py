"""From floats to integers: batch norm, ranges, and every promise held or refused by name."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec, SignEncoding
from hwmodel.errors import CertificateError, ConstraintError, DivergedError
from hwmodel.geometry import plan_layer
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    MLP,
    SHAPE,
    SPEC,
    as_floats,
    finalised,
    seeded,
    toy_fit,
    toy_images,
    toy_targets,
    toy_tinyadc,
)
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.config import NetworkConfig
from trainers.data import ImageSet
from trainers.finalise import (
    activation_ranges,
    finalise,
    recalibrate_batch_norm,
    settle_batch_norm,
)
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, integer_layers, set_readout
from trainers.method import Method, dense_targets
from trainers.methods import TinyAdc, TinyAdcConfig
from trainers.networks import build_network
from trainers.tracing import layer_shapes


def test_trained_network_keeps_its_accuracy_as_integers() -> None:
    images = toy_images(48)
    network = build_network(MLP, SHAPE, CLASSES)
    method = Method(toy_targets(network))
    toy_fit(network, images, method, epochs=4)
    integer = finalise(network, method, layer_shapes(network, SHAPE), images)
    with torch.no_grad():
        wanted, found = network(as_floats(images)), integer(as_floats(images))
    assert float((wanted - found).abs().max()) < 0.03 * float(wanted.abs().max())
    assert accuracy(integer, images) == accuracy(network, images) == 1.0


@given(
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from(SignEncoding),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.integers(0, 100),
)
@settings(deadline=None, max_examples=25)
def test_tinyadc_keeps_its_promise_on_every_crossbar(
    nonzeros: int,
    both_signs: bool,
    encoding: SignEncoding,
    dac_bits: int,
    packed: bool,
    seed: int,
) -> None:
    images = toy_images(4)
    network = build_network(CONV_NET, SHAPE, CLASSES, seed=seed)
    spec = replace(SPEC, sign_encoding=encoding, dac_bits=dac_bits)
    targets = toy_targets(network, spec, nonzeros=nonzeros)
    if packed:
        targets = {n: replace(t, rows=4, outputs=1) for n, t in targets.items()}
    method = TinyAdc(targets, TinyAdcConfig(both_signs=both_signs))
    integer = finalised(network, images, method)
    shapes = layer_shapes(network, SHAPE)
    for name, layer in integer_layers(integer).items():
        rows, outputs = (4, 1) if packed else (None, None)
        plan = plan_layer(shapes[name], spec, rows=rows, outputs=outputs, nonzeros=nonzeros)
        mapped = layer.mapped(shapes[name])
        assert mapped.adc_bits <= plan.adc_bits
        assert mapped.crossbars == plan.crossbars
    with torch.no_grad():
        expected = integer(as_floats(images))
        set_readout(integer, EVERY_READING)
        assert torch.equal(integer(as_floats(images)), expected)


class Unprojected(TinyAdc):
    """Forgets to project."""

    def finalize(self) -> None:
        pass


def test_method_that_does_not_project_is_caught_by_layer_tile_and_bitline() -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    method = Unprojected(toy_targets(network, nonzeros=2), TinyAdcConfig(admm_share=1.0))
    method.attach(network, epochs=1, steps_per_epoch=1)
    with torch.no_grad():
        for module in method.modules.values():
            module.weight.zero_()
        # Output 4, rows 16 to 23 are tile 2; negative weights have the second four bitlines.
        network.fc1.weight[4, 17:20] = -1.0
    with pytest.raises(ConstraintError) as caught:
        finalise(network, method, layer_shapes(network, SHAPE), toy_images(8))
    assert str(caught.value) == "fc1: 3 non-zeros in segment (tile 2, bitline 36), limit 2"


def test_promise_that_the_weights_do_not_keep_is_caught_by_the_certificate() -> None:
    network = seeded(build_network(MLP, SHAPE, CLASSES))
    method = Method(toy_targets(network, nonzeros=1))  # a bound that nothing holds it to
    method.attach(network, epochs=0, steps_per_epoch=1)
    message = r"fc1: a reading of \d+ is possible at tile \d+, bitline \d+ \(bit slice 0\), limit 3"
    with pytest.raises(CertificateError, match=message):
        finalise(network, method, layer_shapes(network, SHAPE), toy_images(8))


def test_removed_places_must_be_empty() -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    targets = {n: replace(t, rows=4) for n, t in toy_targets(network, nonzeros=8).items()}
    method = Unprojected(targets, TinyAdcConfig(admm_share=1.0))
    method.attach(network, epochs=1, steps_per_epoch=1)
    with torch.no_grad():
        removed = sorted(set(range(36)) - set(method.layouts["fc1"].kept_rows[0].tolist()))  # type: ignore[index]
        network.fc1.weight[1, removed[0]] = 1.0
    with pytest.raises(ConstraintError, match="fc1: 1 non-zero weights in removed rows or outputs"):
        finalise(network, method, layer_shapes(network, SHAPE), toy_images(8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    with torch.no_grad():
        network.fc2.weight[0, 0] = value
    with pytest.raises(DivergedError, match=r"fc2\.weight: values that are not finite"):
        finalised(network, toy_images(8))


def test_bias_that_is_not_finite_is_refused() -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    with torch.no_grad():
        network.fc2.bias[0] = float("nan")
    with pytest.raises(DivergedError):
        finalised(network, toy_images(8))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_float_network_is_left_projected_and_trainable_no_further(share: float) -> None:
    network = build_network(CONV_NET, SHAPE, CLASSES)
    method = toy_tinyadc(network, 1, admm_share=share)
    method.attach(network, epochs=1, steps_per_epoch=2)
    integer = finalise(network, method, layer_shapes(network, SHAPE), toy_images(8))
    assert not network.training
    assert not integer.training
    for name, module in method.modules.items():
        method.constraint(name).check(name, module.weight, SPEC, method.layouts[name])
    before = {key: value.clone() for key, value in integer.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in integer.state_dict().items())


def test_finalising_removes_every_parametrisation() -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    parametrizations.weight_norm(network.fc1)
    finalised(network, toy_images(8))
    assert not parametrize.is_parametrized(network.fc1)


def test_parametrised_network_can_be_pruned() -> None:
    images = toy_images()
    network = build_network(MLP, SHAPE, CLASSES)
    parametrizations.weight_norm(network.fc1)
    method = toy_tinyadc(network)
    toy_fit(network, images, method)
    finalise(network, method, layer_shapes(network, SHAPE), images)


class Normed(nn.Module):
    """A batch norm over the images themselves, and another one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, momentum=0.3)
        self.after = nn.BatchNorm2d(1, affine=False)
        self.plain = nn.BatchNorm2d(1, track_running_stats=False)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(36, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.plain(self.after(self.norm(self.dropout(images))))
        return torch.as_tensor(self.linear(features.flatten(1)))


def test_batch_norm_gets_the_plain_averages() -> None:
    images = toy_images(30)
    network = Normed().train()
    with torch.no_grad():
        for norm in (network.norm, network.after):
            norm.running_mean += 7  # type: ignore[operator]
    recalibrate_batch_norm(network, images)
    values = as_floats(images)
    torch.testing.assert_close(network.norm.running_mean, values.mean().reshape(1))
    torch.testing.assert_close(network.norm.running_var, values.var().reshape(1))
    torch.testing.assert_close(network.after.running_mean, torch.zeros(1), atol=1e-5, rtol=0)
    assert (network.norm.momentum, network.after.momentum) == (0.3, 0.1)
    assert not any(module.training for module in network.modules())


def test_batch_norm_averages_whole_batches_alike() -> None:
    images = toy_images(256)
    network = Normed()
    recalibrate_batch_norm(network, images)
    values = as_floats(images)
    torch.testing.assert_close(network.norm.running_mean, values.mean().reshape(1))
    expected = torch.stack([values[:128].var(), values[128:].var()]).mean().reshape(1)
    torch.testing.assert_close(network.norm.running_var, expected)


def test_batch_norm_weighs_every_image_alike() -> None:
    images = toy_images(130)
    images = replace(images, images=images.images.clone())
    images.images[128:] = 255
    network = Normed()
    recalibrate_batch_norm(network, images)
    torch.testing.assert_close(
        network.norm.running_mean, as_floats(images).mean().reshape(1), rtol=1e-3, atol=0
    )


def test_batch_norm_takes_one_image_beyond_a_whole_batch() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, CLASSES))
    recalibrate_batch_norm(network, toy_images(129))


def test_network_without_batch_norm_is_left_alone() -> None:
    network = build_network(MLP, SHAPE, CLASSES)
    recalibrate_batch_norm(network, toy_images(4))
    assert network.training


def test_statistics_that_fit_nothing_are_recalibrated() -> None:
    network = build_network(CONV_NET, SHAPE, CLASSES)
    toy_fit(network, toy_images(48), Method(toy_targets(network)), epochs=4)
    with torch.no_grad():
        network.norm.running_mean.fill_(100.0)
    integer = finalised(network, toy_images(48))
    assert float(integer.norm.running_mean.abs().max()) < 10
    assert torch.equal(integer.norm.running_mean, network.norm.running_mean)


def test_statistics_that_a_few_images_cannot_better_are_kept() -> None:
    network = build_network(CONV_NET, SHAPE, CLASSES)
    images = toy_images(240)
    toy_fit(network, images, Method(toy_targets(network)), epochs=4)
    recalibrate_batch_norm(network, images)
    trained = network.norm.running_mean.clone()
    outlier = ImageSet(
        name="odd",
        images=torch.cat((255 - images.images[:4], images.images[:4])),
        labels=torch.cat((images.labels[:4], images.labels[:4])),
        classes=CLASSES,
    )
    settle_batch_norm(network, outlier)
    assert torch.equal(network.norm.running_mean, trained)


def test_ranges_cover_what_every_call_of_a_layer_sees() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(36, 36, bias=False)
            nn.init.eye_(self.linear.weight)
            self.end = nn.Linear(36, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            once = self.linear(images.flatten(1))
            return torch.as_tensor(self.end(self.linear(once * -2.0)))

    network, images = Twice(), toy_images(200)
    ranges = activation_ranges(network, images, {"linear": 255, "end": 15})
    highest = float(as_floats(images).max())
    assert ranges["linear"].scale == pytest.approx(highest * 3 / 255)
    assert ranges["linear"].zero_point == 170
    assert ranges["end"].zero_point == 15
    assert ranges["end"].scale == pytest.approx(highest * 2 / 15)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_residual_network_goes_through_tinyadc_to_a_checkpoint_and_back(tmp_path: Path) -> None:
    shape, config = (3, 16, 16), NetworkConfig(name="resnet20")
    images = toy_images(16, shape)
    network = build_network(config, shape, CLASSES)
    spec = CrossbarSpec(wordlines=32, bitlines=32)
    dense = dense_targets(network, CrossbarPlan(default=spec))
    targets = {name: replace(target, nonzeros=4) for name, target in dense.items()}
    method = TinyAdc(targets, TinyAdcConfig(admm_share=0.5, rounds_per_epoch=1))
    toy_fit(network, images, method, epochs=2)
    shapes = layer_shapes(network, shape)
    integer = finalise(network, method, shapes, images)
    layers = integer_layers(integer)
    assert len(layers) == 20
    assert max(layer.mapped(shapes[name]).adc_bits for name, layer in layers.items()) <= 4
    save_checkpoint(
        tmp_path / "saved", integer, config, input_shape=shape, classes=CLASSES, facts={}
    )
    loaded = load_checkpoint(tmp_path / "saved").network
    values = as_floats(images)[:4]
    with torch.no_grad():
        expected = integer(values)
        assert torch.equal(loaded(values), expected)
        set_readout(loaded, EVERY_READING)
        assert torch.equal(loaded(values[:2]), expected[:2])
    assert copy.deepcopy(loaded)(values[:1]).shape == (1, CLASSES)
