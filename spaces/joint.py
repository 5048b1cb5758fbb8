"""Pruning strength per layer, jointly with the crossbars.

Every dimension is an ordered list of choices, suggested as its index: samplers then know that 5 and
10 non-zeros are neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import ConfigError
from hwmodel.geometry import LayerShape, whole_crossbars
from spaces.candidate import Candidate, LayerSetting
from spaces.space import Suggester

__all__ = ["JointSpace", "LayerSpace", "SpaceConfig"]

_Choice = TypeVar("_Choice", int, float)

DEFAULT_NONZEROS = (1, 2, 5, 10, 21, 42)
"""The most that 2- to 7-bit ADCs read with 2-bit cells and a 1-bit DAC."""

FIRST_LAYER_NONZEROS = 5
"""The first layer, whose few weights see the image itself, is not bounded below this by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpace:
    """Choices of one layer that differ from the common ones (None: as common)."""

    nonzeros: tuple[int, ...] | None = None
    kept_filters: tuple[float, ...] | None = None
    kept_shapes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceConfig:
    """The choices of every dimension; a list of one fixes it.

    Raises:
        ConfigError: an empty or unordered list, or a value out of range.
    """

    nonzeros: tuple[int, ...] = DEFAULT_NONZEROS
    """Non-zero weights per bitline segment; choices above a candidate's wordlines mean no bound."""
    kept_filters: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of a layer's outputs. The last layer's outputs are the classes and all stay."""
    kept_shapes: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of a layer's rows."""
    wordlines: tuple[int, ...] = (32, 64, 128, 256, 512)
    bitlines: tuple[int, ...] = (64, 128, 256)
    cell_bits: tuple[int, ...] = (2,)
    dac_bits: tuple[int, ...] = (1,)
    crossbars: str = "global"
    """`global`: one crossbar for all layers; `per-layer`: each its own wordlines and bitlines."""
    whole_crossbars: bool = True
    """Round kept outputs up to whole crossbar widths (area), or keep them singly (power)."""
    layers: Mapping[str, LayerSpace] = field(default_factory=dict)
    """Exceptions by layer name."""

    def __post_init__(self) -> None:
        if self.crossbars not in ("global", "per-layer"):
            raise ConfigError(f"space.crossbars is {self.crossbars!r}; allowed: global, per-layer")
        for name in ("wordlines", "bitlines", "cell_bits", "dac_bits"):
            _check_choices(f"space.{name}", getattr(self, name), low=1)
        if self.nonzeros == DEFAULT_NONZEROS:  # nobody chose these, so the low ones do
            fitting = tuple(n for n in DEFAULT_NONZEROS if n <= max(self.wordlines))
            object.__setattr__(self, "nonzeros", fitting)
        self._check_strengths("space", self)
        for layer, choices in self.layers.items():
            self._check_strengths(f"space.layers.{layer}", choices)

    def _check_strengths(self, where: str, choices: "SpaceConfig | LayerSpace") -> None:
        for name, high in (
            ("nonzeros", max(self.wordlines)),
            ("kept_filters", 1.0),
            ("kept_shapes", 1.0),
        ):
            values = getattr(choices, name)
            if values is not None:
                low = 1 if name == "nonzeros" else 0.01
                _check_choices(f"{where}.{name}", values, low=low, high=high)


class JointSpace:
    """Strength of each layer x crossbar size, for one network.

    Args:
        config: the choices.
        shapes: the network's layers, in order.
        base: number formats and the encoding that are not searched.
        network: name that the candidates carry.
        method: name that the candidates carry.

    Raises:
        ConfigError: exceptions for a layer that is not there.
        SpecError: crossbars that cannot exist (every combination is checked here).
    """

    def __init__(
        self,
        config: SpaceConfig,
        shapes: Mapping[str, LayerShape],
        base: CrossbarSpec,
        *,
        network: str,
        method: str,
    ) -> None:
        for name in config.layers:
            if name not in shapes:
                layers = ", ".join(shapes)
                raise ConfigError(f"space.layers names {name!r}; the network's layers: {layers}")
        self.config = config
        self.shapes = dict(shapes)
        self.base = base
        self.network = network
        self.method = method
        self._choices = {name: self._layer_choices(name) for name in shapes}
        for cell_bits in config.cell_bits:
            for dac_bits in config.dac_bits:
                for bitlines in config.bitlines:
                    replace(base, cell_bits=cell_bits, dac_bits=dac_bits, bitlines=bitlines)
        for wordlines in config.wordlines:
            replace(base, wordlines=wordlines)

    def suggest(self, trial: Suggester, seed: int) -> Candidate:
        """The candidate that a trial's parameters mean."""
        config = self.config
        cells = {
            "cell_bits": _pick(trial, "cell_bits", config.cell_bits),
            "dac_bits": _pick(trial, "dac_bits", config.dac_bits),
        }
        if config.crossbars == "global":
            plan = CrossbarPlan(default=self._sized(trial, "", cells))
        else:
            sized = {name: self._sized(trial, f"{name}.", cells) for name in self.shapes}
            plan = CrossbarPlan(default=next(iter(sized.values())), per_layer=sized)
        return Candidate(
            network=self.network,
            method=self.method,
            plan=plan,
            layers={name: self._setting(trial, name, plan[name]) for name in self.shapes},
            seed=seed,
        )

    def starts(self) -> list[dict[str, Any]]:
        """The same step of every layer's choices, mildest first, on the base's own crossbar."""
        config, base = self.config, self.base
        sizes = {
            name: _nearest(getattr(config, name), getattr(base, name))
            for name in ("wordlines", "bitlines", "cell_bits", "dac_bits")
        }
        strengths = max(len(choices.nonzeros or ()) for choices in self._choices.values())
        starts = []
        for strength in reversed(range(strengths)):
            fixed = _Uniform(strength, sizes)
            self.suggest(fixed, seed=0)
            starts.append(fixed.parameters)
        return starts

    def _layer_choices(self, name: str) -> LayerSpace:
        """The choices of one layer; the first and last layers have defaults of their own."""
        config = self.config
        own = config.layers.get(name, LayerSpace())
        nonzeros, shapes, filters = config.nonzeros, config.kept_shapes, config.kept_filters
        if name == next(iter(self.shapes)):
            milder = tuple(count for count in nonzeros if count >= FIRST_LAYER_NONZEROS)
            nonzeros, shapes = milder or nonzeros, (1.0,)
        if name == list(self.shapes)[-1]:
            filters = (1.0,)
        return LayerSpace(
            nonzeros=own.nonzeros or nonzeros,
            kept_shapes=own.kept_shapes or shapes,
            kept_filters=own.kept_filters or filters,
        )

    def _sized(self, trial: Suggester, prefix: str, cells: Mapping[str, int]) -> CrossbarSpec:
        """A crossbar whose size is suggested; all at once, since widths and cells must fit."""
        return replace(
            self.base,
            **cells,  # type: ignore[arg-type]
            wordlines=_pick(trial, f"{prefix}wordlines", self.config.wordlines),
            bitlines=_pick(trial, f"{prefix}bitlines", self.config.bitlines),
        )

    def _setting(self, trial: Suggester, name: str, spec: CrossbarSpec) -> LayerSetting:
        """One layer's strength; what bounds or removes nothing is written as such."""
        shape, choices = self.shapes[name], self._choices[name]
        nonzeros = _pick(trial, f"{name}.nonzeros", choices.nonzeros or ())
        rows = _pick(trial, f"{name}.kept_shapes", choices.kept_shapes or ())
        outputs = _pick(trial, f"{name}.kept_filters", choices.kept_filters or ())
        whole = self.config.whole_crossbars
        per_crossbar = spec.bitlines // spec.bitlines_per_output if whole else 1
        all_rows = whole_crossbars(rows, shape.rows, spec.wordlines) == shape.rows
        all_outputs = whole_crossbars(outputs, shape.outputs, per_crossbar) == shape.outputs
        return LayerSetting(
            nonzeros=nonzeros if nonzeros < min(spec.wordlines, shape.rows) else None,
            kept_shapes=1.0 if all_rows else rows,
            kept_filters=1.0 if all_outputs else outputs,
            whole_crossbars=whole,
        )


class _Uniform:
    """A suggester of the same step in every layer's choices; it records the parameters.

    Every second strength keeps about half of the rows and outputs.
    """

    def __init__(self, strength: int, sizes: Mapping[str, int]) -> None:
        self.strength = strength
        self.sizes = sizes
        self.parameters: dict[str, Any] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        kind = name.split(".")[-1]
        halved = self.strength % 2 == 0
        if kind == "nonzeros":
            value = min(self.strength, high)
        elif kind in ("kept_filters", "kept_shapes"):
            value = high // 2 if halved else high
        else:
            value = self.sizes[kind]
        self.parameters[name] = value
        return value


def _nearest(choices: Sequence[int], wanted: int) -> int:
    """Index of the choice nearest to a value."""
    return min(range(len(choices)), key=lambda index: abs(choices[index] - wanted))


def _pick(trial: Suggester, name: str, choices: Sequence[_Choice]) -> _Choice:
    """One of the ordered choices; a single choice is no dimension."""
    if len(choices) == 1:
        return choices[0]
    return choices[trial.suggest_int(name, 0, len(choices) - 1)]


def _check_choices(
    name: str, values: Sequence[float], *, low: float, high: float = float("inf")
) -> None:
    if not values or list(values) != sorted(set(values)):
        raise ConfigError(f"{name} is {list(values)}; allowed: ascending values without repeats")
    for value in values:
        if not low <= value <= high:
            limits = f"from {low:g}" + (f" to {high:g}" if high != float("inf") else "")
            raise ConfigError(f"{name} contains {value}; allowed: {limits}")
