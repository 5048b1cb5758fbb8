"""Training straight through a projection: the base of methods that prune as they train.

The network always holds weights of the constraint set; `latent` holds the weights that the
optimiser moves. A step computes loss and gradient at the former and applies them to the latter:

    before the step   weight = forward_weight(latent)
    backward          gradient at weight
    after_backward    weight <- latent       (the optimiser and its weight decay see latents)
    after_step        latent <- weight, weight <- forward_weight(latent)

A batch to which the projected network answers badly has gradients far out of proportion to the
latents that take the step, and at high rates one of them ruins a layer; so a method may limit each
layer's gradient to a share of its latents' norm.

Source: the straight-through estimator (Bengio et al., 2013), on the recipe of design 2.3; the limit
is adaptive gradient clipping (Brock et al., 2021, section 4.1) by layer instead of by output.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.method import LayerTarget, Method

__all__ = ["StraightThrough"]


class StraightThrough(Method, ABC):
    """Keeps latents beside the weights; subclasses say what the forward pass sees of them.

    Args:
        targets: by layer.
        refresh_steps: steps between two full projections; between them `adjusted` is used.
    """

    gradient_share: float | None = None
    """Largest norm of a layer's gradient over that of its latents (None: no limit)."""

    def __init__(self, targets: Mapping[str, LayerTarget], refresh_steps: int) -> None:
        super().__init__(targets)
        self.refresh_steps = refresh_steps
        self.latents: dict[str, Tensor] = {}
        self._steps = 0

    @abstractmethod
    def bounded(self, name: str) -> bool:
        """Whether the layer has a bound; others train as they are."""

    @abstractmethod
    def projected(self, name: str, latent: Tensor) -> Tensor:
        """The weight of the layer's set near a latent; sets what `adjusted` works with."""

    @abstractmethod
    def adjusted(self, name: str, latent: Tensor) -> Tensor:
        """A weight of the layer's set near a latent that has moved little: elementwise, cheap."""

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Projects at once, so that the network is in its set before, during and after training."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self._steps = 0
        self.latents = {
            name: module.weight.detach().clone()
            for name, module in self.modules.items()
            if self.bounded(name)
        }
        for name, latent in self.latents.items():
            self.modules[name].weight.copy_(self.projected(name, latent))

    @torch.no_grad()
    def after_backward(self) -> None:
        """Limits the gradients and puts the latents in the weights' place for the optimiser."""
        for name, latent in self.latents.items():
            weight = self.modules[name].weight
            if weight.grad is not None and self.gradient_share is not None:
                limit = self.gradient_share * torch.linalg.vector_norm(latent)
                norm = torch.linalg.vector_norm(weight.grad)
                weight.grad.mul_((limit / norm.clamp_min(1e-30)).clamp_max(1))
            weight.copy_(latent)

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes the moved latents and puts weights of the set in their place."""
        super().after_step()
        self._steps += 1
        refresh = self._steps % self.refresh_steps == 0
        forward = self.projected if refresh else self.adjusted
        for name, latent in self.latents.items():
            weight = self.modules[name].weight
            latent.copy_(weight)
            weight.copy_(forward(name, latent))

    def state_dict(self) -> dict[str, Tensor]:
        """Layouts, step count and latents."""
        latents = {f"latent.{name}": latent for name, latent in self.latents.items()}
        return {**super().state_dict(), **latents, "steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self._steps = int(state["steps"])
        self.latents = {
            name: state[f"latent.{name}"].to(latent) for name, latent in self.latents.items()
        }

    @torch.no_grad()
    def finalize(self) -> None:
        """Nothing is left to do: the weights are in their sets and are what was trained."""
