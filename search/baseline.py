"""The dense baseline before it is trained: can it be priced, and is it there already?"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwmodel.errors import OutOfRangeError
from hwmodel.geometry import MappedLayer
from hwmodel.policies import read_policy
from search.config import StudyConfig, named_files
from search.environment import crossfront_version
from search.inputs import identity, own_modules
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from search.evaluate import Problem

__all__ = ["check_price", "dense_training", "kept_weights"]


def check_price(problem: "Problem") -> str | None:
    """Finds out, before any training, what may keep the dense baseline from being priced.

    Its ADCs are as large as its trained weights need: the worst case's bits, which need no
    weights, or fewer. A law that lacks those of the worst case may therefore still do, unless a
    bound compares plans with the dense plan, or the law has nothing smaller either.

    Returns:
        A note on resolutions that the baseline may need and the law lacks; None without any.

    Raises:
        OutOfRangeError: a baseline that certainly cannot be priced, or a dense plan that a bound
            compares with.
    """
    model = problem.cost_model
    try:
        problem.planned_dense()
    except OutOfRangeError as error:
        raise OutOfRangeError(
            f"the dense network, whose worst case relative constraints compare with: {error}"
        ) from None
    layers = problem.dense_layers()
    largest = max(layers, key=lambda layer: layer.adc_bits)
    if read_policy(model.policy).types is not None:  # smaller layers may use larger ADCs
        layers = [largest]
    missing: set[int] = set()
    for layer in layers:
        known = [bits for bits in range(1, layer.adc_bits + 1) if _has(problem, layer, bits)]
        if not known:
            raise OutOfRangeError(
                f"the dense network: {layer.shape.name} needs ADCs of {layer.adc_bits} bits or "
                f"fewer; allowed under the ADC law {model.law.name}: {model.law.validity}"
            )
        missing |= set(range(known[0], layer.adc_bits + 1)) - set(known)
    if not missing:
        return None
    lacking = ", ".join(map(str, sorted(missing)))
    return (
        f"note: ADC law {model.law.name} has no converter of {lacking} bits; the dense network "
        f"needs up to {largest.adc_bits} ({largest.shape.name}), and cannot be priced if the "
        "trained weights of a layer need one that is missing"
    )


def _has(problem: "Problem", layer: MappedLayer, bits: int) -> bool:
    model = problem.cost_model
    try:
        model.adc(bits, model.prices(layer.spec).adc_rate_hz)
    except OutOfRangeError:
        return False
    return True


def dense_training(config: TrainConfig) -> TrainConfig:
    """How the dense weights are trained: without what is said of candidates alone."""
    plain = TrainConfig()
    return replace(
        config,
        epochs=plain.epochs,
        prune_learning_rate=plain.prune_learning_rate,
        distillation=plain.distillation,
        distillation_temperature=plain.distillation_temperature,
        reconstruct=plain.reconstruct,
        calibration_count=plain.calibration_count,
    )


def kept_weights(config: StudyConfig, folder: Path) -> Path:
    """Where a folder keeps the dense weights of a configuration, for whoever needs them again.

    The name changes with everything that their training depends on: settings, the files that
    these name, the user's own modules and the version.
    """
    read = {section: config.to_json()[section] for section in ("data", "network")}
    named = [Path(path) for _, key, path in named_files(read) if key != "cache"]
    files = [*named, *own_modules(config, Path.cwd())]
    described = {
        **read,
        "train": asdict(dense_training(config.train)),
        "seed": config.study.seed,
        "files": sorted(identity(path)[0] for path in files if path.exists()),
        "version": crossfront_version(),
    }
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    return folder / ".crossfront" / f"dense-{key}.safetensors"
