"""From trained floats to the integer network that the crossbars compute."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.errors import ConstraintError, DivergedError, MappingError
from hwmodel.geometry import LayerShape
from trainers.data import Batches, ImageSet
from trainers.integer import IntegerLayer, install
from trainers.method import Method
from trainers.progress import track
from trainers.quantise import ActivationRange
from trainers.reconstruct import reconstruct
from trainers.tracing import crossbar_modules

__all__ = ["activation_ranges", "finalise", "recalibrate_batch_norm", "settle_batch_norm"]

_CALIBRATION_BATCH = 128


def finalise(
    network: nn.Module,
    method: Method,
    shapes: Mapping[str, LayerShape],
    images: ImageSet,
    *,
    dense: nn.Module | None = None,
) -> nn.Module:
    """The integer network of a trained one, proven to keep what its method promised.

    Lets the method release the network, reconstructs its layers where asked to, settles batch norm,
    measures activation ranges, quantises, and holds every layer against its constraint and its
    planned ADC bits.

    Args:
        network: trained under `method`; its weights are projected in place.
        method: attached to the network.
        shapes: the layers' shapes.
        images: calibration images.
        dense: the network that was pruned, whose layer outputs are reconstructed (default: the
            weights stay as they were trained).

    Raises:
        ConstraintError: naming layer, tile and bitline, where a constraint is missed; or the layer
            whose integers no cell can store.
        CertificateError: where the stored weights need a larger ADC than planned.
        DivergedError: weights or activations that are not finite.
    """
    method.finalize()
    if dense is not None:
        reconstruct(network, method, dense, images)
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(f"{name}: values that are not finite; allowed: finite numbers")
    settle_batch_norm(network, images)
    limits = {name: target.spec.input_limit for name, target in method.targets.items()}
    ranges = activation_ranges(network, images, limits)
    layers = {}
    modules = track(method.modules.items(), "certificates, layers", len(method.modules))
    for name, module in modules:
        target = method.targets[name]
        integers = method.quantise(name, module.weight.detach())
        try:
            method.constraint(name).check(name, integers[0], target.spec, method.layouts[name])
            layer = IntegerLayer.quantised(
                module,
                target.spec,
                method.layouts[name],
                ranges[name],
                integers,
                block_size=target.block_size or 1,
            )
        except MappingError as error:
            raise ConstraintError(f"{name}: {error}") from None
        layer = replace(layer, mask=method.segment_mask(name))
        planned = target.planned(shapes[name])
        layer.certify().check(name, planned.adc_bits_per_slice)
        layers[name] = layer
    integer = copy.deepcopy(network).eval()
    install(integer, layers)
    return integer


@torch.no_grad()
def settle_batch_norm(network: nn.Module, images: ImageSet) -> None:
    """Recalibrates batch norm where that helps.

    Projected weights need statistics of their own; statistics gathered over a whole training, with
    its augmentation, may be better than what a few hundred images give. Half of the images
    recalibrate, the other half decide by their loss.
    """
    if len(images) < 2 or not _batch_norms(network):
        return
    before = copy.deepcopy(network.state_dict())
    settle, judge = images.halves()
    old = _loss(network, judge)
    recalibrate_batch_norm(network, settle)
    if _loss(network, judge) < old:
        recalibrate_batch_norm(network, images)
    else:
        network.load_state_dict(before)


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, images: ImageSet) -> None:
    """Measures batch-norm statistics afresh, as plain averages over the images."""
    norms = _batch_norms(network)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for batch, _ in _calibration(network, images):
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def activation_ranges(
    network: nn.Module, images: ImageSet, limits: Mapping[str, int]
) -> dict[str, ActivationRange]:
    """The code of each crossbar layer's inputs, covering all that the images cause.

    Args:
        network: float network.
        images: calibration images.
        limits: largest input code by layer.

    Raises:
        DivergedError: inputs that are not finite, naming the layer.
    """
    modules = crossbar_modules(network)
    seen: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> object:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = inputs[0].aminmax()
            before = seen.get(name, (0.0, 0.0))
            seen[name] = (min(before[0], float(low)), max(before[1], float(high)))

        return hook

    handles = [m.register_forward_pre_hook(watch(n)) for n, m in modules.items()]  # type: ignore[arg-type]
    network.eval()
    try:
        for batch, _ in _calibration(network, images):
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, (low, high) in seen.items():
        if not math.isfinite(high - low):
            raise DivergedError(f"{name}: inputs from {low} to {high}; allowed: finite numbers")
    return {name: ActivationRange.covering(*seen[name], limits[name]) for name in modules}


def _batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers that keep statistics."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if norm.track_running_stats]


def _loss(network: nn.Module, images: ImageSet) -> float:
    """Summed cross-entropy over the images, in evaluation mode."""
    network.eval()
    losses = [
        functional.cross_entropy(network(batch), labels, reduction="sum")
        for batch, labels in _calibration(network, images)
    ]
    return float(torch.stack(losses).double().sum())


def _calibration(network: nn.Module, images: ImageSet) -> Batches:
    """Batches of equal size, so that a plain average over batches weighs every image alike."""
    device = next(network.parameters()).device
    count = -(-len(images) // _CALIBRATION_BATCH)
    size = len(images) // count
    chosen = images.subset(count * size)
    return chosen.batches(size, seed=0, device=device, shuffle=False)
