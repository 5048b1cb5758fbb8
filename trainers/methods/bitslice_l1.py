"""Bit-slice L1: sparse bit slices by a regulariser (Zhang J. et al., arXiv 1909.08496, 2019).

Weights are trained as dynamic fixed-point numbers. Plain L1 comes first, then weights below a
threshold are removed for good, and the rest is fine-tuned under the L1 norm of its *bit slices*,
which draws weights to values whose digits are few. The paper's three arms differ in that last
phase only: no regulariser (`pruned`), plain L1 (`l1`), bit-slice L1 (`bl1`). Nothing bounds the
worst segment, so `crossfront verify --slices` shows the whole distribution; with `nonzeros` a
layer's count bound (TinyADC's) is kept as well and gives the guarantee.

differs: biases are added digitally and lie on no crossbar, so they are neither regularised nor
quantised; the range of activations is measured at the end instead of followed through the training;
a magnitude of `2^bits`, which the published quantiser returns for the largest weight of a layer at
a power of two, is clipped to what the cells hold; the L1 phase starts from the dense baseline
instead of from nothing; the last epoch is kept, not the best on the test images.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import SpecError
from trainers.config import check_choice, check_number
from trainers.constraints import BitlineCount, Constraint, Unconstrained
from trainers.method import LayerTarget
from trainers.methods.straight_through import StraightThrough

__all__ = ["ARMS", "BitsliceL1", "BitsliceL1Config", "fixed_point_step", "slice_gradient"]

ARMS = ("bl1", "l1", "pruned")
_SMALLEST_RANGE = 1e-5
"""Range of a layer of zeros; bit-slice L1, published code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsliceL1Config:
    """Settings of `bitslice-l1`; the defaults are the paper's for its perceptron on MNIST.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    arm: str = "bl1"
    """Regulariser of the last phase: `bl1` (bit slices), `l1` (weights) or `pruned` (none)."""
    alpha: float = 0.5
    """Weight of the mean digit in the loss (`bl1`)."""
    l1_weight: float = 10.0
    """Weight of the mean magnitude in the loss, in the first phase and in the `l1` arm."""
    l1_share: float = 0.5
    """Share of the epochs before the threshold. The paper: 100 epochs of 150."""
    threshold: float = 0.01
    """Smaller magnitudes are removed."""
    refresh_steps: int = 10
    """Steps between two masks of the count bound (layers with `nonzeros`)."""

    def __post_init__(self) -> None:
        check_choice("method.arm", self.arm, ARMS)
        for name in ("alpha", "l1_weight", "threshold"):
            check_number(f"method.{name}", getattr(self, name), low=0)
        check_number("method.l1_share", self.l1_share, low=0, high=1)
        check_number("method.refresh_steps", self.refresh_steps, low=1, integer=True)


class BitsliceL1(StraightThrough):
    """Fixed-point weights under L1, a threshold, and L1 of bit slices.

    Args:
        targets: `nonzeros` per segment where the count bound is wanted; rows and outputs to keep.
        config: arm, weights and schedule.

    Raises:
        SpecError: a crossbar without differential pairs: a zero weight would not be empty cells.
    """

    name = "bitslice-l1"
    settings = ("nonzeros", "kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: BitsliceL1Config) -> None:
        super().__init__(targets, config.refresh_steps)
        for layer, target in targets.items():
            encoding = target.spec.sign_encoding
            if encoding is not SignEncoding.DIFFERENTIAL:
                raise SpecError(
                    f"{layer}: sign_encoding is {str(encoding)!r}; allowed with "
                    f"{self.name!r}: '{SignEncoding.DIFFERENTIAL}'"
                )
        self.config = config
        self.masks: dict[str, Tensor] = {}
        self.signs: dict[str, Tensor] = {}
        self._l1_steps = 0

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Quantises at once; prunes at once where there is no L1 phase."""
        self.masks, self.signs = {}, {}
        self._l1_steps = round(self.config.l1_share * epochs * steps_per_epoch)
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        if self._l1_steps == 0:
            self._prune()

    def bounded(self, name: str) -> bool:
        """Every layer is trained in fixed point."""
        return True

    def constraint(self, name: str) -> Constraint:
        """The layer's count bound, if it has one."""
        nonzeros = self.targets[name].nonzeros
        return Unconstrained() if nonzeros is None else BitlineCount(nonzeros)

    def projected(self, name: str, latent: Tensor) -> Tensor:
        """The fixed-point weight; a count bound chooses its survivors anew."""
        kept = self.project(name, latent)
        if self.targets[name].nonzeros is not None:
            self.signs[name] = kept.sign()
        return self._fixed_point(name, kept, latent)

    def adjusted(self, name: str, latent: Tensor) -> Tensor:
        """The fixed-point weight among the last survivors of its count bound."""
        signs = self.signs.get(name)
        kept = latent if signs is None else latent * (latent * signs > 0)
        return self._fixed_point(name, kept, latent)

    def quantise(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The fixed-point integers that were trained, on the layer's one step."""
        spec = self.targets[name].spec
        step = fixed_point_step(self.latents[name], spec)
        return _integers(weight, step, spec).to(torch.int32), step.float().repeat(len(weight))

    @torch.no_grad()
    def after_backward(self) -> None:
        """Adds the regulariser's gradient and holds removed weights still."""
        arm = self.config.arm if self.masks else "l1"
        if arm != "pruned":
            self._add_penalty(arm)
        for name, mask in self.masks.items():
            gradient = self.modules[name].weight.grad
            if gradient is not None:
                gradient.mul_(mask)
        super().after_backward()

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps removed weights at zero against momentum, and prunes when L1 has done its part."""
        for name, mask in self.masks.items():
            self.modules[name].weight.mul_(mask)
        super().after_step()
        if not self.masks and self._steps >= self._l1_steps:
            self._prune()

    @torch.no_grad()
    def finalize(self) -> None:
        """Prunes if the L1 phase still ran."""
        if not self.masks:
            self._prune()
        super().finalize()

    def state_dict(self) -> dict[str, Tensor]:
        """Latents and step count, masks of the threshold, survivors of the count bounds."""
        state = super().state_dict()
        state.update({f"mask.{name}": mask for name, mask in self.masks.items()})
        state.update({f"sign.{name}": sign for name, sign in self.signs.items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.masks = {n: state[f"mask.{n}"] for n in self.modules if f"mask.{n}" in state}
        self.signs = {n: state[f"sign.{n}"] for n in self.modules if f"sign.{n}" in state}

    def _fixed_point(self, name: str, weight: Tensor, latent: Tensor) -> Tensor:
        """`weight` in the fixed-point format of the whole latent."""
        spec = self.targets[name].spec
        step = fixed_point_step(latent, spec)
        return _integers(weight, step, spec) * step

    def _add_penalty(self, arm: str) -> None:
        """Adds the gradient of the mean digit or mean magnitude over all layers.

        Digits are those of the weights that the forward pass saw; plain L1 also pulls at weights
        that round to zero.
        """
        weights = sum(latent.numel() for latent in self.latents.values())
        digits = sum(
            latent.numel() * self.targets[name].spec.slice_count
            for name, latent in self.latents.items()
        )
        for name, latent in self.latents.items():
            weight = self.modules[name].weight
            if weight.grad is None:
                continue
            if arm == "l1":
                weight.grad.add_(latent.sign(), alpha=self.config.l1_weight / weights)
            else:
                spec = self.targets[name].spec
                pull = slice_gradient(weight, fixed_point_step(latent, spec), spec)
                weight.grad.add_(pull, alpha=self.config.alpha / digits)

    def _prune(self) -> None:
        """Removes small weights for good."""
        for name, latent in self.latents.items():
            self.masks[name] = latent.abs() >= self.config.threshold
            latent.mul_(self.masks[name])
            self.modules[name].weight.copy_(self.projected(name, latent))


def fixed_point_step(weight: Tensor, spec: CrossbarSpec) -> Tensor:
    """The weight that one unit of a layer's integers stands for: a power of two, a scalar.

    `2^(ceil(log2 max|w|) - n)` with magnitudes of `n = weight_bits - 1` bits, so the largest weight
    fills at least half of the range.

    Source: bit-slice L1 (arXiv 1909.08496), dynamic fixed point per tensor; 8 bits of magnitude.
    """
    mantissa, exponent = torch.frexp(weight.detach().abs().amax().clamp(min=_SMALLEST_RANGE))
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)  # a power of two is its own ceiling
    return torch.ldexp(torch.ones_like(mantissa), exponent - (spec.weight_bits - 1))


def slice_gradient(weight: Tensor, step: Tensor, spec: CrossbarSpec) -> Tensor:
    """Gradient of the sum of all digits, with every rounding straight through.

    `sign(w) / step * sum_k [digit_k > 0] / 2^(k * cell_bits)`, slice 0 being the least significant:
    the pull ends, slice by slice, where a digit is zero.

    Args:
        weight: any shape.
        step: the weight of one unit, a scalar.
        spec: number format and cells.

    Source: bit-slice L1 (arXiv 1909.08496), section 3, as its published code computes it.
    """
    magnitude = _integers(weight.detach(), step, spec).abs().to(torch.int32)
    pull = torch.zeros_like(weight)
    for index in range(spec.slice_count):
        digit = (magnitude >> (spec.cell_bits * index)) & ((1 << spec.cell_bits) - 1)
        pull += (digit > 0) / float(1 << (spec.cell_bits * index))
    return pull * weight.detach().sign() / step


def _integers(weight: Tensor, step: Tensor, spec: CrossbarSpec) -> Tensor:
    """Fixed-point integers as floats, within the spec's limit."""
    return torch.round(weight / step).clamp(-spec.weight_limit, spec.weight_limit)
