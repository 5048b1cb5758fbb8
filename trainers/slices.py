"""The bit slices of an integer network: how full they are, and what smaller ADCs would cost.

The certified ADC reads the worst segment exactly. One that reads all but a few segments exactly is
smaller and clips those; what that does to the accuracy is simulated, reading by reading.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hwmodel.slice_statistics import SliceStatistics, merge_statistics, slice_statistics
from trainers.data import ImageSet
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, CrossbarLayer, integer_layers
from trainers.progress import track

__all__ = ["COVERED_SHARE", "SliceReport", "clipped_network", "slice_report"]

COVERED_SHARE = 0.999
"""Share of a slice's segments that the smaller ADC reads exactly."""
_BATCH = 64
"""Images at a time; the memory of an unfolded convolution grows with it, and with nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceReport:
    """Slice groups of a network, least significant first, lossless and with smaller ADCs."""

    layers: Mapping[str, tuple[SliceStatistics, ...]]
    images: int
    """Images that both accuracies are of."""
    accuracy: float
    """With the certified ADCs, 0 to 1."""
    clipped_bits: tuple[int, ...]
    """ADC resolution per slice that reads all but one segment in a thousand exactly."""
    clipped_accuracy: float
    """With those ADCs, 0 to 1."""

    @property
    def slices(self) -> tuple[SliceStatistics, ...]:
        """The slice groups over all layers."""
        return merge_statistics(self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """The `bit_slices` of `crossfront verify --slices --json`."""
        return {
            "slices": [group.to_json() for group in self.slices],
            "slices_per_layer": {
                name: [group.to_json() for group in groups] for name, groups in self.layers.items()
            },
            "images": self.images,
            "accuracy": self.accuracy,
            "clipped": {
                "adc_bits_per_slice": list(self.clipped_bits),
                "accuracy": self.clipped_accuracy,
            },
        }


def slice_report(network: nn.Module, images: ImageSet) -> SliceReport:
    """The slices of an integer network, which is left as it was.

    Args:
        network: finalised.
        images: classified with the certified ADCs and with the smaller ones.
    """
    stored = integer_layers(network)
    layers = {
        name: slice_statistics(layer.weight_q, layer.spec, layer.layout)
        for name, layer in track(stored.items(), "bit slices, layers", len(stored))
    }
    groups = merge_statistics(layers.values())
    clipped_bits = tuple(group.covering_bits(COVERED_SHARE) for group in groups)
    clipped = clipped_network(network, clipped_bits)
    return SliceReport(
        layers=layers,
        images=len(images),
        accuracy=accuracy(network, images, batch_size=_BATCH),
        clipped_bits=clipped_bits,
        clipped_accuracy=accuracy(clipped, images, batch_size=_BATCH),
    )


def clipped_network(network: nn.Module, adc_bits_per_slice: tuple[int, ...]) -> nn.Module:
    """A copy whose ADCs are no larger than given and clip what exceeds them.

    Args:
        network: finalised.
        adc_bits_per_slice: largest resolution by slice, least significant first, for the layer with
            most slices; a layer with fewer takes the first ones.
    """
    clipped = copy.deepcopy(network)
    for module in clipped.modules():
        if isinstance(module, CrossbarLayer):
            promised = module.layer.adc_bits_per_slice
            built = zip(promised, adc_bits_per_slice, strict=False)
            module.layer = replace(
                module.layer, adc_bits_per_slice=tuple(min(bits) for bits in built)
            )
            module.readout = EVERY_READING
    return clipped
