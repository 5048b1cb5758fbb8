"""Proves an exported folder again, from its files alone, and measures it on lossy devices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hwmodel.errors import CertificateError, CheckpointError
from hwmodel.extras import need
from hwmodel.nonideality import Nonideality
from trainers.checkpoint import MANIFEST, changed_files, load_checkpoint
from trainers.data import ImageSet
from trainers.export import ONNX_FILE, SAMPLES_FILE, onnx_logits
from trainers.fit import accuracy
from trainers.integer import EVERY_READING, EXACT, integer_layers, set_readout
from trainers.progress import track
from trainers.robustness import Robustness, robust_accuracy
from trainers.slices import SliceReport, slice_report

__all__ = [
    "LayerProof",
    "Verification",
    "measure_folder",
    "slices_of_folder",
    "verify_folder",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProof:
    """One layer's certificate against the ADCs that the manifest promises."""

    name: str
    adc_bits: int
    """Resolution of the promised ADCs: the largest over the layer's bit slices."""
    worst_sum: int
    """Largest reading that any input could cause."""
    limit: int
    """Largest reading that those ADCs resolve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was proven; `failures` says, a line each, what was not."""

    certified: bool
    """Whether no bit slice of any layer can exceed its promised ADC."""
    layers: tuple[LayerProof, ...]
    images: int
    """Images whose every ADC reading was simulated."""
    mismatches: int
    """Of these, images whose logits differ from the integer network's."""
    samples: int
    """All sample images."""
    accuracy: float
    """Of the integer network over all sample images."""
    onnx_differing: int | None
    """Of the simulated images, those that the ONNX graph classifies differently; None: there is no
    graph, or it is not the one that was exported."""
    digests_ok: bool
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was proven."""
        return not self.failures

    def to_json(self) -> dict[str, object]:
        """The JSON of `crossfront verify --json`."""
        return {
            "proven": self.ok,
            "certified": self.certified,
            "max_adc_bits": max(layer.adc_bits for layer in self.layers),
            "layers": [asdict(layer) for layer in self.layers],
            "images": self.images,
            "mismatches": self.mismatches,
            "samples": self.samples,
            "accuracy": self.accuracy,
            "onnx_differing": self.onnx_differing,
            "digests_ok": self.digests_ok,
            "failures": list(self.failures),
        }


def verify_folder(folder: Path, *, images: int = 256) -> Verification:
    """Certificate, bit-exact simulation, accuracy, ONNX graph and digests.

    Args:
        folder: an export folder.
        images: sample images to simulate reading by reading (accuracy takes all samples).

    Raises:
        CheckpointError: a folder that is not an export, or unreadable files.
        ConfigError: an ONNX graph, and nothing installed that runs it.
        MappingError: weights that the crossbars cannot even store.
    """
    checkpoint = load_checkpoint(folder)
    has_onnx = ONNX_FILE in checkpoint.manifest["digests"]
    if has_onnx:
        need("export", f"proving {folder / ONNX_FILE}")
    samples = _read_samples(folder, checkpoint.classes)
    changed = changed_files(folder, checkpoint.manifest)
    failures = [f"{name}: does not match its digest in the manifest" for name in changed]
    proofs = []
    certified = True
    stored = integer_layers(checkpoint.network)
    for name, layer in track(stored.items(), "certificates, layers", len(stored)):
        certificate = layer.certify()
        bits = layer.adc_bits
        written = checkpoint.manifest["layers"][name].get("adc_bits")
        if written != bits:
            failures.append(f"{name}: the manifest says {written} ADC bits, its slices {bits}")
        proofs.append(
            LayerProof(
                name=name,
                adc_bits=bits,
                worst_sum=certificate.worst_sum,
                limit=(1 << bits) - 1,
            )
        )
        try:
            certificate.check(name, layer.adc_bits_per_slice)
        except CertificateError as error:
            certified = False
            failures.append(str(error))
    measured = accuracy(checkpoint.network, samples)
    recorded = _recorded_accuracy(folder, checkpoint.manifest)
    # One image may fall on the other side of a rounding edge on another processor.
    if abs(measured - recorded) > 1.5 / len(samples):
        failures.append(f"accuracy on the samples is {measured:.4f}; the manifest says {recorded}")
    simulated = samples.subset(min(images, len(samples)))
    mismatches = _mismatches(checkpoint.network, simulated)
    if mismatches:
        failures.append(
            f"{mismatches} of {len(simulated)} images read differently through the ADCs"
        )
    onnx_differing = None
    if has_onnx and ONNX_FILE not in changed:
        onnx_differing = _onnx_differing(folder, checkpoint.network, simulated)
        # A code on the edge between two steps may round differently in another runtime.
        if onnx_differing > len(simulated) // 100:
            failures.append(
                f"{ONNX_FILE}: {onnx_differing} of {len(simulated)} images are classified "
                "differently"
            )
    return Verification(
        certified=certified,
        layers=tuple(proofs),
        images=len(simulated),
        mismatches=mismatches,
        samples=len(samples),
        accuracy=measured,
        onnx_differing=onnx_differing,
        digests_ok=not changed,
        failures=tuple(failures),
    )


def measure_folder(
    folder: Path, nonideality: Nonideality, seeds: Sequence[int], *, images: int = 256
) -> Robustness:
    """Accuracy of an export on devices that are not ideal, with the ADCs that it promises.

    Args:
        folder: an export folder.
        nonideality: the device; its seed is replaced by each of `seeds`.
        seeds: a device each.
        images: sample images to classify.

    Raises:
        CheckpointError: a folder that is not an export, or unreadable files.
        MappingError: weights that the crossbars cannot even store.
        SpecError: no seed.
    """
    checkpoint = load_checkpoint(folder)
    samples = _read_samples(folder, checkpoint.classes)
    chosen = samples.subset(min(images, len(samples)))
    return robust_accuracy(checkpoint.network, chosen, nonideality, seeds)


def slices_of_folder(folder: Path, *, images: int = 256) -> SliceReport:
    """The bit slices of an export, and its accuracy with ADCs that clip one segment in a thousand.

    Args:
        folder: an export folder.
        images: sample images to classify.

    Raises:
        CheckpointError: a folder that is not an export, or unreadable files.
        MappingError: weights that the crossbars cannot even store.
    """
    checkpoint = load_checkpoint(folder)
    samples = _read_samples(folder, checkpoint.classes)
    return slice_report(checkpoint.network, samples.subset(min(images, len(samples))))


@torch.no_grad()
def _mismatches(network: nn.Module, images: ImageSet) -> int:
    """Images whose logits change when every ADC reading is simulated."""
    count = 0
    batches = images.batches(32, seed=0, device="cpu", shuffle=False)
    for batch, _ in track(batches.epoch(0), "simulation, batches", len(batches)):
        set_readout(network, EXACT)
        expected = network(batch)
        set_readout(network, EVERY_READING)
        count += int((network(batch) != expected).any(dim=1).sum())
    set_readout(network, EXACT)
    return count


@torch.no_grad()
def _onnx_differing(folder: Path, network: nn.Module, images: ImageSet) -> int:
    """Images that the ONNX graph classifies differently."""
    batch = images.images.float().div(255)
    found = onnx_logits(folder / ONNX_FILE, batch).argmax(dim=1)
    return int((network(batch).argmax(dim=1) != found).sum())


def _recorded_accuracy(folder: Path, manifest: Mapping[str, Any]) -> float:
    """What the manifest says of the samples' accuracy."""
    try:
        return float(manifest["samples"]["accuracy"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / MANIFEST}: 'samples' has no accuracy") from None


def _read_samples(folder: Path, classes: int) -> ImageSet:
    path = folder / SAMPLES_FILE
    try:
        tensors = load_file(path)
        return ImageSet(
            name="samples", images=tensors["images"], labels=tensors["labels"], classes=classes
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: no readable sample images ({error})") from None
