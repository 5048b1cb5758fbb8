"""Every method on every network: what is asked of each layer, and one training run of each.

A new entry of `METHODS` is picked up by itself, with the strengths that its `settings` name. Where
those do not suit it, it gets a row in `STRENGTHS_OF`; where it trains in several ways, in
`VARIANTS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.geometry import LayerShape
from tests.conformance.networks import CLASSES, NETWORKS, SHAPE
from tests.trainers.toys import toy_images
from trainers.config import TrainConfig
from trainers.data import ImageSet
from trainers.finalise import finalise
from trainers.fit import FitResult, fit
from trainers.method import LayerTarget, Method, dense_targets
from trainers.methods import METHODS, build_method
from trainers.networks import build_network
from trainers.tracing import layer_shapes

__all__ = ["CASES", "EPOCHS", "Case", "Trained", "same", "shapes_of", "train", "trained"]

EPOCHS = 4
SPEC = CrossbarSpec(wordlines=8, bitlines=16)
CONFIG = TrainConfig(batch_size=8)

STRENGTHS: Mapping[str, Any] = {
    "nonzeros": 2,
    "adc_bits": 3,
    "kept_weights": 0.4,
    "weight_levels": 7,
    "block_size": 2,
}
"""What a method that reads a strength is asked for, in every layer."""

STRENGTHS_OF: Mapping[str, Mapping[str, Any]] = {}
"""Methods that are asked for something else."""

VARIANTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "tinyadc": ({}, {"training": "straight-through"}, {"both_signs": True}),
    # Masks on a rate that suits this suite's SGD; the default is Adam's.
    "xma": ({"mask_rate": 10.0}, {"mask_rate": 10.0, "granularity": "element"}),
}
"""Settings of methods that train in several ways (default: their default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A method, its settings, and a network."""

    method: str
    settings: tuple[tuple[str, Any], ...]
    network: str
    packed: bool
    """Whether structured pruning takes half of the rows and outputs first."""

    def __str__(self) -> str:
        settings = [f"{key}={value}" for key, value in self.settings]
        packed = ["packed"] if self.packed else []
        return "-".join([self.method, *settings, self.network, *packed])

    @property
    def strengths(self) -> dict[str, Any]:
        """The fields of each layer's target that the method reads."""
        read = METHODS[self.method].settings
        wanted = STRENGTHS_OF.get(self.method, STRENGTHS)
        return {key: value for key, value in wanted.items() if key in read}

    def build_network(self, seed: int = 0) -> nn.Module:
        """The network with the dense weights of a seed."""
        network = build_network(NETWORKS[self.network], SHAPE, CLASSES)
        network.load_state_dict(dense_weights(self.network, seed))
        return network

    def build_method(self, network: nn.Module) -> Method:
        entry = METHODS[self.method]
        return build_method(self.method, entry.config(**dict(self.settings)), self.targets(network))

    def targets(self, network: nn.Module) -> dict[str, LayerTarget]:
        targets = dense_targets(network, CrossbarPlan(default=SPEC))
        last = list(targets)[-1]
        for name, shape in shapes_of(network).items():
            targets[name] = replace(targets[name], **self.strengths)
            if self.packed:
                outputs = shape.outputs if name == last else -(-shape.outputs // 2)
                targets[name] = replace(targets[name], rows=-(-shape.rows // 2), outputs=outputs)
        return targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A training run that went through."""

    network: nn.Module
    """As training left it, then finalised: its weights lie in their sets."""
    method: Method
    result: FitResult
    state: dict[str, Tensor]
    """Of network and method, at the end of training."""
    integer: nn.Module


def shapes_of(network: nn.Module) -> dict[str, LayerShape]:
    return layer_shapes(network, SHAPE)


def images() -> ImageSet:
    return toy_images(48, SHAPE, CLASSES)


@cache
def dense_weights(network: str, seed: int) -> dict[str, Tensor]:
    """Of the dense network that pruning starts from."""
    built = build_network(NETWORKS[network], SHAPE, CLASSES, seed=seed)
    method = Method(dense_targets(built, CrossbarPlan(default=SPEC)))
    fit(built, images(), method, CONFIG, epochs=15, learning_rate=0.02, seed=seed)
    return built.state_dict()


def train(
    case: Case,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    network_seed: int = 0,
    state_path: Path | None = None,
    watch: Callable[[Method], None] | None = None,
) -> Trained:
    """Trains and finalises; `watch` sees the method after each step."""
    network = case.build_network(network_seed)
    method = case.build_method(network)
    if watch is not None:
        _watch(method, watch)
    result = fit(
        network,
        images(),
        method,
        CONFIG,
        epochs=epochs,
        learning_rate=0.02,
        seed=seed,
        state_path=state_path,
    )
    state = {f"network.{key}": value.clone() for key, value in network.state_dict().items()}
    state |= {f"method.{key}": value.clone() for key, value in method.state_dict().items()}
    integer = finalise(network, method, shapes_of(network), images())
    return Trained(network=network, method=method, result=result, state=state, integer=integer)


@cache
def trained(case: Case) -> Trained:
    """One run, shared by the tests that only look at it."""
    return train(case)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states hold the same bits under the same names."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


def _watch(method: Method, watch: Callable[[Method], None]) -> None:
    after_step = method.after_step

    def watched() -> None:
        after_step()
        watch(method)

    method.after_step = watched  # type: ignore[method-assign]


def _cases() -> list[Case]:
    found = []
    for method, entry in METHODS.items():
        packs = {"kept_shapes", "kept_filters"} <= set(entry.settings)
        for settings in VARIANTS.get(method, ({},)):
            for network in NETWORKS:
                both = packs and not settings and network in ("grouped", "residual")
                for packed in (False, True) if both else (False,):
                    case = Case(
                        method=method,
                        settings=tuple(settings.items()),
                        network=network,
                        packed=packed,
                    )
                    found.append(case)
    return found


CASES = _cases()
