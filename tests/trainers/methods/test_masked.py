import pytest
import torch
from torch import nn

from tests.trainers.toys import SPEC, seeded, toy_targets
from trainers.constraints import Constraint, LayerCount
from trainers.method import LayerTarget
from trainers.methods.masked import Masked


class Halved(Masked):
    """Keeps half of 20 weights."""

    def constraint(self, name: str) -> Constraint:
        return LayerCount(10)


def layer(seed: int = 0) -> nn.Sequential:
    return nn.Sequential(seeded(nn.Linear(5, 4, bias=False), seed))


def attached(network: nn.Module, free_share: float) -> Halved:
    method = Halved(toy_targets(network), free_share)
    method.attach(network, epochs=2, steps_per_epoch=3)
    return method


def step(method: Halved, network: nn.Sequential) -> None:
    """One step that moves every weight, as momentum would also those without a gradient."""
    with torch.no_grad():
        network[0].weight.add_(torch.linspace(-0.1, 0.1, 20).reshape(4, 5))
    method.after_step()


@pytest.mark.parametrize(("free_share", "free_steps"), [(0.0, 0), (0.5, 3), (0.6, 4), (1.0, 6)])
def test_pruning_comes_once_after_the_free_share_of_the_steps(
    free_share: float, free_steps: int
) -> None:
    network = layer()
    method = attached(network, free_share)
    weight, counts, masks = network[0].weight, [], []
    for _ in range(6):
        counts.append(int(torch.count_nonzero(weight)))
        masks.append(method.masks.get("0"))
        step(method, network)
    assert counts == [20] * free_steps + [10] * (6 - free_steps)
    assert [mask is None for mask in masks] == [count == 20 for count in counts]
    assert torch.equal(weight != 0, method.masks["0"])
    assert all(mask is method.masks["0"] for mask in masks[free_steps:])


def test_the_largest_weights_at_the_time_of_pruning_stay() -> None:
    network = layer()
    method = attached(network, 0.5)
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(20.0).reshape(4, 5))
    for _ in range(3):
        step(method, network)
    assert torch.equal(method.masks["0"], torch.arange(20).reshape(4, 5) >= 10)


def test_finalize_prunes_what_is_still_free_and_leaves_the_mask_otherwise() -> None:
    free, masked = layer(), layer()
    attached(free, 1.0).finalize()
    assert int(torch.count_nonzero(free[0].weight)) == 10
    method = attached(masked, 0.0)
    step(method, masked)
    before = masked[0].weight.detach().clone()
    method.finalize()
    assert torch.equal(masked[0].weight, before)


def test_attached_anew_it_begins_anew() -> None:
    before = layer()
    method = attached(before, 0.5)
    step(method, before)
    method.finalize()
    network = layer(seed=1)
    method.attach(network, epochs=2, steps_per_epoch=3)
    assert (method.masks, method.steps) == ({}, 0)
    step(method, network)
    assert int(torch.count_nonzero(network[0].weight)) == 20


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_state_goes_on_where_it_was_on_either_side_of_the_pruning(steps: int) -> None:
    network, again = layer(), layer(seed=1)
    method, other = attached(network, 0.5), attached(again, 0.5)
    for _ in range(steps):
        step(method, network)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    assert ("mask.0" in state) == (steps >= 3)
    again.load_state_dict(network.state_dict())
    other.load_state_dict(state)
    for _ in range(3):
        step(method, network)
        step(other, again)
        assert torch.equal(network[0].weight, again[0].weight)


def test_removed_rows_and_outputs_stay_removed_while_weights_are_free() -> None:
    network = layer()
    method = Halved({"0": LayerTarget(spec=SPEC, rows=3, outputs=2)}, 1.0)
    method.attach(network, epochs=1, steps_per_epoch=3)
    step(method, network)
    assert int(torch.count_nonzero(network[0].weight)) <= 6
