"""Which crossbar layers read a layer's channels, and what a constant becomes on the way there.

The network is traced symbolically (`torch.fx`). A channel is followed through what treats every
position and channel alike (activations, pooling, batch norm, flattening); anything else ends the
path with a reason: residual additions, concatenations, the network's output.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from trainers.tracing import CrossbarModule

__all__ = ["Channels", "Reader", "follow_channels"]

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
)
# Each leaves a constant channel as it is: padding of a maximum is minus infinity.
_NEUTRAL = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
_FUNCTIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.relu: torch.relu,
    functional.relu: torch.relu,
    "relu": torch.relu,
    torch.tanh: torch.tanh,
    functional.tanh: torch.tanh,
    "tanh": torch.tanh,
    torch.sigmoid: torch.sigmoid,
    functional.sigmoid: torch.sigmoid,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True, slots=True)
class Reader:
    """A crossbar layer that reads every channel of another one."""

    layer: str
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()
    """What happens to the constants of all channels, `[channels]`, on the way."""
    rows_per_channel: int = 1
    """Rows of the reader that one channel feeds; those of a channel lie together."""

    def arriving(self, constants: Tensor) -> Tensor:
        """What arrives at the reader where each channel is constant; `[channels]` both."""
        for step in self.steps:
            constants = step(constants)
        return constants


@dataclass(frozen=True, slots=True)
class Channels:
    """Where the outputs of a layer go."""

    readers: tuple[Reader, ...]
    obstacles: tuple[str, ...]
    """Why some of the paths could not be followed; empty: `readers` is all there is."""


def follow_channels(
    network: nn.Module, modules: Mapping[str, CrossbarModule]
) -> tuple[dict[str, Channels], str]:
    """Where the outputs of each crossbar layer go, in the order of computation.

    Args:
        network: any network; left as it is.
        modules: its crossbar layers by name.

    Returns:
        The channels by layer, without layers that run more than once or out of the trace's sight;
        and why nothing could be traced, or "".
    """
    try:
        with _proxies_as_tensors():
            graph = fx.Tracer().trace(network)
    except Exception as error:  # tracing runs code of the network's author
        return {}, f"the network cannot be traced: {(str(error).splitlines() or ['?'])[0]}"
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    once = {name: calls[name][0] for name in calls if name in modules and len(calls[name]) == 1}
    walker = _Walker(network, {name: modules[name] for name in once})
    return {name: walker.channels(name, node) for name, node in once.items()}, ""


@contextmanager
def _proxies_as_tensors() -> Iterator[None]:
    """Lets `torch.as_tensor`, which networks call for the type checker, pass a tracer's proxies."""
    real = torch.as_tensor

    def as_tensor(data: Any, *args: Any, **kwargs: Any) -> Any:
        return data if isinstance(data, fx.Proxy) else real(data, *args, **kwargs)

    with mock.patch.object(torch, "as_tensor", as_tensor):
        yield


@dataclass(frozen=True, slots=True)
class _Path:
    """How far a channel has come."""

    steps: tuple[Callable[[Tensor], Tensor], ...] = ()
    flat: bool = False
    """Whether height and width are gone."""
    averaged: bool = False
    """Whether they went into one value per channel."""


class _Walker:
    """Follows outputs through a traced network."""

    def __init__(self, network: nn.Module, modules: Mapping[str, CrossbarModule]) -> None:
        self.network = network
        self.modules = modules

    def channels(self, name: str, node: fx.Node) -> Channels:
        """Where the outputs of one layer go."""
        producer = self.modules[name]
        readers: list[Reader] = []
        obstacles: list[str] = []
        ahead = [(user, _Path(flat=isinstance(producer, nn.Linear))) for user in node.users]
        while ahead:
            user, path = ahead.pop()
            target = str(user.target)
            found: Reader | _Path | str
            if user.op == "call_module" and target in self.modules:
                found = _reader(producer, target, self.modules[target], path)
            else:
                found = self._passed(user, path, producer)
            if isinstance(found, Reader):
                readers.append(found)
            elif isinstance(found, _Path):
                ahead += [(following, found) for following in user.users]
            else:
                obstacles.append(found)
        return Channels(readers=tuple(readers), obstacles=tuple(obstacles))

    def _passed(self, node: fx.Node, path: _Path, producer: CrossbarModule) -> _Path | str:
        """The path behind an operation, or why it ends there."""
        if node.op == "output":
            return "the network's output"
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            return _through_module(str(node.target), module, path, producer)
        if node.target in _FUNCTIONS:
            return replace(path, steps=(*path.steps, _FUNCTIONS[node.target]))
        if node.target in (torch.flatten, "flatten") and _flattens(node):
            return replace(path, flat=True)
        if node.target in (torch.mean, "mean") and _averages(node):
            return replace(path, flat=True, averaged=True)
        if node.target in (torch.add, operator.add, operator.iadd, "add"):
            return "an addition"
        return f"{getattr(node.target, '__name__', node.target)}"


def _through_module(
    name: str, module: nn.Module, path: _Path, producer: CrossbarModule
) -> _Path | str:
    if isinstance(module, _ACTIVATIONS):
        return replace(path, steps=(*path.steps, module))
    if isinstance(module, _NEUTRAL):
        return path
    if isinstance(module, nn.AvgPool2d):
        return path if module.padding in (0, (0, 0)) else f"{name}, an average over padding"
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return replace(path, flat=True)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if module.num_features != producer.weight.shape[0]:
            return f"{name}, which normalises positions"
        return replace(path, steps=(*path.steps, _normalised(module)))
    return f"{name}, a {type(module).__name__}"


def _normalised(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What batch norm makes of a constant channel, which is its own mean: the shift alone."""

    def shift(constants: Tensor) -> Tensor:
        return torch.zeros_like(constants) if norm.bias is None else norm.bias.detach()

    return shift


def _reader(
    producer: CrossbarModule, name: str, reader: CrossbarModule, path: _Path
) -> Reader | str:
    """The reader at the end of a path, or why its rows cannot be told apart."""
    channels = producer.weight.shape[0]
    if isinstance(reader, nn.Conv1d | nn.Conv2d):
        if reader.groups > 1:
            return f"{name}, whose groups keep equally many rows"
        per_channel = reader.weight[0, 0].numel()
        known = not path.flat and reader.in_channels == channels
    else:
        per_channel, rest = divmod(reader.in_features, channels)
        single = isinstance(producer, nn.Linear) or path.averaged
        known = path.flat and rest == 0 and (per_channel == 1 or not single)
    if not known:
        return f"{name}, which mixes positions and channels"
    return Reader(layer=name, steps=path.steps, rows_per_channel=per_channel)


def _flattens(node: fx.Node) -> bool:
    """Whether everything but the batch becomes one dimension, channels first."""
    dimensions = (*node.args[1:], *node.kwargs.values())
    return dimensions in ((1,), (1, -1))


def _averages(node: fx.Node) -> bool:
    """Whether height and width become one value."""
    dimensions = (*node.args[1:], *node.kwargs.values())
    return dimensions in (((2, 3),), ([2, 3],), ((-2, -1),), ([-2, -1],))
