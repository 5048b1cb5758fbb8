"""Which layers of a network lie on crossbars, how large their matrices are, and what is left.

Convolutions along one axis or two and linear layers lie on crossbars. Whatever else multiplies by
weights (recurrent layers, attention, transposed convolutions, embeddings, bare parameters) is
*unmapped*: its user either refuses it by name (`check_mapped`) or lets it be computed digitally
(`digital_layers`).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from hwmodel.errors import MappingError
from hwmodel.geometry import LayerShape
from hwmodel.layers import DigitalLayer
from hwmodel.mapping import MatrixLayout
from trainers.config import NetworkConfig

__all__ = [
    "Convolution",
    "CrossbarModule",
    "check_mapped",
    "crossbar_modules",
    "dense_layout",
    "digital_layers",
    "fold_parametrisations",
    "layer_shapes",
    "trace",
    "unmapped_layers",
]

Convolution = nn.Conv1d | nn.Conv2d
"""Convolutions that a crossbar computes, of any stride, dilation, groups and padding."""
CrossbarModule = Convolution | nn.Linear
"""The kinds of layer that a crossbar computes."""

_ALLOWED = "allowed: Conv1d, Conv2d and Linear"

_ATOMIC = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Modules that use the layers inside them without calling them."""


def crossbar_modules(network: nn.Module) -> dict[str, CrossbarModule]:
    """The layers that lie on crossbars by name, in the order of the network's modules.

    Raises:
        MappingError: no layer at all.
    """
    unmapped = unmapped_layers(network)
    found: dict[str, CrossbarModule] = {
        name: module
        for name, module in _modules(network)
        if isinstance(module, CrossbarModule) and name not in unmapped
    }
    if not found:
        raise MappingError(f"the network has no layer for a crossbar; {_ALLOWED}")
    return found


def unmapped_layers(network: nn.Module) -> dict[str, str]:
    """Modules that own weights but lie on no crossbar, by name, each with the reason."""
    found: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, module in _modules(network):
        if isinstance(module, CrossbarModule):
            owner = owners.setdefault(id(module.weight), name)
            if owner != name:
                found[name] = f"shares its weights with {owner}; allowed: its own"
        elif isinstance(module, _ATOMIC) or any(p.ndim > 1 for p in module.parameters(False)):
            found[name] = f"a {type(module).__name__} with weights; {_ALLOWED}"
    return found


def check_mapped(network: nn.Module) -> None:
    """Refuses a network of which some layer lies on no crossbar.

    Raises:
        MappingError: naming the first such layer and the reason.
    """
    for name, reason in unmapped_layers(network).items():
        raise MappingError(
            f"{name or 'the network itself'}: {reason} "
            "(network.unmapped = 'digital' computes it digitally)"
        )


def digital_layers(network: nn.Module, example: Tensor) -> list[DigitalLayer]:
    """What is multiplied outside crossbars: unmapped layers, and products of activations.

    Args:
        network: on the device of `example`.
        example: one input, `[1, ...]`.
    """
    unmapped = unmapped_layers(network)
    mapped = set(crossbar_modules(network))
    counter = FlopCounterMode(display=False)
    with _evaluating(network), torch.no_grad(), _unfused(), counter:
        network(example)
    # Paths begin with the class of the network, which is not part of a layer's name.
    counts = {
        path.partition(".")[2]: sum(operations.values()) // 2
        for path, operations in counter.get_flop_counts().items()
        if path != "Global"
    }
    found = []
    for name, module in _modules(network):
        if name in mapped:
            continue
        atomic = isinstance(module, _ATOMIC)
        macs = counts.get(name, 0) if atomic else _own_macs(name, counts)
        weights = 0
        if name in unmapped:
            owned = [p for p in module.parameters(recurse=atomic) if p.ndim > 1]
            weights = sum(parameter.numel() for parameter in owned)
        if macs or weights:
            found.append(DigitalLayer(name=name or "network", macs=macs, weights=weights))
    return found


def _own_macs(name: str, counts: dict[str, int]) -> int:
    """Multiply-accumulates of a module without those of the modules in it."""
    inner = f"{name}." if name else ""
    children = [n for n in counts if n != name and n.startswith(inner)]
    direct = [n for n in children if not any(n.startswith(f"{m}.") for m in children if m != n)]
    return counts.get(name, 0) - sum(counts[n] for n in direct)


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, without those inside an atomic one; a module used twice comes twice."""
    atomic: list[str] = []
    for name, module in network.named_modules(remove_duplicate=False):
        if any(name.startswith(outer) for outer in atomic):
            continue
        if isinstance(module, _ATOMIC):
            atomic.append(f"{name}." if name else "")
        yield name, module


@contextmanager
def _unfused() -> Iterator[None]:
    """No fused recurrent layers and attention: these would hide their products from a counter."""
    fused = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TF32 on other devices
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode."""
    was_training = network.training
    try:
        network.eval()
        yield
    finally:
        network.train(was_training)


def trace(
    network: nn.Module, config: NetworkConfig, input_shape: tuple[int, int, int]
) -> tuple[dict[str, LayerShape], list[DigitalLayer]]:
    """The layers on crossbars, and those that are computed digitally.

    Raises:
        MappingError: a layer that no crossbar can hold, where the configuration refuses those, or
            one that the forward pass never reaches.
    """
    if config.unmapped == "refuse":
        check_mapped(network)
    device = next(network.parameters()).device
    example = torch.zeros(1, *input_shape, device=device)
    return layer_shapes(network, input_shape), digital_layers(network, example)


def fold_parametrisations(network: nn.Module) -> None:
    """Replaces parametrised weights (weight norm, ...) by the plain weights they stand for."""
    for module in network.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)


def dense_layout(module: CrossbarModule) -> MatrixLayout:
    """The layout of a layer of which nothing has been removed."""
    groups = module.groups if isinstance(module, Convolution) else 1
    return MatrixLayout.of(module.weight, groups)


def layer_shapes(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, LayerShape]:
    """Matrix shapes by layer name, from one forward pass of a blank image.

    A layer that the forward pass calls several times counts the positions of all its calls.

    Raises:
        MappingError: a layer that no crossbar can hold, or that the forward pass never reaches.
    """
    modules = crossbar_modules(network)
    positions = dict.fromkeys(modules, 0)

    def count(name: str) -> object:
        def hook(module: nn.Module, _inputs: object, output: Tensor) -> None:
            channels = output.shape[1] if isinstance(module, Convolution) else output.shape[-1]
            positions[name] += output.numel() // channels

        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    device = next(network.parameters()).device
    try:
        with _evaluating(network), torch.no_grad():
            network(torch.zeros(1, *input_shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    unreached = [name for name, count in positions.items() if count == 0]
    if unreached:
        raise MappingError(f"{unreached[0]}: the forward pass never reaches this layer")
    shapes = {}
    for name, module in modules.items():
        layout = dense_layout(module)
        shapes[name] = LayerShape(
            name=name,
            rows=layout.rows,
            outputs=layout.outputs,
            groups=layout.groups,
            positions=positions[name],
            kernel=layout.rows // module.weight.shape[1],
        )
    return shapes
