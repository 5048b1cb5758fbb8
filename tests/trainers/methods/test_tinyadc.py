"""TinyADC's schedule, step by step on one small layer."""

import pytest
import torch
from torch import Tensor, nn

from hwmodel.mapping import MatrixLayout, to_segments
from tests.trainers.toys import (
    CLASSES,
    MLP,
    SHAPE,
    SPEC,
    seeded,
    toy_fit,
    toy_images,
    toy_targets,
)
from trainers.constraints import BitlineCount, Unconstrained
from trainers.method import LayerTarget
from trainers.methods import TinyAdc, TinyAdcConfig
from trainers.networks import build_network


def one_layer() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 4, bias=False))


def attached(network: nn.Module, *, epochs: int = 2, steps: int = 4, **settings: float) -> TinyAdc:
    config = TinyAdcConfig(**settings)  # type: ignore[arg-type]
    method = TinyAdc(toy_targets(network, nonzeros=2), config)
    method.attach(network, epochs=epochs, steps_per_epoch=steps)
    return method


def step(method: TinyAdc, network: nn.Sequential, gradient: Tensor | None = None) -> Tensor:
    """One step of plain descent; returns the gradient that the optimiser would see."""
    weight = network[0].weight
    weight.grad = torch.zeros_like(weight) if gradient is None else gradient.clone()
    method.after_backward()
    seen: Tensor = weight.grad.clone()
    with torch.no_grad():
        weight -= 0.1 * weight.grad
    method.after_step()
    return seen


def test_constraint_and_bound_are_the_targets() -> None:
    network = one_layer()
    targets = {"0": LayerTarget(spec=SPEC, nonzeros=3)}
    assert TinyAdc(targets, TinyAdcConfig()).constraint("0") == BitlineCount(3)
    both = TinyAdc(targets, TinyAdcConfig(both_signs=True))
    assert both.constraint("0") == BitlineCount(3, both_signs=True)
    free = TinyAdc(toy_targets(network), TinyAdcConfig())
    assert free.constraint("0") == Unconstrained()


def test_rounds_and_growth_follow_the_steps() -> None:
    network = seeded(one_layer())
    method = attached(network, rho=0.2, rho_growth=2.0, rounds_per_epoch=2, admm_share=1.0)
    assert method.admm is not None
    rhos, centres = [], []
    for _ in range(8):
        step(method, network)
        if method.admm is not None:
            rhos.append(method.admm.rho)
            centres.append(method.admm.z["0"].clone())
    of_round = [0.2 * 2.0 ** (done / 3) for done in range(4)]  # 0.2 in the first, 0.4 in the last
    assert rhos == pytest.approx([of_round[r] for r in (0, 1, 1, 2, 2, 3, 3)])
    assert torch.equal(centres[1], centres[2])
    assert method.admm is None


def test_optimiser_sees_the_penalty_once_in_each_step_of_each_round() -> None:
    network = seeded(one_layer())
    method = attached(network, epochs=4, rho=0.3, rho_growth=1.5, rounds_per_epoch=2, admm_share=1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        assert method.admm is not None
        weight = network[0].weight.detach().clone()
        z, u, rho = method.admm.z["0"].clone(), method.admm.u["0"].clone(), method.admm.rho
        task = torch.randn(weight.shape, generator=generator)
        torch.testing.assert_close(step(method, network, task), task + rho * (weight - z + u))


def test_projection_is_hard_when_the_share_is_over_and_the_mask_frozen() -> None:
    network = seeded(one_layer())
    method = attached(network, admm_share=0.5)
    for _ in range(3):
        step(method, network, torch.ones(4, 20))
    assert method.admm is not None
    assert not method.masks
    step(method, network)
    assert method.admm is None
    mask = method.masks["0"].clone()
    weight = network[0].weight
    method.constraint("0").check("0", weight.detach(), SPEC, method.layouts["0"])
    assert torch.equal(weight != 0, mask)
    for _ in range(4):
        seen = step(method, network, torch.ones(4, 20))
        assert torch.equal(seen, torch.ones(4, 20))
        assert torch.equal(weight != 0, mask)


def test_without_admm_the_mask_is_set_at_once() -> None:
    network = seeded(one_layer())
    method = attached(network, admm_share=0.0)
    assert method.admm is None
    assert bool((network[0].weight != 0).eq(method.masks["0"]).all())
    method.constraint("0").check("0", network[0].weight.detach(), SPEC, method.layouts["0"])


def test_finalize_during_admm_projects() -> None:
    network = seeded(one_layer())
    method = attached(network, admm_share=1.0)
    step(method, network)
    method.finalize()
    method.constraint("0").check("0", network[0].weight.detach(), SPEC, method.layouts["0"])


def test_layers_without_a_bound_feel_no_penalty() -> None:
    network = nn.Sequential(seeded(nn.Linear(20, 4)), seeded(nn.Linear(4, 2)))
    targets = {"0": LayerTarget(spec=SPEC, nonzeros=2), "1": LayerTarget(spec=SPEC)}
    method = TinyAdc(targets, TinyAdcConfig())
    method.attach(network, epochs=1, steps_per_epoch=4)
    assert method.admm is not None
    assert list(method.admm.parameters) == ["0"]
    before = network[1].weight.detach().clone()
    method.finalize()
    assert torch.equal(network[1].weight, before)


def test_structured_pruning_comes_first_and_segments_are_those_of_the_rest() -> None:
    network = seeded(one_layer())
    targets = {"0": LayerTarget(spec=SPEC, rows=10, outputs=3, nonzeros=2)}
    method = TinyAdc(targets, TinyAdcConfig(admm_share=1.0))
    method.attach(network, epochs=1, steps_per_epoch=4)
    layout = method.layouts["0"]
    assert (layout.packed_outputs, layout.packed_rows) == (3, 10)
    outside = ~layout.mask((4, 20), "cpu")
    weight = network[0].weight
    assert int(torch.count_nonzero(weight[outside])) == 0
    step(method, network, torch.ones(4, 20))
    assert int(torch.count_nonzero(weight[outside])) == 0
    method.finalize()
    packed = to_segments(layout.pack(weight.detach()), SPEC.wordlines)
    assert int((packed > 0).sum(-1).max()) <= 2
    assert int((packed < 0).sum(-1).max()) <= 2
    # Counted where the rows lay before, the same weights would be other segments.
    dense = to_segments(MatrixLayout.of(weight).pack(weight.detach()), SPEC.wordlines)
    assert dense.shape[1] == 3
    assert packed.shape[1] == 2


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_state_round_trip_on_either_side_of_the_projection(steps: int) -> None:
    network = seeded(one_layer())
    targets = {"0": LayerTarget(spec=SPEC, rows=16, nonzeros=2)}
    config = TinyAdcConfig(admm_share=0.5, rounds_per_epoch=2)
    method = TinyAdc(targets, config)
    method.attach(network, epochs=2, steps_per_epoch=4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        step(method, network, torch.randn(4, 20, generator=generator))
    state = {key: value.clone() for key, value in method.state_dict().items()}
    assert ("admm.z.0" in state, "mask.0" in state) == (steps < 4, steps >= 4)
    again = seeded(one_layer(), seed=9)
    other = TinyAdc(targets, config)
    other.attach(again, epochs=2, steps_per_epoch=4)
    again.load_state_dict(network.state_dict())
    other.load_state_dict(state)
    for _ in range(4):
        gradient = torch.randn(4, 20, generator=generator)
        assert torch.equal(step(method, network, gradient), step(other, again, gradient))
    assert torch.equal(network[0].weight, again[0].weight)


def test_training_ends_within_the_bound() -> None:
    images = toy_images()
    network = build_network(MLP, SHAPE, CLASSES)
    method = TinyAdc(
        toy_targets(network, nonzeros=1), TinyAdcConfig(admm_share=0.4, rounds_per_epoch=1)
    )
    toy_fit(network, images, method, epochs=3)
    for name, module in method.modules.items():
        BitlineCount(1).check(name, module.weight.detach(), SPEC, method.layouts[name])
