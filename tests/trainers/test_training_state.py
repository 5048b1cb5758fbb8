import os
from pathlib import Path

import pytest
import torch
from torch import nn

from hwmodel.errors import CheckpointError, StorageError
from tests.trainers.toys import toy_targets
from trainers.method import Method
from trainers.methods import Magnitude, MagnitudeConfig
from trainers.training_state import load_training, save_training

SETTINGS = {"epochs": 3, "seed": 0}


def parts(
    inputs: int = 3, *, magnitude: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer, Method]:
    network = nn.Sequential(nn.Linear(inputs, 2))
    targets = toy_targets(network)
    method = Magnitude(targets, MagnitudeConfig()) if magnitude else Method(targets)
    method.attach(network, epochs=1, steps_per_epoch=1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, inputs)).sum().backward()
    optimiser.step()
    return network, optimiser, method


def test_round_trip_restores_momenta_generator_and_reports(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "training.pt"
    network, optimiser, method = parts()
    reports = [{"epoch": 0, "loss": 0.25, "seconds": 1.5}]
    torch.manual_seed(4)
    save_training(path, network, optimiser, method, SETTINGS, reports)
    drawn = torch.rand(3)
    assert os.listdir(path.parent) == [path.name]
    other, second, same_method = parts()
    torch.manual_seed(5)
    assert load_training(path, other, second, same_method, SETTINGS) == reports
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(other[0].weight, network[0].weight)  # type: ignore[index]
    first_state = optimiser.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(second.state_dict()["state"][0]["momentum_buffer"], first_state)


def test_interrupted_write_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.pt"
    network, optimiser, method = parts()
    save_training(path, network, optimiser, method, SETTINGS, [])
    old = path.read_bytes()

    def full(target: Path, content: memoryview) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"training\.pt: cannot be written \(No space left"):
        save_training(path, network, optimiser, method, SETTINGS, [{"epoch": 0}])
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kept", [0, 40, 500])
def test_truncated_state_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "training.pt"
    save_training(path, *parts(), SETTINGS, [])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a readable training state"):
        load_training(path, *parts(), SETTINGS)


def test_state_of_another_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    save_training(path, *parts(), SETTINGS, [])
    with pytest.raises(CheckpointError, match="of method 'dense', expected 'magnitude'"):
        load_training(path, *parts(magnitude=True), SETTINGS)


def test_state_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    save_training(path, *parts(), SETTINGS, [])
    with pytest.raises(CheckpointError, match="not the state of this training"):
        load_training(path, *parts(inputs=4), SETTINGS)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}])
def test_file_that_is_no_training_state_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "training.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError):
        load_training(path, *parts(), SETTINGS)


def test_state_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    save_training(path, *parts(), SETTINGS, [])
    network, _, method = parts()
    groups = [{"params": [parameter]} for parameter in network.parameters()]
    with pytest.raises(CheckpointError):
        load_training(path, network, torch.optim.SGD(groups, lr=0.1), method, SETTINGS)


def test_state_of_another_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    save_training(path, *parts(), SETTINGS, [])
    with pytest.raises(CheckpointError, match="of another schedule"):
        load_training(path, *parts(), {**SETTINGS, "seed": 1})
