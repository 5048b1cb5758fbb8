"""The order of a step, on a toy set: the integers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.toys import SPEC, no_graph_kept, seeded, toy_targets
from trainers.method import LayerTarget
from trainers.methods.straight_through import StraightThrough

STEPS = 4
RATE = 0.02


class Whole(StraightThrough):
    """Weights of layer 0 are whole numbers: rounded in a projection, cut off between them."""

    def __init__(self, targets: dict[str, LayerTarget], refresh_steps: int) -> None:
        super().__init__(targets, refresh_steps)
        self.calls: list[str] = []

    def bounded(self, name: str) -> bool:
        return name == "0"

    def projected(self, name: str, latent: Tensor) -> Tensor:
        self.calls.append("projected")
        return latent.round()

    def adjusted(self, name: str, latent: Tensor) -> Tensor:
        self.calls.append("adjusted")
        return latent.trunc()


def two_layers(seed: int = 0) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False))
    seeded(network, seed)
    with torch.no_grad():
        network[0].weight.mul_(10)
    return network


def attached(
    network: nn.Sequential, refresh_steps: int = 3, **kept: int
) -> tuple[Whole, torch.optim.SGD]:
    targets = toy_targets(network)
    targets["0"] = LayerTarget(spec=SPEC, **kept)
    method = Whole(targets, refresh_steps)
    method.attach(network, epochs=1, steps_per_epoch=STEPS)
    return method, torch.optim.SGD(network.parameters(), RATE, weight_decay=0.05, momentum=0.9)


def step(
    method: Whole,
    network: nn.Sequential,
    optimiser: torch.optim.SGD,
    seed: int,
    see: Callable[[], None] = lambda: None,
) -> None:
    """A step on random images; `see` looks at the network when the optimiser does."""
    images = torch.rand(8, 6, generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    network(images).square().mean().backward()
    method.after_backward()
    see()
    optimiser.step()
    method.after_step()


def test_network_is_in_its_set_from_the_start_and_latents_are_what_it_was() -> None:
    network = two_layers()
    dense = [layer.weight.detach().clone() for layer in network]
    method, _ = attached(network)
    assert torch.equal(network[0].weight, dense[0].round())
    assert torch.equal(network[1].weight, dense[1])
    assert list(method.latents) == ["0"]
    assert torch.equal(method.latents["0"], dense[0])


def test_loss_sees_the_set_and_the_optimiser_the_latents() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    for seed in range(STEPS):
        weight, latent = network[0].weight, method.latents["0"].clone()
        forward = weight.detach().clone()
        images = torch.rand(8, 6, generator=torch.Generator().manual_seed(seed))
        hidden = images @ forward.T
        expected = 2 / 16 * (hidden @ network[1].weight.detach().T) @ network[1].weight.detach()
        gradient = expected.T @ images
        seen: list[Tensor] = []

        def see(seen: list[Tensor] = seen, weight: Tensor = weight) -> None:
            assert weight.grad is not None
            seen += [weight.detach().clone(), weight.grad.clone()]

        step(method, network, optimiser, seed, see)
        assert torch.equal(seen[0], latent)
        torch.testing.assert_close(seen[1], gradient)
        buffer = optimiser.state[weight]["momentum_buffer"]
        torch.testing.assert_close(method.latents["0"], latent - RATE * buffer)


def test_gradients_are_limited_to_a_share_of_the_latents() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    step(method, network, optimiser, 0)
    assert network[0].weight.grad is not None
    free = network[0].weight.grad.clone()
    again = two_layers()
    method, optimiser = attached(again)
    method.gradient_share = float(free.norm() / method.latents["0"].norm()) / 4
    step(method, again, optimiser, 0)
    assert again[0].weight.grad is not None
    torch.testing.assert_close(again[0].weight.grad, free / 4)
    torch.testing.assert_close(again[1].weight.grad, network[1].weight.grad)


def test_steps_add_up_in_the_latents_until_a_weight_moves() -> None:
    """The set alone would round each small step away."""
    network = two_layers()
    method, _ = attached(network, refresh_steps=1)
    before = network[0].weight.detach().clone()
    for _ in range(10):
        method.after_backward()
        with torch.no_grad():
            network[0].weight += 0.1
        method.after_step()
    assert torch.equal(network[0].weight, before + 1)


@pytest.mark.parametrize("refresh_steps", [1, 3, 9])
def test_full_projections_come_every_so_many_steps(refresh_steps: int) -> None:
    network = two_layers()
    method, optimiser = attached(network, refresh_steps)
    for seed in range(9):
        step(method, network, optimiser, seed)
        forward = torch.round if (seed + 1) % refresh_steps == 0 else torch.trunc
        assert torch.equal(network[0].weight, forward(method.latents["0"]))
    due = ["projected" if (n + 1) % refresh_steps == 0 else "adjusted" for n in range(9)]
    assert method.calls == ["projected", *due]


def test_layers_without_a_bound_train_as_they_would_alone() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    for seed in range(STEPS):
        before = network[1].weight.detach().clone()
        step(method, network, optimiser, seed)
        buffer = optimiser.state[network[1].weight]["momentum_buffer"]
        torch.testing.assert_close(network[1].weight.detach(), before - RATE * buffer)


def test_removed_rows_and_outputs_are_removed_from_latents_too() -> None:
    network = two_layers()
    method, optimiser = attached(network, rows=4, outputs=3)
    outside = ~method.layouts["0"].mask((4, 6), "cpu")
    assert int(outside.sum()) == 24 - 12
    for seed in range(STEPS):
        step(method, network, optimiser, seed)
        assert not method.latents["0"][outside].any()
        assert not network[0].weight[outside].any()


def test_finalize_leaves_what_was_trained() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    step(method, network, optimiser, 0)
    before = network[0].weight.detach().clone()
    method.finalize()
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_state_brings_latents_and_the_next_projection_back(steps: int) -> None:
    network, again = two_layers(), two_layers(seed=5)
    method, optimiser = attached(network)
    for seed in range(steps):
        step(method, network, optimiser, seed)
    other, resumed = attached(again)
    again.load_state_dict(network.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    other.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    for seed in range(steps, steps + STEPS):
        step(method, network, optimiser, seed)
        step(other, again, resumed, seed)
        for left, right in zip(network, again, strict=True):
            assert bool(left.weight.isfinite().all())
            assert torch.equal(left.weight, right.weight)
    assert torch.equal(other.latents["0"], method.latents["0"])


def test_attached_anew_it_counts_anew() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    step(method, network, optimiser, 0)
    fresh = two_layers(seed=2)
    dense = fresh[0].weight.detach().clone()
    method.attach(fresh, epochs=1, steps_per_epoch=STEPS)
    assert torch.equal(method.latents["0"], dense)
    assert int(method.state_dict()["steps"]) == 0


def test_latents_hold_no_graph_and_are_not_the_weights() -> None:
    network = two_layers()
    method, optimiser = attached(network)
    with no_graph_kept(method.latents["0"]):
        step(method, network, optimiser, 0)
    assert method.latents["0"].data_ptr() != network[0].weight.data_ptr()
