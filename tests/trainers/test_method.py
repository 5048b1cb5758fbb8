import pytest
import torch
from torch import nn

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import SpecError
from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import SPEC, toy_targets
from trainers.constraints import Unconstrained
from trainers.method import LayerTarget, Method, dense_targets


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize("nonzeros", [0, -1, 9])
def test_bound_outside_the_crossbar_is_refused(nonzeros: int) -> None:
    message = f"nonzeros is {nonzeros}; allowed: 1 to 8"
    with pytest.raises(SpecError, match=message):
        LayerTarget(spec=SPEC, nonzeros=nonzeros)


def test_targets_follow_the_plan(network: nn.Module) -> None:
    small = CrossbarSpec(wordlines=4, bitlines=16)
    targets = dense_targets(network, CrossbarPlan(default=SPEC, per_layer={"2": small}))
    assert targets == {"0": LayerTarget(spec=SPEC), "2": LayerTarget(spec=small)}


def test_plan_that_names_another_layer_is_refused(network: nn.Module) -> None:
    with pytest.raises(SpecError, match="the plan names layer 'fc9'; layers: 0, 2"):
        dense_targets(network, CrossbarPlan(per_layer={"fc9": SPEC}))


@pytest.mark.parametrize("names", [["0"], ["0", "2", "3"]])
def test_targets_must_name_exactly_the_layers(network: nn.Module, names: list[str]) -> None:
    method = Method(dict.fromkeys(names, LayerTarget(spec=SPEC)))
    odd = "3" if "3" in names else "2"
    with pytest.raises(SpecError, match=f"layer '{odd}'; the network's layers: 0, 2"):
        method.attach(network, epochs=1, steps_per_epoch=1)


def test_base_changes_nothing(network: nn.Module) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    method = Method(toy_targets(network))
    method.attach(network, epochs=1, steps_per_epoch=1)
    network(torch.ones(1, 5)).sum().backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    method.after_backward()
    method.after_step()
    method.after_epoch(0)
    method.finalize()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert method.state_dict() == {}
    assert method.constraint("0") == Unconstrained()


def test_layouts_survive_the_state(network: nn.Module) -> None:
    method = Method(toy_targets(network))
    method.attach(network, epochs=1, steps_per_epoch=1)
    kept = torch.tensor([[1, 3]])
    method.layouts["0"] = MatrixLayout(groups=1, outputs=4, rows=5, kept_outputs=kept)
    method.layouts["2"] = MatrixLayout(groups=1, outputs=2, rows=4, kept_rows=kept)
    other = Method(toy_targets(network))
    other.attach(network, epochs=1, steps_per_epoch=1)
    other.load_state_dict(method.state_dict())
    assert other.layouts["0"].kept_rows is None
    assert torch.equal(other.layouts["0"].kept_outputs, kept)  # type: ignore[arg-type]
    assert torch.equal(other.layouts["2"].kept_rows, kept)  # type: ignore[arg-type]
    other.load_state_dict({})
    assert other.layouts["2"].kept_rows is None
