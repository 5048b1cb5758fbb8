import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import MappingError
from trainers.config import NetworkConfig
from trainers.networks.lenet import lenet5
from trainers.tracing import (
    check_mapped,
    crossbar_modules,
    dense_layout,
    digital_layers,
    layer_shapes,
    trace,
    unmapped_layers,
)


class Forward(nn.Module):
    """Named layers under a forward function."""

    def __init__(self, forward, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._run = forward

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self._run(self, images))


def test_shapes_of_lenet5() -> None:
    shapes = layer_shapes(lenet5(input_shape=(1, 28, 28), classes=10), (1, 28, 28))
    assert list(shapes) == ["conv1", "conv2", "fc1", "fc2"]
    found = [(s.rows, s.outputs, s.groups, s.positions) for s in shapes.values()]
    assert found == [(25, 20, 1, 576), (500, 50, 1, 64), (800, 500, 1, 1), (500, 10, 1, 1)]
    assert [s.name for s in shapes.values()] == list(shapes)


def test_grouped_and_depthwise_convolutions_have_a_matrix_per_group() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), nn.Conv2d(6, 12, 3, groups=6)
    )
    shapes = list(layer_shapes(network, (4, 9, 8)).values())
    assert [(s.rows, s.outputs, s.groups) for s in shapes] == [(12, 3, 2), (9, 2, 6)]
    assert [s.positions for s in shapes] == [4 * 4, 2 * 2]


def test_layer_called_twice_counts_both_calls() -> None:
    network = Forward(lambda n, x: n.conv(n.conv(x)), conv=nn.Conv2d(1, 1, 3))
    assert layer_shapes(network, (1, 8, 8))["conv"].positions == 36 + 16


def test_linear_layer_over_a_sequence_counts_its_elements() -> None:
    network = Forward(lambda n, x: n.fc(x.flatten(2)).mean(1), fc=nn.Linear(12, 5))
    assert layer_shapes(network, (7, 3, 4))["fc"].positions == 7


def test_linear_layer_over_channels_last_images_counts_its_pixels() -> None:
    network = Forward(lambda n, x: n.fc(x.permute(0, 2, 3, 1)).mean((1, 2)), fc=nn.Linear(3, 5))
    assert layer_shapes(network, (3, 4, 6))["fc"].positions == 4 * 6


def test_tracing_leaves_mode_hooks_and_statistics_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    layer_shapes(network, (1, 4, 4))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    layer_shapes(network.eval(), (1, 4, 4))
    assert not network.training


def test_hooks_go_even_where_the_forward_pass_fails() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(RuntimeError):
        layer_shapes(network, (3, 8, 8))
    assert not network[0]._forward_hooks


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.ConvTranspose1d(1, 1, 1), "ConvTranspose1d"),
        (nn.Conv3d(1, 1, 1), "Conv3d"),
        (nn.ConvTranspose2d(1, 1, 1), "ConvTranspose2d"),
        (nn.LSTM(2, 2), "LSTM"),
        (nn.Bilinear(2, 2, 2), "Bilinear"),
        (nn.MultiheadAttention(2, 1), "MultiheadAttention"),
        (nn.LSTMCell(2, 2), "LSTMCell"),
    ],
)
def test_layers_without_a_mapping_are_refused_by_name(layer: nn.Module, kind: str) -> None:
    network = nn.Sequential(nn.Linear(2, 2), layer)
    with pytest.raises(
        MappingError, match=f"1: a {kind} with weights; allowed: Conv1d, Conv2d and L"
    ):
        check_mapped(network)
    assert list(crossbar_modules(network)) == ["0"]


def test_convolution_of_a_signal_is_a_matrix_at_every_step() -> None:
    conv = nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="circular")
    network = Forward(lambda n, x: n.conv(x.flatten(2)), conv=conv)
    check_mapped(network)
    shape = layer_shapes(network, (4, 3, 4))["conv"]
    assert (shape.rows, shape.outputs, shape.groups, shape.positions) == (6, 3, 2, 6)


def test_network_without_a_layer_is_refused() -> None:
    with pytest.raises(
        MappingError, match="no layer for a crossbar; allowed: Conv1d, Conv2d and Linear"
    ):
        crossbar_modules(nn.Sequential(nn.Flatten(), nn.ReLU()))


def test_layer_that_is_never_reached_is_refused_by_name() -> None:
    network = Forward(lambda n, x: n.used(x), used=nn.Conv2d(1, 1, 1), spare=nn.Linear(2, 2))
    with pytest.raises(MappingError, match="spare: the forward pass never reaches this layer"):
        layer_shapes(network, (1, 2, 2))


def test_dense_layout_takes_the_groups_of_the_layer() -> None:
    layout = dense_layout(nn.Conv2d(4, 6, 3, groups=2))
    assert (layout.groups, layout.outputs, layout.rows) == (2, 3, 18)
    layout = dense_layout(nn.Linear(4, 6))
    assert (layout.groups, layout.outputs, layout.rows) == (1, 6, 4)


def test_weights_that_two_layers_share_are_refused() -> None:
    twice = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    twice.add_module("again", twice[0])
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    for network in (twice, tied):
        with pytest.raises(MappingError, match="shares its weights with 0"):
            check_mapped(network)


class Mixed(nn.Module):
    """Two layers for crossbars among everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.LSTM(8, 5, batch_first=True)
        self.extra = nn.Parameter(torch.ones(8, 8))
        self.fc = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.up(self.conv(images)).mean(1) @ self.extra
        rows = rows + self.attention(rows, rows, rows)[0]
        return torch.as_tensor(self.fc(self.memory(rows)[0][:, -1]))


def test_whatever_multiplies_outside_crossbars_is_counted() -> None:
    network = Mixed()
    assert list(unmapped_layers(network)) == ["", "up", "attention", "memory"]
    found = {x.name: (x.macs, x.weights) for x in digital_layers(network, torch.zeros(1, 1, 4, 4))}
    projections, products = 8 * 8 * 8 * 4, 2 * 8 * 8 * 8
    assert found == {
        "network": (8 * 8 * 8, 64),  # a bare parameter
        "up": (4 * 4 * 4 * 4 * 4, 64),
        "attention": (projections + products, 4 * 64),
        "memory": (8 * 4 * 5 * (8 + 5), 4 * 5 * (8 + 5)),
    }


class FusedAttention(nn.Module):
    """Attention as most vision transformers call it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, rows: Tensor) -> Tensor:
        query, key, value = self.qkv(rows).chunk(3, dim=-1)
        return functional.scaled_dot_product_attention(query, key, value)


def test_products_of_fused_attention_are_digital() -> None:
    (layer,) = digital_layers(FusedAttention(), torch.zeros(1, 1, 5, 8))
    assert (layer.macs, layer.weights) == (2 * 5 * 5 * 8, 0)


def test_network_that_crossbars_hold_has_nothing_digital() -> None:
    network = lenet5(input_shape=(1, 28, 28), classes=10)
    check_mapped(network)
    assert digital_layers(network, torch.zeros(1, 1, 28, 28)) == []


def test_configuration_refuses_unmapped_layers_or_makes_them_digital() -> None:
    network, shape = Mixed(), (1, 4, 4)
    with pytest.raises(MappingError, match=r"the network itself: .*network.unmapped = 'digital'"):
        trace(network, NetworkConfig(), shape)
    shapes, digital = trace(network, NetworkConfig(unmapped="digital"), shape)
    assert list(shapes) == ["conv", "fc"]
    assert len(digital) == 4
