"""The alternating direction method of multipliers, on the gradient side.

    W-step: descend f(W) + rho/2 ||W - Z + U||^2     (the penalty is added to the gradients)
    Z-step: Z = project(W + U)
    U-step: U = U + W - Z

`Z` and `U` are plain tensors outside the graph; they and `rho` are the whole state.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["Admm"]


class Admm:
    """ADMM over named parameters.

    Args:
        parameters: the weights, by layer name.
        project: nearest point of layer `name`'s constraint to a tensor.
        rho: penalty weight; every gradient gains `rho * (W - Z + U)`.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        project: Callable[[str, Tensor], Tensor],
        rho: float,
    ) -> None:
        self.parameters = dict(parameters)
        self.project = project
        self.rho = rho
        with torch.no_grad():
            self.z = {n: project(n, w.detach()).clone() for n, w in self.parameters.items()}
            self.u = {name: torch.zeros_like(w) for name, w in self.parameters.items()}

    @torch.no_grad()
    def add_penalty_gradient(self) -> None:
        """Adds `rho * (W - Z + U)` to every gradient: call after `backward`, once a step."""
        gradients, weights, centres, duals = [], [], [], []
        for name, weight in self.parameters.items():
            if weight.grad is None:
                raise RuntimeError(f"{name} has no gradient: call after backward")
            gradients.append(weight.grad)
            weights.append(weight.detach())
            centres.append(self.z[name])
            duals.append(self.u[name])
        if gradients:
            pull = torch._foreach_sub(weights, centres)
            torch._foreach_add_(pull, duals)
            torch._foreach_add_(gradients, list(pull), alpha=self.rho)

    @torch.no_grad()
    def update(self) -> None:
        """One Z-step and one U-step."""
        for name, weight in self.parameters.items():
            self.z[name] = self.project(name, weight + self.u[name])
            self.u[name] += weight - self.z[name]

    @torch.no_grad()
    def residual(self) -> float:
        """Primal residual `||W - Z|| / ||W||` over all layers: 0 when the weights are feasible."""
        gap = sum(float((w - self.z[n]).square().sum()) for n, w in self.parameters.items())
        norm = sum(float(w.square().sum()) for w in self.parameters.values())
        return (gap / norm) ** 0.5 if norm else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """Z and U by layer."""
        return {
            **{f"z.{name}": value for name, value in self.z.items()},
            **{f"u.{name}": value for name, value in self.u.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        for name, weight in self.parameters.items():
            self.z[name] = state[f"z.{name}"].to(weight)
            self.u[name] = state[f"u.{name}"].to(weight)
