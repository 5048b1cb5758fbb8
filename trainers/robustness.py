"""Accuracy of an integer network on devices that are not ideal, over several of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from hwmodel.errors import SpecError
from hwmodel.nonideality import Nonideality
from trainers.data import ImageSet
from trainers.fit import accuracy
from trainers.integer import CrossbarLayer, Readout, set_readout
from trainers.progress import track

__all__ = ["Robustness", "robust_accuracy"]

_BATCH = 64
"""Images at a time; the memory of an unfolded convolution grows with it, and with nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """Accuracies of one network on several devices, 0 to 1."""

    nonideality: Nonideality
    """The device; its seed is that of the first one."""
    adc_bits: int | None
    """Cap on the ADCs; None: as promised."""
    images: int
    """Images that each device classified."""
    ideal: float
    """Accuracy on the same images as the integer network has it."""
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over devices."""
        return statistics.fmean(self.per_seed)

    @property
    def spread(self) -> float:
        """Sample standard deviation over devices; 0 for a single one."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else 0.0

    def to_json(self) -> dict[str, object]:
        """The `robustness` of `crossfront verify --json`."""
        return {
            "nonideality": self.nonideality.to_json(),
            "adc_bits": self.adc_bits,
            "images": self.images,
            "ideal": self.ideal,
            "mean": self.mean,
            "spread": self.spread,
            "n": len(self.seeds),
            "seeds": list(self.seeds),
            "per_seed": list(self.per_seed),
        }


def robust_accuracy(
    network: nn.Module,
    images: ImageSet,
    nonideality: Nonideality,
    seeds: Sequence[int],
    *,
    adc_bits: int | None = None,
) -> Robustness:
    """Accuracy over devices, one per seed; the network is left as it was.

    Args:
        network: an integer network.
        images: classified on each device.
        nonideality: the device; its seed is replaced by each of `seeds`.
        seeds: a device each; layers draw their own from seed and name.
        adc_bits: cap on every ADC (default: as promised).

    Raises:
        SpecError: no seed, or one that is negative.
    """
    if not seeds:
        raise SpecError("0 seeds; allowed: at least one")
    devices = [replace(nonideality, seed=seed) for seed in seeds]
    layers = [module for module in network.modules() if isinstance(module, CrossbarLayer)]
    before = [layer.readout for layer in layers]
    try:
        set_readout(network, Readout())
        ideal = accuracy(network, images, batch_size=_BATCH)
        found = []
        for device in track(devices, "lossy devices", len(devices)):
            set_readout(network, Readout(nonideality=device, adc_bits=adc_bits))
            found.append(accuracy(network, images, batch_size=_BATCH))
    finally:
        for layer, readout in zip(layers, before, strict=True):
            layer.readout = readout
    return Robustness(
        nonideality=devices[0],
        adc_bits=adc_bits,
        images=len(images),
        ideal=ideal,
        seeds=tuple(seeds),
        per_seed=tuple(found),
    )
