"""Integer layers against torch's own convolutions, and the simulation of every ADC reading."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwmodel.certificate import AdcCertificate, certify
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.geometry import LayerShape, plan_layer
from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    SHAPE,
    SPEC,
    as_floats,
    finalised,
    seeded,
    toy_images,
    toy_targets,
)
from trainers.constraints import BitlineCount, Unconstrained
from trainers.integer import (
    EVERY_READING,
    EXACT,
    ConvGeometry,
    CrossbarLayer,
    IntegerLayer,
    integer_layers,
    set_readout,
)
from trainers.method import Method
from trainers.networks import build_network
from trainers.quantise import ActivationRange
from trainers.tracing import Convolution, CrossbarModule, dense_layout

SIGNED = ActivationRange(scale=0.02, zero_point=100)
EVEN_SAME = "ignore:Using padding='same' with even kernel lengths"
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
UNSIGNED = ActivationRange(scale=0.01, zero_point=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A float layer, its crossbar, what is left of it, and inputs."""

    module: CrossbarModule
    spec: CrossbarSpec
    layout: MatrixLayout
    code: ActivationRange
    values: Tensor

    @property
    def layer(self) -> IntegerLayer:
        """The layer's integers; what the layout removed is zero."""
        weight = Unconstrained().project(self.module.weight.detach(), self.spec, self.layout)
        with torch.no_grad():
            self.module.weight.copy_(weight)
        return IntegerLayer.quantised(self.module, self.spec, self.layout, self.code)


@st.composite
def specs(draw: st.DrawFn) -> CrossbarSpec:
    return CrossbarSpec(
        wordlines=draw(st.sampled_from([1, 4, 7, 16])),
        bitlines=32,
        cell_bits=draw(st.sampled_from([1, 2, 3])),
        dac_bits=draw(st.sampled_from([1, 2])),
        weight_bits=draw(st.sampled_from([3, 8])),
        input_bits=draw(st.sampled_from([4, 8])),
        sign_encoding=draw(st.sampled_from(SignEncoding)),
    )


@st.composite
def modules(draw: st.DrawFn) -> CrossbarModule:
    bias = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        return nn.Linear(draw(st.integers(1, 20)), draw(st.integers(1, 4)), bias=bias)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = 1 if draw(st.booleans()) else 2
    axes = draw(st.sampled_from([1, 2, 2]))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))[:axes]
    padding: str | tuple[int, ...] = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))[:axes]
    if draw(st.booleans()):
        stride, padding = (1, 1)[:axes], draw(st.sampled_from(["same", "valid"]))
    kind: type[Convolution] = nn.Conv1d if axes == 1 else nn.Conv2d
    arguments = {
        "kernel_size": (draw(st.integers(1, 3)), draw(st.integers(1, 4)))[:axes],
        "stride": stride,
        "padding": padding,
        "dilation": (draw(st.integers(1, 2)), draw(st.integers(1, 2)))[:axes],
        "padding_mode": draw(st.sampled_from(PADDING_MODES)),
    }
    return kind(  # type: ignore[arg-type]
        groups * inputs,
        groups * draw(st.integers(1, 2)),
        groups=groups,
        bias=bias,
        **arguments,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    module, spec = draw(modules()), draw(specs())
    seeded(module, draw(st.integers(0, 100)))
    dense = dense_layout(module)
    kept = {
        name: torch.stack(
            [torch.randperm(size)[: max(1, size - 1)].sort().values for _ in range(dense.groups)]
        )
        for name, size in (("kept_rows", dense.rows), ("kept_outputs", dense.outputs))
        if draw(st.booleans())
    }
    zero_point = draw(st.integers(0, spec.input_limit))
    shape: tuple[int, ...] = (3, module.weight.shape[1])
    if not isinstance(module, nn.Linear):
        shape = (2, module.in_channels, *(7, 8)[: module.weight.ndim - 2])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    return Case(
        module=module,
        spec=spec,
        layout=replace(dense, **kept),
        code=ActivationRange(scale=4.0 / spec.input_limit, zero_point=zero_point),
        values=torch.randn(shape, generator=generator) * 2,
    )


def exact(case: Case, layer: IntegerLayer) -> tuple[Tensor, Tensor]:
    """The layer's outputs by torch's convolution of zero-based codes, and those codes."""
    codes = torch.round(case.values / torch.tensor(case.code.scale)) + case.code.zero_point
    centred = (codes.clamp(0, case.spec.input_limit) - case.code.zero_point).double()
    plain = nn.utils.skip_init(type(case.module), **_arguments(case.module)).double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight_q)
        products = plain(centred)
    shape = (-1, *[1] * (layer.weight_q.ndim - 2))
    scale = (layer.weight_scale * case.code.scale).reshape(shape)
    return products.float() * scale + layer.bias.reshape(shape), centred


@pytest.mark.filterwarnings(EVEN_SAME)
@given(cases())
@settings(deadline=None, max_examples=150)
def test_layer_is_the_integer_convolution_and_reads_it_from_certified_adcs(case: Case) -> None:
    layer = case.layer
    crossbars = CrossbarLayer(layer)
    expected, _ = exact(case, layer)
    assert torch.equal(crossbars(case.values), expected)
    crossbars.readout = EVERY_READING
    assert torch.equal(crossbars(case.values), expected)


@pytest.mark.filterwarnings(EVEN_SAME)
@given(cases())
@settings(deadline=None, max_examples=80)
def test_layer_is_the_float_layer_within_its_quantisation_error(case: Case) -> None:
    layer = case.layer
    limit, code = case.spec.input_limit, case.code
    inside = case.values.clamp(
        -code.zero_point * code.scale, (limit - code.zero_point) * code.scale
    )
    with torch.no_grad():
        wanted = case.module(inside)
        found = CrossbarLayer(layer)(inside)
        scale = layer.weight_scale.reshape(-1, *[1] * (case.module.weight.ndim - 1))
        # |wx - w'x'| <= |w| |x - x'| + |w - w'| |x'|, with half a step of error in each.
        bounds = nn.utils.skip_init(type(case.module), **_arguments(case.module))
        bounds.weight.copy_(case.module.weight.abs() * code.scale / 2)
        allowed = bounds(torch.ones_like(inside))
        bounds.weight.copy_((scale / 2).expand_as(bounds.weight))
        allowed = allowed + bounds(inside.abs() + code.scale)
    assert bool(((wanted - found).abs() <= allowed * 1.01 + 1e-4).all())


def _arguments(module: CrossbarModule) -> dict[str, object]:
    """What makes a layer of the same geometry, without bias."""
    if isinstance(module, nn.Linear):
        names = ("in_features", "out_features")
    else:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        names = (*names, "dilation", "groups", "padding_mode")
    return {**{name: getattr(module, name) for name in names}, "bias": False}


@pytest.mark.parametrize("encoding", SignEncoding)
def test_one_bit_less_is_read_wrong(encoding: SignEncoding) -> None:
    module = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3).expand(2, 8))
    layer = IntegerLayer.quantised(module, replace(SPEC, sign_encoding=encoding), None, UNSIGNED)
    values = torch.full((1, 8), 2.55)
    crossbars = CrossbarLayer(layer)
    expected = crossbars(values)
    short = tuple(max(0, bits - 1) for bits in layer.adc_bits_per_slice)
    crossbars = CrossbarLayer(replace(layer, adc_bits_per_slice=short))
    assert torch.equal(crossbars(values), expected)
    crossbars.readout = EVERY_READING
    assert not torch.equal(crossbars(values), expected)


@given(st.integers(0, 1000), specs(), st.integers(1, 8), st.integers(1, 25), st.booleans())
@settings(deadline=None, max_examples=80)
def test_count_bounded_layer_needs_no_more_than_its_plan(
    seed: int, spec: CrossbarSpec, nonzeros: int, rows: int, both_signs: bool
) -> None:
    nonzeros = min(nonzeros, spec.wordlines)
    module = seeded(nn.Linear(rows, 3), seed)
    assert isinstance(module, nn.Linear)
    with torch.no_grad():
        bound = BitlineCount(nonzeros, both_signs)
        module.weight.copy_(bound.project(module.weight, spec, dense_layout(module)))
    layer = IntegerLayer.quantised(module, spec, None, UNSIGNED)
    shape = LayerShape(name="fc", rows=rows, outputs=3)
    planned = plan_layer(shape, spec, nonzeros=nonzeros)
    layer.certify().check("fc", planned.adc_bits_per_slice)
    mapped = layer.mapped(shape)
    assert mapped.adc_bits <= planned.adc_bits
    assert mapped.conversions <= planned.conversions
    assert mapped.nonzeros == int(torch.count_nonzero(layer.weight_q))


def test_linear_layers_take_leading_dimensions() -> None:
    module = seeded(nn.Linear(5, 3))
    assert isinstance(module, nn.Linear)
    crossbars = CrossbarLayer(IntegerLayer.quantised(module, SPEC, None, SIGNED))
    values = torch.randn(2, 4, 5)
    found = crossbars(values)
    assert found.shape == (2, 4, 3)
    assert torch.equal(found[1], crossbars(values[1]))


def test_layer_without_bias_adds_nothing_and_removed_outputs_give_their_bias() -> None:
    module = nn.Linear(4, 2)
    with torch.no_grad():
        module.bias.copy_(torch.tensor([0.5, -0.25]))
        module.weight[0] = 0.0
    layout = replace(dense_layout(module), kept_outputs=torch.tensor([[1]]))
    layer = IntegerLayer.quantised(module, SPEC, layout, UNSIGNED)
    assert CrossbarLayer(layer)(torch.rand(3, 4))[:, 0].tolist() == [0.5] * 3
    plain = nn.Linear(4, 2, bias=False)
    assert IntegerLayer.quantised(plain, SPEC, None, UNSIGNED).bias.tolist() == [0.0, 0.0]


def test_layer_stores_a_copy_of_the_bias() -> None:
    module = nn.Linear(4, 2)
    layer = IntegerLayer.quantised(module, SPEC, None, UNSIGNED)
    before = layer.bias.clone()
    with torch.no_grad():
        module.bias += 1
    assert torch.equal(layer.bias, before)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("valid", (0, 0, 0, 0)), ("same", (1, 2, 2, 2)), ((1, 3), (3, 3, 1, 1)), (2, (2, 2, 2, 2))],
)
def test_padding_is_left_right_top_bottom(
    padding: str | int | tuple[int, int], expected: tuple[int, ...]
) -> None:
    module = nn.Conv2d(1, 1, (3, 4), padding=padding, dilation=(2, 1))
    assert ConvGeometry.of(module).padding == expected


def test_padding_of_a_signal_is_left_right() -> None:
    module = nn.Conv1d(1, 1, 4, padding="same", dilation=3, padding_mode="reflect")
    geometry = ConvGeometry.of(module)
    assert (geometry.padding, geometry.padding_mode) == ((4, 5), "reflect")


def test_installing_replaces_every_layer_and_readings_can_be_switched() -> None:
    images = toy_images(8)
    network = finalised(build_network(CONV_NET, SHAPE, CLASSES), images)
    assert list(integer_layers(network)) == ["first", "grouped", "depthwise", "linear"]
    assert not any(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    crossbars = [m for m in network.modules() if isinstance(m, CrossbarLayer)]
    with torch.no_grad():
        fast = network(as_floats(images))
        set_readout(network, EVERY_READING)
        assert {m.readout for m in crossbars} == {EVERY_READING}
        slow = network(as_floats(images))
        set_readout(network, EXACT)
    assert torch.equal(fast, slow)
    assert {m.readout for m in crossbars} == {EXACT}


def test_layer_called_twice_is_replaced_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.linear = nn.Linear(36, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            return torch.as_tensor(self.linear(self.conv(self.conv(images)).flatten(1)))

    images = toy_images(8)
    network = finalised(seeded(Twice()), images)
    assert list(integer_layers(network)) == ["conv", "linear"]
    assert network(as_floats(images)).shape == (8, CLASSES)


def test_moving_to_double_keeps_the_integers() -> None:
    module = seeded(nn.Linear(5, 3))
    assert isinstance(module, nn.Linear)
    crossbars = CrossbarLayer(IntegerLayer.quantised(module, SPEC, None, SIGNED))
    values = torch.randn(4, 5)
    before = crossbars(values)
    matrix = crossbars.matrix_q.clone()
    crossbars.double()
    assert torch.equal(crossbars.matrix_q, matrix)
    torch.testing.assert_close(crossbars(values.double()).float(), before)


def test_missing_bias_lies_on_the_device_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = AdcCertificate(
        worst_sums=(0,), witnesses=(), segments_per_slice=(0,), unit_line_bits=0
    )
    monkeypatch.setattr("trainers.integer.certify", lambda *_: nothing)
    module = nn.Linear(4, 2, bias=False, device="meta")
    layer = IntegerLayer.quantised(module, SPEC, None, UNSIGNED)
    assert layer.weight_scale.device == layer.bias.device


def test_network_counts_the_certificates_of_its_layers() -> None:
    network = finalised(build_network(CONV_NET, SHAPE, CLASSES), toy_images(8))
    for layer in integer_layers(network).values():
        assert layer.weight_q.dtype == torch.int16
        certificate = certify(layer.weight_q, layer.spec, layer.layout)
        assert layer.certify() == certificate
        assert layer.adc_bits_per_slice == certificate.adc_bits_per_slice


def test_dense_method_takes_the_dense_layout() -> None:
    network = build_network(CONV_NET, SHAPE, CLASSES)
    network = finalised(network, toy_images(8), Method(toy_targets(network)))
    layouts = [layer.layout for layer in integer_layers(network).values()]
    assert [(x.groups, x.outputs, x.rows) for x in layouts] == [
        (1, 4, 9),
        (2, 2, 18),
        (4, 1, 4),
        (1, 3, 36),
    ]
