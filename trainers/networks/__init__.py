"""Networks by name, or a user's own `module:factory`."""

from collections.abc import Callable

import torch
from torch import nn

from hwmodel.errors import ConfigError
from trainers.config import NetworkConfig
from trainers.networks.imagenet_resnet import resnet18, resnet50
from trainers.networks.lenet import lenet5
from trainers.networks.mlp import mlp
from trainers.networks.mobilenet import MobileNet
from trainers.networks.resnet import resnet20, resnet32, resnet56
from trainers.networks.vgg import vgg8, vgg11, vgg16
from trainers.own import is_own, load_own
from trainers.tracing import fold_parametrisations

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "mlp": mlp,
    "mobilenet": MobileNet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "vgg8": vgg8,
    "vgg11": vgg11,
    "vgg16": vgg16,
}


def build_network(
    config: NetworkConfig, input_shape: tuple[int, int, int], classes: int, *, seed: int = 0
) -> nn.Module:
    """The network with freshly initialised weights, checked against the images it will see.

    Args:
        config: its name and arguments.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        seed: seeds the initialisation.

    Raises:
        ConfigError: an unknown name or argument, or layers that do not fit the images.
    """
    factory = _factory(config.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = factory(input_shape=input_shape, classes=classes, **config.arguments)
        except ConfigError:
            raise
        except Exception as error:  # whatever a user's factory raises
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"network {config.name!r} refused its arguments: {reason}") from None
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network {config.name!r} made a {type(network).__name__}, not a Module")
    fold_parametrisations(network)
    _check_fit(network, config.name, input_shape, classes)
    return network


def _factory(name: str) -> Callable[..., nn.Module]:
    if name in NETWORKS:
        return NETWORKS[name]
    if not is_own(name):
        raise ConfigError(f"unknown network {name!r}; allowed: {', '.join(NETWORKS)} or m:factory")
    found: Callable[..., nn.Module] = load_own(name, "network")
    return found


def _check_fit(
    network: nn.Module, name: str, input_shape: tuple[int, int, int], classes: int
) -> None:
    was_training = network.training
    shape = "x".join(map(str, input_shape))
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, *input_shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"network {name!r} does not fit images of {shape}: {reason}") from None
    network.train(was_training)
    if tuple(logits.shape) != (2, classes):
        raise ConfigError(
            f"network {name!r} returns {tuple(logits.shape[1:])} values an image; "
            f"allowed: {classes}, one per class"
        )
