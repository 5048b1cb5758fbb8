import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hwmodel.errors import CheckpointError, StorageError
from trainers.networks.resnet import resnet20
from trainers.weights import head_name, load_weights, save_weights


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def filled(network: nn.Module) -> dict[str, Tensor]:
    """A state of the network's shapes that differs from its own everywhere."""
    return {key: torch.full_like(value, 2) for key, value in network.state_dict().items()}


def holds(network: nn.Module, value: float) -> bool:
    return all(bool((tensor == value).all()) for tensor in network.state_dict().values())


def test_round_trip(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "weights.safetensors"
    network.load_state_dict(filled(network))
    save_weights(network, path)
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    load_weights(other, path)
    assert holds(other, 2)
    assert os.listdir(path.parent) == [path.name]


def test_transposed_weights_are_written_in_order(tmp_path: Path) -> None:
    network = nn.Linear(3, 2, bias=False)
    network.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).t())
    save_weights(network, tmp_path / "w.safetensors")
    other = nn.Linear(3, 2, bias=False)
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, network.weight)


def test_interrupted_write_leaves_the_old_file(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network, path)
    old = path.read_bytes()

    def broken(tensors: dict[str, Tensor], target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.weights.save_file", broken)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left"):
        save_weights(network, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {"model_state_dict": s, "loss": 0.5},
        lambda s: {"net": s, "acc": 90.0},
    ],
)
@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "model.", "backbone.", "_orig_mod."),
        *("module._orig_mod.", "_orig_mod.module.", "model.backbone."),
    ],
)
def test_nesting_and_prefix_are_seen_through(
    network: nn.Module, tmp_path: Path, wrap: Callable[[object], object], prefix: str
) -> None:
    state = {prefix + key: value for key, value in filled(network).items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert holds(network, 2)


def two_layers(classes: int) -> nn.Module:
    network = nn.Sequential()
    network.add_module("body", nn.Linear(2, 3))
    network.add_module("head", nn.Linear(3, classes))
    return network


def test_reset_head_keeps_the_fresh_last_layer_and_loads_the_rest(tmp_path: Path) -> None:
    network, other = two_layers(4), two_layers(10)
    save_file(filled(other), tmp_path / "w.safetensors")
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    load_weights(network, tmp_path / "w.safetensors", reset_head=True)
    assert head_name(network) == "head"
    found = network.state_dict()
    for key in ("head.weight", "head.bias"):
        assert torch.equal(found[key], fresh[key])
    for key in ("body.weight", "body.bias"):
        assert bool((found[key] == 2).all())


def test_reset_head_leaves_a_head_of_the_same_shape_out_too(tmp_path: Path) -> None:
    network = two_layers(4)
    save_file(filled(network), tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors", reset_head=True)
    assert not bool((network.state_dict()["head.weight"] == 2).any())


def test_reset_head_still_wants_every_other_tensor(tmp_path: Path) -> None:
    state = filled(two_layers(10))
    del state["body.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'body\.bias' is missing"):
        load_weights(two_layers(4), tmp_path / "w.safetensors", reset_head=True)


def test_head_of_other_classes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    save_file(filled(two_layers(10)), tmp_path / "w.safetensors")
    message = r"'head.weight' has shape \(10, 3\), .* has \(4, 3\) \(network.reset_head = true"
    with pytest.raises(CheckpointError, match=message):
        load_weights(two_layers(4), tmp_path / "w.safetensors")


def test_checkpoint_of_another_network_is_refused_by_both_names(
    network: nn.Module, tmp_path: Path
) -> None:
    save_file(filled(two_layers(10)), tmp_path / "w.safetensors")
    message = (
        "tensors '0.weight', '0.bias', '1.weight' and 3 more are missing; "
        "tensors 'body.bias', 'body.weight', 'head.bias' and 1 more are not part of the network"
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(network, tmp_path / "w.safetensors")


def test_missing_and_unexpected_tensors_are_named_together(
    network: nn.Module, tmp_path: Path
) -> None:
    state = filled(network)
    state["1.scale"] = state.pop("1.weight")
    save_file(state, tmp_path / "w.safetensors")
    message = "tensor '1.weight' is missing; tensor '1.scale' is not part of the network"
    with pytest.raises(CheckpointError, match=message):
        load_weights(network, tmp_path / "w.safetensors")


def test_half_precision_weights_become_the_networks_own(network: nn.Module, tmp_path: Path) -> None:
    state = {key: value.half() for key, value in filled(network).items()}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")
    assert holds(network, 2)
    assert next(network.parameters()).dtype == torch.float32


RESNET20_TENSORS = {
    "conv1.weight": (16, 3, 3, 3),
    "layer1.0.bn2.running_var": (16,),
    "layer2.0.conv1.weight": (32, 16, 3, 3),
    "layer3.2.conv2.weight": (64, 64, 3, 3),
    "linear.weight": (10, 64),
    "linear.bias": (10,),
}
"""Some of the 116 tensors of akamaster/pytorch_resnet_cifar10's published checkpoints."""


def test_published_resnet20_state_dict_fits() -> None:
    state = resnet20(input_shape=(3, 32, 32), classes=10).state_dict()
    assert len(state) == 19 * 6 + 2
    assert {key: tuple(state[key].shape) for key in RESNET20_TENSORS} == RESNET20_TENSORS


def test_old_checkpoints_without_batch_counters_load(network: nn.Module, tmp_path: Path) -> None:
    state = filled(network)
    del state["1.num_batches_tracked"]
    save_file(state, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")
    assert int(network.state_dict()["1.num_batches_tracked"]) == 0
    assert bool((network.state_dict()["0.weight"] == 2).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), "tensor '0.bias' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "tensor 'extra' is not part of the network"),
        (
            lambda s: s.update({"0.bias": torch.zeros(3)}),
            r"tensor '0.bias' has shape \(3,\), the network's has \(2,\)",
        ),
    ],
)
def test_tensor_that_does_not_fit_is_named(
    network: nn.Module, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = filled(network)
    change(state)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_weights(network, tmp_path / "w.safetensors")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_missing_file_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file; expected a safetensors file"):
        load_weights(network, tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(network, tmp_path)


def test_truncated_safetensors_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network, path)
    for kept in (0, 5, path.stat().st_size - 1):
        (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:kept])
        with pytest.raises(CheckpointError, match="not readable"):
            load_weights(network, tmp_path / "cut.safetensors")


def test_truncated_state_dict_is_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for kept in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=r"cut\.pt: not "):
            load_weights(network, tmp_path / "cut.pt")


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"no weights at all"])
def test_file_that_is_no_pickle_is_refused_with_what_is_allowed(
    network: nn.Module, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, tmp_path / "w.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'}: not a state dict of tensors; allowed: safetensors, or what "
        "torch.save(network.state_dict(), FILE) writes"
    )


class Malice:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.target, "executed"))


@pytest.mark.parametrize("dump", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_pickle_that_would_run_code_is_refused(
    network: nn.Module, tmp_path: Path, dump: Callable[[object, Path], object]
) -> None:
    dump({"0.weight": Malice(tmp_path / "proof")}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="not a state dict of tensors"):
        load_weights(network, tmp_path / "w.pt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2), {"state_dict": [1]}])
def test_content_that_is_no_state_dict_is_refused(
    network: nn.Module, tmp_path: Path, content: object
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="not a state dict of tensors"):
        load_weights(network, tmp_path / "w.pt")


def test_keys_that_are_no_names_are_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError):
        load_weights(network, tmp_path / "w.pt")


def test_network_whose_own_names_start_with_module_loads_what_it_saved(tmp_path: Path) -> None:
    network = nn.Sequential()
    network.add_module("module", nn.Linear(2, 2))
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")


def test_layer_under_two_names_is_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network.add_module("again", network[0])
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")
