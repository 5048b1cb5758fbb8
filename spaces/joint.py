"""Pruning strength per layer, jointly with the crossbars.

Every dimension is an ordered list of choices, suggested as its index: samplers then know that 5 and
10 non-zeros are neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hwmodel.circulant import LARGEST_BLOCK, fitting_block
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import ConfigError
from hwmodel.geometry import LayerShape, whole_crossbars
from spaces.candidate import Candidate, LayerSetting
from spaces.space import Suggester
from spaces.strength import BY_SEGMENT, KINDS, dense_adc_bits
from trainers.methods import STRENGTHS, method_entry

__all__ = ["JointSpace", "LayerSpace", "SpaceConfig"]

_Choice = TypeVar("_Choice", int, float, str)

DEFAULT_NONZEROS = (1, 2, 5, 10, 21, 42)
"""The most that 2- to 7-bit ADCs read with 2-bit cells and a 1-bit DAC."""

FIRST_LAYER: Mapping[str, float] = {
    "nonzeros": 5,
    "adc_bits": 4,
    "kept_weights": 0.2,
    "weight_levels": 15,
}
"""The first layer, whose few weights see the image itself, is not bounded below by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpace:
    """Choices of one layer that differ from the common ones (None: as common)."""

    nonzeros: tuple[int, ...] | None = None
    adc_bits: tuple[int, ...] | None = None
    kept_weights: tuple[float, ...] | None = None
    weight_levels: tuple[int, ...] | None = None
    block_size: tuple[int, ...] | None = None
    kept_filters: tuple[float, ...] | None = None
    kept_shapes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceConfig:
    """The choices of every dimension; a list of one fixes it.

    Raises:
        ConfigError: an empty or unordered list, or a value out of range.
    """

    methods: tuple[str, ...] = ()
    """Methods to choose from (default: the study's one); each brings its own strengths."""
    nonzeros: tuple[int, ...] = DEFAULT_NONZEROS
    """Non-zero weights per bitline segment; choices above a candidate's wordlines mean no bound."""
    adc_bits: tuple[int, ...] = (3, 4, 5, 6, 7)
    """ADC resolutions that level sums are held to; what no segment can exceed means no bound."""
    kept_weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    """Shares of a layer's weights that stay, wherever they lie."""
    weight_levels: tuple[int, ...] = (3, 7, 15, 31, 63)
    """Magnitudes per polarity that weights are quantised to."""
    block_size: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Sides of circulant blocks, fitted to narrower layers; 1 means none."""
    kept_filters: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of a layer's outputs. The last layer's outputs are the classes and all stay."""
    kept_shapes: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of a layer's rows."""
    wordlines: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Heights of the crossbars."""
    bitlines: tuple[int, ...] = (64, 128, 256)
    """Widths of the crossbars; all bitlines of one share an ADC."""
    cell_bits: tuple[int, ...] = (2,)
    """Bits that a cell stores."""
    dac_bits: tuple[int, ...] = (1,)
    """Bits of an input that a cycle drives onto a wordline."""
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
        for name in self.methods:
            method_entry(name)
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"space.methods is {list(self.methods)}; allowed: no repeats")
        if self.nonzeros == DEFAULT_NONZEROS:  # nobody chose these, so the low ones do
            fitting = tuple(n for n in DEFAULT_NONZEROS if n <= max(self.wordlines))
            object.__setattr__(self, "nonzeros", fitting)
        self._check_strengths("space", self)
        for layer, choices in self.layers.items():
            self._check_strengths(f"space.layers.{layer}", choices)

    def _check_strengths(self, where: str, choices: "SpaceConfig | LayerSpace") -> None:
        for name, low, high in (
            ("nonzeros", 1, max(self.wordlines)),
            ("adc_bits", 1, 16),
            ("kept_weights", 1e-4, 1.0),
            ("weight_levels", 1, 1 << 15),
            ("block_size", 1, LARGEST_BLOCK),
            ("kept_filters", 0.01, 1.0),
            ("kept_shapes", 0.01, 1.0),
        ):
            values = getattr(choices, name)
            if values is not None:
                _check_choices(f"{where}.{name}", values, low=low, high=high)


class JointSpace:
    """Strength of each layer x crossbar size, for one network.

    Args:
        config: the choices.
        shapes: the network's layers, in order.
        base: number formats and the encoding that are not searched.
        network: name that the candidates carry.
        methods: names of the methods to choose from.

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
        methods: Sequence[str],
    ) -> None:
        for name in config.layers:
            if name not in shapes:
                layers = ", ".join(shapes)
                raise ConfigError(f"space.layers names {name!r}; the network's layers: {layers}")
        self.config = config
        self.shapes = dict(shapes)
        self.base = base
        self.network = network
        self.methods = tuple(methods)
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
        method = _pick(trial, "method", self.methods)
        known = method_entry(method).settings
        return Candidate(
            network=self.network,
            method=method,
            plan=plan,
            layers={name: self._setting(trial, name, plan[name], known) for name in self.shapes},
            seed=seed,
        )

    def describe(self) -> dict[str, list[Any]]:
        """What tells this space from others: the choices of each dimension, the layers' sizes."""
        found: dict[str, list[Any]] = {
            f"{shape.name}'s rows and outputs": [shape.rows, shape.outputs]
            for shape in self.shapes.values()
        }
        for index in range(len(self.methods)):
            mildest = _Mildest({**self._base_sizes(), "method": index})
            self.suggest(mildest, seed=0)
            found |= {name: list(self._choices_of(name)) for name in mildest.parameters}
        return found

    def parameters(self, candidate: Candidate) -> dict[str, int] | None:
        """Parameters that mean this candidate, whatever its seed; None if none do."""
        wanted = _Wanted(self._choices_of, candidate)
        found = self.suggest(wanted, candidate.seed)
        names = [*self.shapes, *candidate.layers]
        same = (found.network, found.method) == (candidate.network, candidate.method) and all(
            found.plan[name] == candidate.plan[name]
            and found.layers.get(name) == candidate.layers.get(name, LayerSetting())
            for name in names
        )
        return wanted.parameters if same else None

    def starts(self) -> list[dict[str, Any]]:
        """The same step of every layer's choices, mildest first, on the base's own crossbar."""
        starts = []
        sizes = self._base_sizes()
        for index, method in enumerate(self.methods):
            known = [name for name in method_entry(method).settings if name in STRENGTHS]
            choices = [getattr(c, name) or () for c in self._choices.values() for name in known]
            for strength in reversed(range(max(map(len, choices), default=1))):
                fixed = _Uniform(strength, {**sizes, "method": index})
                self.suggest(fixed, seed=0)
                starts.append(fixed.parameters)
        return starts

    def scan(self, steps: int, sizes: int = 0) -> list[dict[str, Any]]:
        """Each dimension of each layer alone, the rest at its mildest.

        First on the base's own crossbar. Then what is counted by segment on other heights, and
        shares of outputs on other widths: nothing else of accuracy depends on a crossbar's size.

        Args:
            steps: choices to try of each dimension, the strongest first and the rest spread evenly;
                its mildest is not one of them.
            sizes: heights and widths to try beside the base's, from the smallest to the largest.
        """
        return [
            parameters
            for index in range(len(self.methods))
            for crossbar, kinds in self._scanned_crossbars(sizes)
            for parameters in self._scan_on({**crossbar, "method": index}, kinds, steps)
        ]

    def _scan_on(
        self, fixed: Mapping[str, int], kinds: Sequence[str], steps: int
    ) -> list[dict[str, Any]]:
        """The mildest candidate of a method on a crossbar, and what changes one thing of it."""
        mildest = _Mildest(fixed)
        self.suggest(mildest, seed=0)
        found = []
        for name in mildest.parameters:
            kind = name.split(".")[-1]
            if kind not in kinds:
                continue
            others = [v for v in mildest.choices[name] if v != mildest.parameters[name]]
            if kind == "block_size":
                others.reverse()
            stride = max(1, -(-len(others) // steps))
            found += [{**mildest.parameters, name: value} for value in others[::stride]]
        return [mildest.parameters, *found] if found or kinds is KINDS else []

    def _scanned_crossbars(self, count: int) -> list[tuple[dict[str, int], Sequence[str]]]:
        """The crossbars to scan, the base's own first, and what to scan on each."""
        base = self._base_sizes()
        found: list[tuple[dict[str, int], Sequence[str]]] = [(base, KINDS)]
        for size, kinds in (("wordlines", BY_SEGMENT), ("bitlines", ("kept_filters",))):
            others = [i for i in range(len(getattr(self.config, size))) if i != base[size]]
            step = (len(others) - 1) / max(count - 1, 1)
            chosen = sorted({others[round(i * step)] for i in range(count)} if others else ())
            found += [({**base, size: index}, kinds) for index in chosen]
        return found

    def _choices_of(self, dimension: str) -> Sequence[Any]:
        """What the indices of a dimension mean."""
        layer, _, kind = dimension.rpartition(".")
        if kind == "method":
            return self.methods
        own = self._choices.get(layer)
        known = kind in KINDS and own is not None
        choices: Sequence[Any] = getattr(own if known else self.config, kind)
        return choices

    def _base_sizes(self) -> dict[str, int]:
        """The choices nearest to the base's own crossbar."""
        return {
            name: _nearest(getattr(self.config, name), getattr(self.base, name))
            for name in ("wordlines", "bitlines", "cell_bits", "dac_bits")
        }

    def _layer_choices(self, name: str) -> LayerSpace:
        """The choices of one layer; the first and last layers have defaults of their own."""
        config = self.config
        common: dict[str, tuple[Any, ...]] = {
            name: getattr(config, name) for name in (*STRENGTHS, "kept_filters", "kept_shapes")
        }
        if name == next(iter(self.shapes)):
            for strength, mildest in FIRST_LAYER.items():
                milder = tuple(value for value in common[strength] if value >= mildest)
                common[strength] = milder or common[strength]
            common["block_size"] = common["block_size"][:1]
            common["kept_shapes"] = (1.0,)
        if name == list(self.shapes)[-1]:
            common["kept_filters"] = (1.0,)
        own = config.layers.get(name, LayerSpace())
        return LayerSpace(**{key: getattr(own, key) or common[key] for key in common})

    def _sized(self, trial: Suggester, prefix: str, cells: Mapping[str, int]) -> CrossbarSpec:
        """A crossbar whose size is suggested; all at once, since widths and cells must fit."""
        return replace(
            self.base,
            **cells,  # type: ignore[arg-type]
            wordlines=_pick(trial, f"{prefix}wordlines", self.config.wordlines),
            bitlines=_pick(trial, f"{prefix}bitlines", self.config.bitlines),
        )

    def _setting(
        self, trial: Suggester, name: str, spec: CrossbarSpec, known: Sequence[str]
    ) -> LayerSetting:
        """One layer's strength; what bounds or removes nothing is written as such."""
        shape, choices = self.shapes[name], self._choices[name]
        picked: dict[str, Any] = {
            key: _pick(trial, f"{name}.{key}", getattr(choices, key) or ())
            for key in (*STRENGTHS, "kept_shapes", "kept_filters")
            if key in known
        }
        segment = min(spec.wordlines, shape.rows)
        whole = self.config.whole_crossbars
        per_crossbar = spec.bitlines // spec.bitlines_per_output if whole else 1
        idle: dict[str, Callable[[Any], bool]] = {
            "nonzeros": lambda count: count >= segment,
            "adc_bits": lambda bits: bits >= dense_adc_bits(spec, segment),
            "kept_weights": lambda share: share == 1,
            "weight_levels": lambda levels: levels >= spec.weight_limit,
            "block_size": lambda size: fitting_block(size, shape.inputs, shape.outputs) == 1,
            "kept_shapes": lambda share: (
                whole_crossbars(share, shape.rows, spec.wordlines) == shape.rows
            ),
            "kept_filters": lambda share: (
                whole_crossbars(share, shape.outputs, per_crossbar) == shape.outputs
            ),
        }
        bounds = {key: value for key, value in picked.items() if not idle[key](value)}
        return LayerSetting(**bounds, whole_crossbars=whole)


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
        if kind == "block_size":  # the one strength whose choices grow stronger
            value = max(0, high - self.strength)
        elif kind in STRENGTHS:
            value = min(self.strength, high)
        elif kind in ("kept_filters", "kept_shapes"):
            value = high // 2 if halved else high
        else:
            value = self.sizes[kind]
        self.parameters[name] = value
        return value


class _Mildest:
    """A suggester of what prunes least; it records the parameters and their choices."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.parameters: dict[str, int] = {}
        self.choices: dict[str, range] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        kind = name.split(".")[-1]
        mild = low if kind == "block_size" else high
        self.parameters[name] = self.sizes.get(kind, mild)
        self.choices[name] = range(low, high + 1)
        return self.parameters[name]


class _Wanted:
    """A suggester of what a candidate has; it records the parameters.

    Args:
        choices: of a dimension, by its name.
        candidate: a setting that it leaves open is taken at its mildest, like one that the space
            does not have.
    """

    def __init__(self, choices: Callable[[str], Sequence[Any]], candidate: Candidate) -> None:
        self._choices = choices
        self._candidate = candidate
        self.parameters: dict[str, int] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        layer, _, kind = name.rpartition(".")
        candidate, choices = self._candidate, self._choices(name)
        holder: Any = candidate if kind == "method" else candidate.plan[layer]
        if kind in KINDS:
            holder = candidate.layers.get(layer, LayerSetting())
        wanted = getattr(holder, kind)
        mildest = low if kind == "block_size" else high
        self.parameters[name] = choices.index(wanted) if wanted in choices else mildest
        return self.parameters[name]


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
