"""One point of a search: a network, a method, and what becomes of each layer."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hwmodel.crossbar import CrossbarPlan
from hwmodel.errors import SpecError
from hwmodel.geometry import LayerShape, MappedLayer, whole_crossbars
from trainers.method import LayerTarget

__all__ = ["Candidate", "LayerSetting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSetting:
    """How strongly one layer is pruned.

    Raises:
        SpecError: a share outside (0, 1], or a count below one.
    """

    nonzeros: int | None = None
    """Most non-zero weights per bitline segment (None: no bound). Of `tinyadc`."""
    adc_bits: int | None = None
    """ADC resolution that every segment's level sums are held to. Of `level-sum`."""
    kept_weights: float | None = None
    """Share of the layer's weights that stay, wherever they lie. Of `magnitude`, `admm-nn`."""
    weight_levels: int | None = None
    """Magnitudes per polarity that weights are quantised to. Of `memristor`, `admm-nn`."""
    block_size: int | None = None
    """Side of the layer's circulant blocks. Of `circulant`."""
    kept_shapes: float = 1.0
    """Share of the rows (input positions) to keep, rounded up to whole crossbar heights."""
    kept_filters: float = 1.0
    """Share of the outputs to keep."""
    whole_crossbars: bool = True
    """Round kept outputs up to whole crossbar widths: fewer save no crossbar. False: keep single
    outputs, each of which saves its conversions, so energy and power, if not area."""

    def __post_init__(self) -> None:
        for name in ("kept_shapes", "kept_filters", "kept_weights"):
            share = getattr(self, name)
            if share is None and name == "kept_weights":
                continue
            if not 0 < share <= 1:
                raise SpecError(f"{name} is {share!r}; allowed: above 0, up to 1")
            object.__setattr__(self, name, float(share))
        for name in ("nonzeros", "adc_bits", "weight_levels", "block_size"):
            count = getattr(self, name)
            if count is not None and (type(count) is not int or count < 1):
                raise SpecError(f"{name} is {count}; allowed: 1 or more, or none for no bound")

    def to_json(self) -> dict[str, Any]:
        """Plain fields; a bound that is not set is left out, but for `nonzeros`.

        Candidates from before a bound existed keep their digest that way.
        """
        fields = asdict(self)
        return {k: v for k, v in fields.items() if v is not None or k == "nonzeros"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Everything that decides what a trial does."""

    network: str
    method: str
    plan: CrossbarPlan
    layers: Mapping[str, LayerSetting] = field(default_factory=dict)
    """Settings by layer name; a layer that is not named stays dense."""
    seed: int = 0

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this candidate; equal for equal candidates anywhere."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain fields, as `from_json` reads them."""
        return {
            "network": self.network,
            "method": self.method,
            "plan": self.plan.to_json(),
            "layers": {name: s.to_json() for name, s in sorted(self.layers.items())},
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Candidate":
        """The candidate that `to_json` wrote.

        Raises:
            SpecError: impossible values.
        """
        return cls(
            network=fields["network"],
            method=fields["method"],
            plan=CrossbarPlan.from_json(fields["plan"]),
            layers={name: LayerSetting(**s) for name, s in fields["layers"].items()},
            seed=fields["seed"],
        )

    def targets(self, shapes: Mapping[str, LayerShape]) -> dict[str, LayerTarget]:
        """What each layer of the network is to become.

        Args:
            shapes: the network's layers.

        Raises:
            SpecError: a setting or a plan for a layer that is not there, or more non-zeros than
                wordlines.
        """
        names = list(shapes)
        self.plan.check_layers(names)
        for name in self.layers:
            if name not in shapes:
                raise SpecError(f"a setting for layer {name!r}; layers: {', '.join(names)}")
        return {name: self._target(shape) for name, shape in shapes.items()}

    def planned(self, shapes: Mapping[str, LayerShape]) -> list[MappedLayer]:
        """The layers' worst case before any training: what the cost model prices first."""
        return [target.planned(shapes[name]) for name, target in self.targets(shapes).items()]

    def _target(self, shape: LayerShape) -> LayerTarget:
        spec = self.plan[shape.name]
        setting = self.layers.get(shape.name, LayerSetting())
        outputs_per_crossbar = spec.bitlines // spec.bitlines_per_output
        width = outputs_per_crossbar if setting.whole_crossbars else 1
        return LayerTarget(
            spec=spec,
            rows=whole_crossbars(setting.kept_shapes, shape.rows, spec.wordlines),
            outputs=whole_crossbars(setting.kept_filters, shape.outputs, width),
            nonzeros=setting.nonzeros,
            adc_bits=setting.adc_bits,
            kept_weights=setting.kept_weights,
            weight_levels=setting.weight_levels,
            block_size=setting.block_size,
        )
