"""What dead paths are, where they end, and that removing them changes no output."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import CLASSES, CONV_NET, SHAPE, seeded
from trainers.config import NetworkConfig
from trainers.dataflow import follow_channels
from trainers.dead_paths import DeadPaths
from trainers.networks import build_network
from trainers.tracing import crossbar_modules, dense_layout


class Residual(nn.Module):
    """One path through an addition, one that ends in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.first(images))
        features = features + self.second(features)
        return torch.as_tensor(self.last(features.mean(dim=(2, 3))))


class Branching(nn.Module):
    """Cannot be traced: what it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, values: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(values) if values.sum() > 0 else values)


def lenet_like(padding: int = 0, bias: bool = True) -> nn.Sequential:
    size = (8 + 2 * padding - 2) // 2
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 5, 3, padding=padding, bias=bias),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(5 * size * size, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


def pruned(
    network: nn.Module, outputs: dict[str, list[int]], rows: dict[str, list[int]] | None = None
) -> dict[str, MatrixLayout]:
    """Layouts that keep these outputs and rows, with zero weights outside."""
    layouts = {name: dense_layout(m) for name, m in crossbar_modules(network).items()}
    for name, kept in outputs.items():
        layouts[name] = replace(layouts[name], kept_outputs=torch.tensor([kept]))
    for name, kept in (rows or {}).items():
        layouts[name] = replace(layouts[name], kept_rows=torch.tensor([kept]))
    cut(network, layouts)
    return layouts


@torch.no_grad()
def cut(network: nn.Module, layouts: dict[str, MatrixLayout]) -> None:
    for name, module in crossbar_modules(network).items():
        module.weight.mul_(layouts[name].mask(module.weight.shape, "cpu"))


def removed(
    network: nn.Module, layouts: dict[str, MatrixLayout]
) -> tuple[dict[str, MatrixLayout], dict[str, str]]:
    found, reasons = DeadPaths(network, crossbar_modules(network), layouts).removed()
    cut(network, found)
    return found, reasons


def probe(network: nn.Module) -> Tensor:
    """Outputs with batch norm on the statistics of the batch, as after recalibration."""
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        return torch.as_tensor(network(images))


def test_removing_dead_paths_changes_no_output() -> None:
    network = seeded(lenet_like())
    layouts = pruned(network, {"0": [1, 4], "3": [0, 2, 3], "7": [1, 2, 6]})
    before = probe(network)
    found, reasons = removed(network, layouts)
    assert reasons == {}
    assert found["3"].kept_rows is not None
    assert found["3"].kept_rows[0].tolist() == [*range(9, 18), *range(36, 45)]
    assert found["7"].packed_rows == 3 * 9
    assert found["9"].kept_rows is not None
    assert found["9"].kept_rows[0].tolist() == [1, 2, 6]
    torch.testing.assert_close(probe(network), before)


def test_rows_behind_padding_stay_unless_the_constant_is_zero() -> None:
    network = seeded(lenet_like(padding=1))
    layouts = pruned(network, {"0": [1, 4]})
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.bias[0] = 0.0
    before = probe(network)
    found, reasons = removed(network, layouts)
    assert reasons == {"0": "3 pads: its border sees no constant"}
    assert found["3"].kept_rows is not None
    assert found["3"].kept_rows[0].tolist() == list(range(9, 54))
    torch.testing.assert_close(probe(network), before)


def test_rows_stay_where_no_bias_takes_up_their_constants() -> None:
    network = seeded(lenet_like(bias=False))
    found, reasons = removed(network, pruned(network, {"0": [1, 4]}))
    assert reasons == {"0": "3 has no bias to take up its constants"}
    assert found["3"].kept_rows is None


def test_outputs_that_nobody_reads_go_layer_by_layer() -> None:
    network = seeded(lenet_like())
    kept = [*range(9, 18), *range(27, 45)]  # channels 1, 3 and 4 of the convolution
    layouts = pruned(network, {}, {"7": kept, "9": [0, 5]})
    before = probe(network)
    found, reasons = removed(network, layouts)
    assert reasons == {}
    assert found["7"].kept_outputs is not None
    assert found["7"].kept_outputs[0].tolist() == [0, 5]
    assert found["3"].kept_outputs is not None
    assert found["3"].kept_outputs[0].tolist() == [1, 3, 4]
    assert found["0"].kept_outputs is None
    torch.testing.assert_close(probe(network), before)


def test_rows_without_weights_go_and_their_channels_with_them() -> None:
    network = seeded(lenet_like())
    layouts = pruned(network, {})
    second = network[3]
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        second.weight[:, 2] = 0
    before = probe(network)
    found, _ = removed(network, layouts)
    assert found["3"].packed_rows == 45
    assert found["0"].kept_outputs is not None
    assert found["0"].kept_outputs[0].tolist() == [0, 1, 3, 4, 5]
    torch.testing.assert_close(probe(network), before)


def test_some_row_always_stays() -> None:
    network = seeded(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    layouts = pruned(network, {"0": [1]}, {"1": [0, 2]})
    found, reasons = removed(network, layouts)
    assert reasons == {"0": "1 would have no row left"}
    assert found["1"].packed_rows == 2


def test_additions_end_a_path() -> None:
    network = seeded(Residual())
    channels, untraced = follow_channels(network, crossbar_modules(network))
    assert untraced == ""
    assert set(channels["first"].obstacles) == {"an addition"}
    assert [reader.layer for reader in channels["first"].readers] == ["second"]
    assert channels["second"].obstacles == ("an addition",)
    assert channels["last"].obstacles == ("the network's output",)
    layouts = pruned(network, {"first": [0, 1], "second": [0, 3]})
    found, reasons = removed(network, layouts)
    assert reasons["second"] == "read by an addition"
    assert found["last"].kept_rows is None


def test_what_cannot_be_traced_keeps_everything_and_says_why() -> None:
    network = Branching()
    layouts = pruned(network, {"linear": [0, 1]})
    found, reasons = removed(network, layouts)
    assert found["linear"].packed_rows == 4
    assert reasons["linear"].startswith("the network cannot be traced:")


def test_a_layer_that_runs_twice_is_not_followed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, values: Tensor) -> Tensor:
            return torch.as_tensor(self.again(self.again(self.first(values))))

    channels, _ = follow_channels(network := Twice(), crossbar_modules(network))
    assert list(channels) == ["first"]
    assert channels["first"].readers == ()
    assert channels["first"].obstacles == ("again, a Linear",)


def test_functions_are_followed_like_modules() -> None:
    network = build_network(CONV_NET, SHAPE, CLASSES)
    channels, untraced = follow_channels(network, crossbar_modules(network))
    assert untraced == ""
    assert list(channels) == ["first", "grouped", "depthwise", "linear"]
    assert [reader.layer for reader in channels["depthwise"].readers] == ["linear"]
    reader = channels["depthwise"].readers[0]
    assert reader.rows_per_channel == 9
    arriving = reader.arriving(torch.tensor([-1.0, 0.5, 2.0, 0.0]))
    assert arriving.tolist() == [0.0, 0.5, 2.0, 0.0]


def test_the_first_convolution_of_a_block_reaches_only_the_second() -> None:
    network = build_network(NetworkConfig(name="resnet20"), (3, 16, 16), 10)
    channels, untraced = follow_channels(network, crossbar_modules(network))
    assert untraced == ""
    inner = channels["layer2.1.conv1"]
    assert [reader.layer for reader in inner.readers] == ["layer2.1.conv2"]
    assert inner.obstacles == ()
    assert "an addition" in channels["layer2.1.conv2"].obstacles


def test_an_average_over_padding_ends_a_path() -> None:
    for padding, obstacles in ((0, ()), (1, ("1, an average over padding",))):
        network = nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.AvgPool2d(2, padding=padding), nn.Conv2d(2, 2, 1)
        )
        channels, _ = follow_channels(network, crossbar_modules(network))
        assert channels["0"].obstacles == obstacles


def test_grouped_readers_and_mixed_features_keep_their_rows() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Flatten(),
        nn.BatchNorm1d(4 * 64),
        nn.Linear(4 * 64, 2),
    )
    channels, _ = follow_channels(network, crossbar_modules(network))
    assert channels["0"].obstacles == ("2, whose groups keep equally many rows",)
    assert channels["2"].obstacles == ("4, which normalises positions",)
