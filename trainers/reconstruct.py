"""Layer-wise reconstruction: weights of a method's set that answer like the dense layer's.

For layer inputs `X` in the dense network and `X'` in the pruned one, measured on a few hundred
calibration images, the pruned weight is chosen to minimise

    || W X - V X' ||^2 + ridge || W - V ||^2      over V in the layer's set,

where `W` is the dense weight. Both sums enter through second moments of the rows alone, so a layer
is a quadratic problem over a set whose nearest points the method knows: ADMM alternates its closed
form with `Method.project`, and the best point of the set that it comes by is taken, never one worse
than the weight that was there. Layers are taken in the order of the forward pass, each with the
inputs that the layers before it really cause. A bias takes up the mean.

Source: layer-wise error as in optimal brain surgeon (Hassibi and Stork, 1993) and ADMM with
projections (Boyd et al., 2011, section 9.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.data import Batches, ImageSet
from trainers.integer import ConvGeometry
from trainers.method import Method
from trainers.progress import track
from trainers.tracing import Convolution, CrossbarModule, crossbar_modules, dense_layout

__all__ = ["reconstruct"]

_BATCH = 128
_IMAGES = 256
"""Images that are measured, at most: four times as many took three times as long and gained 0.3
points on ResNet-20 (level-sum, 4 bits)."""
_POSITIONS = 64
"""Positions of each image that a convolution is measured at, drawn once per layer."""

_ROUNDS = 20
_FIRST_RHO = 0.03
_RHO_GROWTH = 1.32
"""ADMM's penalty, as a share of the mean second moment of a row, and its growth per round."""

_RIDGE = 0.01
"""Pull to the dense weight, as a share of the mean second moment of a row."""


@torch.no_grad()
def reconstruct(network: nn.Module, method: Method, dense: nn.Module, images: ImageSet) -> None:
    """Moves every layer's weights within its set towards the dense layer's outputs, in place.

    Batch norm uses the statistics of each batch meanwhile, so that it fits the layers as they are.

    Args:
        network: pruned; its weights lie in their sets, and do so afterwards.
        method: attached to the network, and finalised.
        dense: the network that was pruned, of the same layers.
        images: calibration images, of which a few hundred are used; no labels are.
    """
    images = images.subset(min(_IMAGES, len(images)))
    origins = crossbar_modules(dense)
    network.eval()
    dense.eval()
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.train()
    names = _forward_order(network, method, images)
    for name in track(names, "reconstruction, layers", len(names)):
        module, origin = method.modules[name], origins[name]
        moments = _Moments(module)
        batches = Batches(images, min(_BATCH, len(images)), seed=0, device=module.weight.device)
        for batch, _ in batches.epoch(0):
            moments.add(_input(network, module, batch), _input(dense, origin, batch))
        before = moments.error(moments.matrix(module.weight), origin)
        found = moments.solve(
            origin,
            module.weight.detach(),
            lambda weight, layer=name: method.project(layer, weight),  # type: ignore[misc]
        )
        if moments.error(moments.matrix(found), origin) < before:
            module.weight.copy_(found)
        moments.correct_bias(module, origin)
    network.eval()


class _Moments:
    """Second moments of a layer's rows in the pruned network (`own`) and the dense one."""

    def __init__(self, module: CrossbarModule) -> None:
        self.layout = dense_layout(module)
        size = (self.layout.groups, self.layout.rows)
        self.centred = module.bias is not None
        self._own_sum = torch.zeros(size, dtype=torch.float64)
        self._dense_sum = torch.zeros(size, dtype=torch.float64)
        self._own = torch.zeros(*size, size[1], dtype=torch.float64)
        self._cross = torch.zeros_like(self._own)
        self._count = 0
        self._module = module
        self._generator = torch.Generator().manual_seed(0)

    def add(self, own: Tensor, dense: Tensor) -> None:
        """Counts one batch of layer inputs of both networks, at the same positions."""
        seed = int(torch.randint(1 << 31, (), generator=self._generator))
        mine = _rows(self._module, own, self.layout.groups, seed)
        other = _rows(self._module, dense, self.layout.groups, seed)
        self._own_sum += mine.sum(dim=1).double().cpu()
        self._dense_sum += other.sum(dim=1).double().cpu()
        self._own += (mine.transpose(1, 2) @ mine).double().cpu()
        self._cross += (other.transpose(1, 2) @ mine).double().cpu()
        self._count += mine.shape[1]

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as float64 `[groups, outputs, rows]`."""
        return self.layout.pack(weight.detach()).double().cpu()

    def problem(self, origin: CrossbarModule) -> tuple[Tensor, Tensor]:
        """`H [groups, rows, rows]` and `C [groups, outputs, rows]` of `V H V' - 2 V C'`."""
        own, cross = self._own / self._count, self._cross / self._count
        if self.centred:
            mean, dense_mean = self._own_sum / self._count, self._dense_sum / self._count
            own = own - mean[:, :, None] * mean[:, None, :]
            cross = cross - dense_mean[:, :, None] * mean[:, None, :]
        weight = self.matrix(origin.weight)
        ridge = _RIDGE * own.diagonal(dim1=1, dim2=2).mean().clamp(min=1e-12)
        return own + ridge * torch.eye(own.shape[-1]), weight @ cross + ridge * weight

    def error(self, matrix: Tensor, origin: CrossbarModule) -> float:
        """What is minimised, less a constant."""
        moments, target = self.problem(origin)
        return float(((matrix @ moments - 2 * target) * matrix).sum())

    def solve(
        self, origin: CrossbarModule, weight: Tensor, project: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The best weight of the set that ADMM comes by, starting from one that lies in it.

        Everything but the projection happens along the eigenvectors of the moments, where the
        quadratic problem falls apart into numbers.
        """
        moments, target = self.problem(origin)
        spectrum, basis = torch.linalg.eigh(moments)
        spectrum, basis = spectrum.clamp(min=0).float()[:, None, :], basis.float()
        target = target.float() @ basis
        back = basis.transpose(1, 2)
        best, centre = weight, self.matrix(weight).float() @ basis
        dual = torch.zeros_like(target)
        least = _quadratic(centre, spectrum, target)
        rho = _FIRST_RHO * float(spectrum.mean())
        for _ in range(_ROUNDS):
            dual += (target + rho * (centre - dual)) / (spectrum + rho)
            candidate = project(self.layout.unpack((dual @ back).to(weight), weight.shape))
            centre = self.matrix(candidate).float() @ basis
            dual -= centre
            error = _quadratic(centre, spectrum, target)
            if error < least:
                best, least = candidate, error
            dual, rho = dual / _RHO_GROWTH, rho * _RHO_GROWTH  # the dual is in units of 1 / rho
        return best

    def correct_bias(self, module: CrossbarModule, origin: CrossbarModule) -> None:
        """Gives the layer the dense layer's mean outputs; layers without bias are left alone."""
        if module.bias is None or origin.bias is None:
            return
        wanted = (self.matrix(origin.weight) @ self._dense_sum[:, :, None]).flatten()
        found = (self.matrix(module.weight) @ self._own_sum[:, :, None]).flatten()
        module.bias.copy_(origin.bias + ((wanted - found) / self._count).to(origin.bias))


def _quadratic(point: Tensor, spectrum: Tensor, target: Tensor) -> float:
    """The quadratic problem's value at a point, all along its eigenvectors."""
    return float(((point * spectrum - 2 * target) * point).sum(dtype=torch.float64))


class _Reached(Exception):
    """The layer's input is there; the rest of the pass is not needed."""


def _input(network: nn.Module, module: CrossbarModule, batch: Tensor) -> Tensor:
    """What the network feeds to a layer in its first call."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Reached

    handle = module.register_forward_pre_hook(hook)
    try:
        network(batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def _forward_order(network: nn.Module, method: Method, images: ImageSet) -> list[str]:
    """The layers in the order in which a forward pass first calls them."""
    order: dict[str, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda *_, layer=name: order.setdefault(layer))
        for name, module in method.modules.items()
    ]
    device = next(network.parameters()).device
    few = images.subset(min(8, len(images)))
    for batch, _ in Batches(few, len(few), seed=0, device=device, shuffle=False).epoch(0):
        network(batch)
    for handle in handles:
        handle.remove()
    return list(order)


def _rows(module: CrossbarModule, inputs: Tensor, groups: int, seed: int) -> Tensor:
    """What the layer's rows see, `[groups, vectors, rows]`, at positions drawn from a seed."""
    if not isinstance(module, Convolution):
        return inputs.reshape(1, -1, inputs.shape[-1])
    geometry = ConvGeometry.of(module)
    padded = geometry.pad(inputs, 0.0)
    first: tuple[int, ...] = ()
    if isinstance(module, nn.Conv1d):  # an axis of one before its own
        padded, first = padded.unsqueeze(2), (1,)
    patches = functional.unfold(
        padded,
        (*first, *geometry.kernel),
        (*first, *geometry.dilation),
        stride=(*first, *geometry.stride),
    )  # [batch, groups * rows, positions]
    drawn = torch.randperm(patches.shape[-1], generator=torch.Generator().manual_seed(seed))
    patches = patches[:, :, drawn[:_POSITIONS].to(patches.device)]
    split = patches.reshape(len(patches), groups, -1, patches.shape[-1])
    return split.permute(1, 0, 3, 2).flatten(1, 2)
