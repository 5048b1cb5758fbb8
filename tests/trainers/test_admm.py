"""The ADMM recurrences against their formulas, in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwmodel.mapping import MatrixLayout
from tests.trainers.toys import SPEC, no_graph_kept
from trainers.admm import Admm
from trainers.constraints import BitlineCount


def keep_two_per_tile(name: str, weight: Tensor) -> Tensor:
    return BitlineCount(2).project(weight, SPEC, MatrixLayout.of(weight))


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"fc1": (3, 10), "fc2": (2, 3)}
    return {
        name: nn.Parameter(torch.randn(*size, generator=generator, dtype=torch.float64))
        for name, size in sizes.items()
    }


def moved(weights: dict[str, nn.Parameter], generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in weights.values():
            weight += torch.randn(weight.shape, generator=generator, dtype=torch.float64)


@given(st.integers(0, 5), st.integers(0, 10_000), st.floats(0.0, 10.0))
@settings(deadline=None, max_examples=30)
def test_gradient_after_k_rounds_is_the_task_gradient_and_the_penalty_once(
    rounds: int, seed: int, rho: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = parameters(seed)
    admm = Admm(weights, keep_two_per_tile, rho)
    z = {name: keep_two_per_tile(name, w.detach()) for name, w in weights.items()}
    u = {name: torch.zeros_like(w) for name, w in z.items()}
    for _ in range(rounds):
        moved(weights, generator)
        admm.update()
        for name, weight in weights.items():
            z[name] = keep_two_per_tile(name, weight.detach() + u[name])
            u[name] = u[name] + (weight.detach() - z[name])
    moved(weights, generator)
    task = {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()}
    for name, weight in weights.items():
        weight.grad = task[name].clone()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    admm.add_penalty_gradient()
    for name, weight in weights.items():
        assert weight.grad is not None
        expected = task[name] + rho * (before[name] - z[name] + u[name])
        torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(admm.z[name], z[name])
        assert torch.equal(admm.u[name], u[name])
        assert torch.equal(weight.detach(), before[name])


def test_penalty_gradient_is_that_of_the_quadratic_penalty() -> None:
    weights = parameters()
    admm = Admm(weights, keep_two_per_tile, rho=0.7)
    moved(weights, torch.Generator().manual_seed(1))
    admm.update()
    moved(weights, torch.Generator().manual_seed(2))
    penalty = sum(
        0.35 * (w - admm.z[name] + admm.u[name]).square().sum() for name, w in weights.items()
    )
    expected = torch.autograd.grad(penalty, list(weights.values()))
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    admm.add_penalty_gradient()
    for weight, gradient in zip(weights.values(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_no_graph_hangs_on_z_and_u() -> None:
    weights = parameters()
    admm = Admm(weights, keep_two_per_tile, rho=0.1)
    for _ in range(3):
        torch.stack([w.square().sum() for w in weights.values()]).sum().backward()
        admm.add_penalty_gradient()
        admm.update()
    with no_graph_kept(*admm.z.values(), *admm.u.values(), *admm.state_dict().values()):
        pass
    for weight in weights.values():
        assert weight.is_leaf
        assert weight.grad is not None
        assert weight.grad.grad_fn is None


def test_weights_without_a_gradient_are_refused() -> None:
    admm = Admm(parameters(), keep_two_per_tile, rho=0.1)
    with pytest.raises(RuntimeError, match="fc1 has no gradient: call after backward"):
        admm.add_penalty_gradient()


def test_no_parameters_is_no_work() -> None:
    admm = Admm({}, keep_two_per_tile, rho=0.1)
    admm.add_penalty_gradient()
    admm.update()
    assert admm.residual() == 0.0


def test_residual_is_relative_and_zero_where_feasible() -> None:
    weight = nn.Parameter(torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))
    admm = Admm({"fc": weight}, keep_two_per_tile, rho=0.1)
    assert admm.residual() == 0.0
    with torch.no_grad():
        admm.z["fc"] = torch.zeros_like(weight)
    assert admm.residual() == pytest.approx(1.0)
    with torch.no_grad():
        weight.zero_()
    assert admm.residual() == 0.0


def test_weights_that_follow_the_penalty_reach_the_constraint() -> None:
    weights = parameters()
    admm = Admm(weights, keep_two_per_tile, rho=1.0)
    start = admm.residual()
    for _ in range(20):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        admm.add_penalty_gradient()
        with torch.no_grad():
            for weight in weights.values():
                weight -= 0.5 * weight.grad
        admm.update()
    assert start > 0.3
    assert admm.residual() < 0.05


def test_state_round_trip_continues_alike() -> None:
    first, second = parameters(), parameters()
    generator = torch.Generator().manual_seed(3)
    admm = Admm(first, keep_two_per_tile, rho=0.3)
    for _ in range(2):
        moved(first, generator)
        admm.update()
    state = {key: value.clone() for key, value in admm.state_dict().items()}
    assert sorted(state) == ["u.fc1", "u.fc2", "z.fc1", "z.fc2"]
    with torch.no_grad():
        for name, weight in second.items():
            weight.copy_(first[name])
    restored = Admm(second, keep_two_per_tile, rho=0.3)
    restored.load_state_dict(state)
    for weights, one in ((first, admm), (second, restored)):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        one.update()
        one.add_penalty_gradient()
    for name, weight in first.items():
        assert torch.equal(weight.grad, second[name].grad)  # type: ignore[arg-type]


def test_first_centre_is_a_copy_where_the_bound_is_loose() -> None:
    weight = nn.Parameter(torch.ones(2, 3))

    def loose(name: str, value: Tensor) -> Tensor:
        return BitlineCount(8).project(value, SPEC, MatrixLayout.of(value))

    admm = Admm({"fc": weight}, loose, rho=0.5)
    with torch.no_grad():
        weight += 1.0
    weight.grad = torch.zeros_like(weight)
    admm.add_penalty_gradient()
    assert weight.grad.tolist() == [[0.5] * 3] * 2  # rho * (2 - 1 + 0)
