"""Which layers of a network lie on crossbars, and how large their matrices are."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hwmodel.errors import MappingError
from hwmodel.geometry import LayerShape
from hwmodel.mapping import MatrixLayout

__all__ = [
    "CrossbarModule",
    "crossbar_modules",
    "dense_layout",
    "fold_parametrisations",
    "layer_shapes",
]

CrossbarModule = nn.Conv2d | nn.Linear
"""The kinds of layer that a crossbar computes."""

_REFUSED = (
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.MultiheadAttention,
)


def crossbar_modules(network: nn.Module) -> dict[str, CrossbarModule]:
    """The network's convolution and linear layers by name, in the order of its modules.

    Raises:
        MappingError: a layer with weights that no crossbar mapping exists for, weights that two
            layers share, or no layer at all.
    """
    found: dict[str, CrossbarModule] = {}
    owners: dict[int, str] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, CrossbarModule):
            if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
                raise MappingError(
                    f"{name}: padding_mode is {module.padding_mode!r}; allowed: 'zeros'"
                )
            owner = owners.setdefault(id(module.weight), name)
            if owner != name:
                raise MappingError(f"{name}: shares its weights with {owner}; allowed: its own")
            found[name] = module
        elif isinstance(module, _REFUSED):
            raise MappingError(f"{name}: a {type(module).__name__}; allowed: Conv2d and Linear")
    if not found:
        raise MappingError("the network has no layer for a crossbar; allowed: Conv2d and Linear")
    return found


def fold_parametrisations(network: nn.Module) -> None:
    """Replaces parametrised weights (weight norm, ...) by the plain weights they stand for."""
    for module in network.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)


def dense_layout(module: CrossbarModule) -> MatrixLayout:
    """The layout of a layer of which nothing has been removed."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
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
            channels = output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]
            positions[name] += output.numel() // channels

        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    was_training = network.training
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *input_shape, device=device))
    finally:
        network.train(was_training)
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
