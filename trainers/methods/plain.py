"""What a user would compare with: no pruning at all, and whole rows and outputs alone.

Post-training quantisation is `dense` with `train.epochs = 0` and fewer `weight_bits`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.method import LayerTarget, Method

__all__ = ["Dense", "DenseConfig", "Structured", "StructuredConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    """`dense` has no settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredConfig:
    """`structured` has no settings; what each layer keeps is in the candidate."""


class Dense(Method):
    """Trains on as the network is.

    Args:
        targets: crossbars by layer.
        config: nothing yet.
    """

    def __init__(self, targets: Mapping[str, LayerTarget], config: DenseConfig) -> None:
        super().__init__(targets)


class Structured(Method):
    """Removes the weakest rows and outputs by L2 norm and retrains the rest.

    Args:
        targets: rows and outputs to keep, by layer.
        config: nothing yet.
    """

    name = "structured"
    settings = ("kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: StructuredConfig) -> None:
        super().__init__(targets)
