import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hwmodel.errors import CheckpointError
from trainers.weights import load_weights, save_weights


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
    with pytest.raises(OSError, match="No space left"):
        save_weights(network, path)
    assert path.read_bytes() == old


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_nesting_and_prefix_are_seen_through(
    network: nn.Module, tmp_path: Path, wrap: Callable[[object], object], prefix: str
) -> None:
    state = {prefix + key: value for key, value in filled(network).items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert holds(network, 2)


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


@pytest.mark.parametrize("content", [b"", b"\x80\x02}"])
def test_file_that_ends_at_once_is_refused(
    network: nn.Module, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        load_weights(network, tmp_path / "w.pt")


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
