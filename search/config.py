"""One TOML file per study, mapped one-to-one onto frozen dataclasses.

    [study] [data] [network] [method] [methods.NAME] [space] [hardware] [train]
    [fidelity] [robustness] [ray] [mlflow] [candidate]

Every key has a default; an unknown one is an error that names the nearest.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.components import Preset, load_preset
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import ConfigError
from hwmodel.node_scaling import NODE_TABLE, at_node
from hwmodel.nonideality import REFERENCE_WIRE_RATIO, Nonideality
from hwmodel.records import check_keys, merge_tables, read_record
from search.objectives import Bound, check_objectives, parse_bound
from search.urls import check_object_store
from spaces.candidate import Candidate, LayerSetting
from spaces.joint import SpaceConfig
from trainers.config import NetworkConfig, TrainConfig, check_choice, check_number
from trainers.data.catalog import DataConfig
from trainers.methods import MethodConfig, TinyAdcConfig, method_entry, method_name
from trainers.own import is_own

__all__ = [
    "CandidateConfig",
    "FidelityConfig",
    "HardwareConfig",
    "MlflowConfig",
    "RayConfig",
    "RobustnessConfig",
    "StudyConfig",
    "StudySection",
    "load_config",
    "named_files",
    "read_config",
    "relative_files",
    "with_files",
]

SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "random", "surrogate")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySection:
    """What is searched for, and how long."""

    name: str = "study"
    """Names the folder in the storage; letters, digits, `-`, `_` and `.`."""
    objectives: tuple[str, ...] = ("accuracy", "area", "power")
    """From accuracy, robust_accuracy (see `[robustness]`) and the costs adc_area, adc_power, area,
    power, energy, latency."""
    constraints: tuple[str, ...] = ()
    """Hard bounds, such as `area <= 5 mm2`, `power <= 0.5x` (x: times dense) or `accuracy >= 0.85`;
    in mm2, um2, mW, uW, uJ, nJ, pJ, us, ns, ms, or plain SI units."""
    trials: int = 24
    """Candidates to evaluate; infeasible ones, which never train, come on top."""
    time_budget_s: float | None = None
    """Stops asking for candidates after this time (default: none)."""
    epochs: int | None = None
    """Stops asking for candidates after so many epochs of training in all (default: no limit)."""
    least_gain: float | None = None
    """Stops asking for candidates once the hypervolume has grown by less than this share of itself
    over the last `gain_trials` trials (default: never)."""
    gain_trials: int = 20
    """Trials over which `least_gain` looks back."""
    sampler: str = "tpe"
    """`tpe`, `nsga2`, `nsga3`, `gp` (for small studies), `random`, or `surrogate`: a model of
    accuracy alone beside the exact costs, for few trials or many layers."""
    seed: int = 0
    """Seeds the sampler, the dense baseline and, with its number, every trial."""
    database: str | None = None
    """A database for the study's records, such as `postgresql+psycopg://user@host/name` (default: a
    journal file in the storage folder)."""
    storage_path: str | None = None
    """Where driver and workers hand each other networks if they share no folder:
    `s3://bucket/prefix`, or `s3://bucket/prefix?endpoint_override=host:port` for a store of your
    own, its login in the environment of every node (default: the storage folder)."""
    uniform_starts: bool = True
    """Begin with the same strength in every layer, one candidate per strength."""
    warm_start: tuple[str, ...] = ()
    """Studies in the same storage folder whose front members are tried first, where the space has
    them."""
    accuracy_window: float = 0.1
    """The hypervolume's reference point lies this far below the dense accuracy."""

    def __post_init__(self) -> None:
        allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
        if not self.name or set(self.name) - allowed or self.name.startswith("."):
            raise ConfigError(
                f"study.name is {self.name!r}; allowed: letters, digits, '-', '_' and '.'"
            )
        check_objectives(self.objectives)
        for text in self.constraints:
            parse_bound(text)
        if self.storage_path is not None:
            check_object_store("study.storage_path", self.storage_path)
        check_number("study.trials", self.trials, low=1, integer=True)
        if self.time_budget_s is not None:
            check_number("study.time_budget_s", self.time_budget_s, low=0)
        if self.epochs is not None:
            check_number("study.epochs", self.epochs, low=1, integer=True)
        if self.least_gain is not None:
            check_number("study.least_gain", self.least_gain, low=0, high=1)
        check_number("study.gain_trials", self.gain_trials, low=1, integer=True)
        check_choice("study.sampler", self.sampler, SAMPLERS)
        check_number("study.seed", self.seed, low=0, high=2**31, integer=True)
        check_number("study.accuracy_window", self.accuracy_window, low=0, high=1)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The constraints, parsed."""
        return tuple(parse_bound(text) for text in self.constraints)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareConfig:
    """The accelerator and how it is priced."""

    preset: str = "isaac-8bit-weights"
    """A name of `crossfront list presets`, or the path of your own TOML file."""
    law: str = "sar_split"
    """What an ADC costs; `crossfront list laws`."""
    policy: str = "layer"
    """`layer`: each layer's ADCs are as large as it needs; `chip_max`: one ADC type for all;
    `tile_types:K`: at most K types; `slice`: one per bit slice; `early_stop`: one type, a SAR that
    stops after the bits that a layer needs."""
    provisioning: str = "share"
    """`share`: a crossbar carries its share of IMA and tile; `whole`: whole IMAs and tiles."""
    include_io: bool = False
    """Charge the chip's links."""
    replication: float = 1.0
    """Crossbars that copies of slow layers may fill, as a multiple of the network's own: more area
    for a shorter latency. 1: no copies."""
    node_m: float | None = None
    """Technology node of ADCs and digital parts (default: the preset's own)."""
    node_table: str = NODE_TABLE
    """How digital parts follow the node."""

    def __post_init__(self) -> None:
        self.cost_model()

    def load_preset(self) -> Preset:
        """The accelerator's components, at the chosen node."""
        return at_node(load_preset(self.preset), self.node_m, self.node_table)

    def cost_model(self) -> CostModel:
        """The cost model that these settings describe.

        Raises:
            ConfigError: an unknown preset, law, policy, provisioning, node table or node.
        """
        return CostModel(
            self.load_preset(),
            adc_law(self.law),
            policy=self.policy,
            provisioning=self.provisioning,
            include_io=self.include_io,
            replication=self.replication,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityConfig:
    """How far a candidate is tried before it is trained in full.

    Every rung measures the finalised integer network, so a candidate that is stopped early is a
    design like any other and may be on the front.
    """

    projection: bool = False
    """First measure each candidate projected, without any training. Candidates that get no further
    do not count against `study.trials`."""
    rungs: tuple[int, ...] = ()
    """Epochs, ascending and below `train.epochs`, after which a candidate is measured and may be
    stopped; the learning rate's schedule begins anew after each."""
    reduction: int = 3
    """One in so many candidates goes on from a rung: those that the fewest others of the rung
    dominate."""
    scan: int = 0
    """Begin with so many choices of each layer's dimensions alone, everything else at its mildest,
    projected. What `study.sampler = "surrogate"` learns from first."""
    scan_sizes: int = 0
    """Scan on so many other crossbar heights, what is counted by segment, and widths, shares of
    outputs."""
    seeds: int = 1
    """Once the trials are spent, train each member of the front that was trained at all under so
    many seeds in all; it stays on the front if its means do, and who takes its place is trained so
    too. These trainings count against no budget."""

    def __post_init__(self) -> None:
        for epochs in self.rungs:
            check_number("fidelity.rungs", epochs, low=1, integer=True)
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ConfigError(
                f"fidelity.rungs is {list(self.rungs)}; allowed: ascending epochs without repeats"
            )
        check_number("fidelity.reduction", self.reduction, low=2, integer=True)
        check_number("fidelity.scan", self.scan, low=0, integer=True)
        check_number("fidelity.scan_sizes", self.scan_sizes, low=0, integer=True)
        if self.scan_sizes and not self.scan:
            raise ConfigError(
                f"fidelity.scan_sizes is {self.scan_sizes}; allowed without fidelity.scan: 0"
            )
        check_number("fidelity.seeds", self.seeds, low=1, integer=True)
        if self.scan and not self.projection:
            raise ConfigError(
                f"fidelity.scan is {self.scan}; allowed without fidelity.projection: 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessConfig:
    """The lossy devices on which every finalised network is measured; by default none.

    Raises:
        SpecError: an impossible device.
    """

    faults: float = 0.0
    """Share of stuck cells, 5.2 stuck on for 1 stuck off."""
    variation: float = 0.0
    """Sigma of the cells' log-normal conductance."""
    read_noise: float = 0.0
    """Noise of a reading in level units, rms."""
    ir_drop: bool = False
    """Wires of 1 ohm a cell, cells of 33 to 333 kohm."""
    seeds: int = 5
    """Devices to draw; `robust_accuracy` is the mean over them."""
    images: int = 500
    """Test images that each device classifies."""

    def __post_init__(self) -> None:
        check_number("robustness.seeds", self.seeds, low=1, integer=True)
        check_number("robustness.images", self.images, low=1, integer=True)
        _ = self.device

    @property
    def device(self) -> Nonideality | None:
        """The device; None where it is ideal."""
        device = Nonideality.with_faults(
            self.faults,
            variation=self.variation,
            read_noise=self.read_noise,
            ir_drop=REFERENCE_WIRE_RATIO if self.ir_drop else 0.0,
        )
        return None if device == Nonideality() else device


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """The workers."""

    workers: int = 2
    """Trials at a time; all of them may wait for resources, so that a cluster grows at once."""
    cpus_per_trial: float = 1.0
    """What Ray counts as taken; `train.threads` is what a training uses."""
    gpus_per_trial: float = 0.0
    """Below 1 trials share a GPU."""
    address: str | None = None
    """A running Ray cluster (default, or `local`: one of our own, on loopback)."""
    retries: int = 1
    """How often a trial is given to another worker after its worker died; it goes on from its last
    epoch."""
    epoch_limit_s: float | None = None
    """A worker whose trial takes longer than this for an epoch, or for measuring, is given up
    (default: no limit)."""

    def __post_init__(self) -> None:
        check_number("ray.retries", self.retries, low=0, integer=True)
        if self.epoch_limit_s is not None:
            check_number("ray.epoch_limit_s", self.epoch_limit_s, low=0.001)
        check_number("ray.workers", self.workers, low=1, integer=True)
        check_number("ray.cpus_per_trial", self.cpus_per_trial, low=0)
        check_number("ray.gpus_per_trial", self.gpus_per_trial, low=0)

    @property
    def local(self) -> bool:
        """Whether a search starts Ray itself."""
        return self.address in (None, "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowConfig:
    """Where the study is mirrored."""

    tracking_uri: str | None = None
    """Default: a SQLite file in the storage folder."""
    experiment: str = "crossfront"
    """The MLflow experiment that all runs are in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateConfig:
    """The one candidate of `crossfront compress` and `crossfront cost`."""

    wordlines: int | None = None
    """Default: the preset's."""
    bitlines: int | None = None
    """Default: the preset's."""
    nonzeros: int | None = None
    """Most non-zero weights per bitline segment of every layer (default: no bound)."""
    adc_bits: int | None = None
    """ADC resolution of every layer's level sums (default: no bound)."""
    kept_weights: float | None = None
    """Share of every layer's weights that stays, wherever they lie (default: all)."""
    weight_levels: int | None = None
    """Magnitudes per polarity of every layer's weights (default: the preset's)."""
    block_size: int | None = None
    """Side of every layer's circulant blocks, fitted to narrower ones (default: no blocks)."""
    kept_shapes: float = 1.0
    """Share of every layer's rows to keep, rounded up to whole crossbar heights."""
    kept_filters: float = 1.0
    """Share of the outputs to keep, of every layer but the last, whose outputs are the classes."""
    whole_crossbars: bool = True
    """Round kept outputs up to whole crossbar widths."""
    layers: Mapping[str, LayerSetting] = field(default_factory=dict)
    """Whole settings of single layers, in the place of those above."""
    seed: int = 0
    """Seeds the candidate's training."""

    def candidate(
        self, layers: Iterable[str], base: CrossbarSpec, *, network: str, method: str
    ) -> Candidate:
        """The candidate for a network's layers, which are named in order.

        Raises:
            SpecError: impossible sizes or strengths.
        """
        spec = replace(
            base,
            wordlines=base.wordlines if self.wordlines is None else self.wordlines,
            bitlines=base.bitlines if self.bitlines is None else self.bitlines,
        )
        setting = LayerSetting(**{f.name: getattr(self, f.name) for f in fields(LayerSetting)})
        uniform = dict.fromkeys(layers, setting)
        if uniform:
            uniform[list(uniform)[-1]] = replace(setting, kept_filters=1.0)
        return Candidate(
            network=network,
            method=method,
            plan=CrossbarPlan(default=spec),
            layers={**uniform, **self.layers},
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """A whole study."""

    study: StudySection = field(default_factory=StudySection)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=TinyAdcConfig)
    methods: Mapping[str, MethodConfig] = field(default_factory=dict)
    """Settings of the other methods that the space chooses from, by name; the study's own has its
    settings in `method`."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    fidelity: FidelityConfig = field(default_factory=FidelityConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)
    candidate: CandidateConfig = field(default_factory=CandidateConfig)

    def __post_init__(self) -> None:
        asked = {*self.study.objectives, *(bound.objective for bound in self.study.bounds)}
        if "robust_accuracy" in asked and self.robustness.device is None:
            raise ConfigError(
                "robust_accuracy on an ideal device; allowed: with faults, variation, read_noise "
                "or ir_drop in [robustness]"
            )

        if self.study.sampler == "surrogate" and (
            "accuracy" not in self.study.objectives
            or "robust_accuracy" in self.study.objectives
            or len(self.study.objectives) < 2
        ):
            raise ConfigError(
                f"study.sampler is 'surrogate' with the objectives "
                f"{', '.join(self.study.objectives)}; allowed: accuracy and one or more costs"
            )
        late = [epochs for epochs in self.fidelity.rungs if epochs >= self.train.epochs]
        if late:
            raise ConfigError(
                f"fidelity.rungs contains {late[0]}; allowed: below train.epochs, "
                f"{self.train.epochs}"
            )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs that a candidate has been trained for when it is measured, the last being all."""
        first = (0,) if self.fidelity.projection and self.train.epochs > 0 else ()
        return (*first, *self.fidelity.rungs, self.train.epochs)

    @property
    def method_name(self) -> str:
        """The method's name in the configuration."""
        return method_name(self.method)

    @property
    def space_methods(self) -> tuple[str, ...]:
        """The methods that a search chooses from."""
        return self.space.methods or (self.method_name,)

    @property
    def own_modules(self) -> tuple[str, ...]:
        """The user's modules, or packages of them, that network, data and methods come from."""
        names = (self.network.name, self.data.name, self.method_name, *self.space_methods)
        found = {name.partition(":")[0].partition(".")[0] for name in names if is_own(name)}
        return tuple(sorted(found))

    def method_config(self, name: str) -> MethodConfig:
        """The settings of a method: the study's own, or those of `[methods.NAME]`, or defaults.

        Raises:
            ConfigError: an unknown method.
        """
        if name == self.method_name:
            return self.method
        return self.methods.get(name) or method_entry(name).config()

    def to_json(self) -> dict[str, Any]:
        """Plain tables, as `read_config` reads them; keys without a value are left out."""
        tables: dict[str, Any] = json.loads(json.dumps(asdict(self), default=dict))
        tables["method"] = {"name": self.method_name, **tables["method"]}
        return {name: _without_none(table) for name, table in tables.items()}

    def unset(self) -> list[str]:
        """Settings without a value, which `to_toml` cannot show, as `section.key`."""
        return [
            f"{section.name}.{key.name}"
            for section in fields(self)
            if section.name != "methods"
            for key in fields(getattr(self, section.name))
            if getattr(getattr(self, section.name), key.name) is None
        ]

    def to_toml(self) -> str:
        """The configuration as a file that `load_config` reads back."""
        return tomli_w.dumps(self.to_json())


def load_config(
    path: str | Path | None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> StudyConfig:
    """The study that a TOML file describes.

    Relative paths in the file are taken from the file's own folder, and made absolute.

    Args:
        path: the file (None: all defaults).
        overrides: values by section that replace the file's.

    Raises:
        ConfigError: an unreadable file, or anything in it that a study cannot have.
    """
    if path is None:
        return read_config(overrides or {})
    tables = _read_tables(path)
    folder = Path(path).resolve().parent  # workers and later commands run in other ones
    tables = with_files(tables, {name: str(folder / name) for _, _, name in named_files(tables)})
    config = read_config(merge_tables(tables, overrides or {}))
    _check_methods_are_read(config)
    return config


def relative_files(path: str | Path) -> dict[str, str]:
    """The files and folders that a configuration names by relative paths, by `section.key`.

    Raises:
        ConfigError: an unreadable file.
    """
    named = named_files(_read_tables(path))
    return {f"{s}.{key}": name for s, key, name in named if not Path(name).is_absolute()}


def read_config(tables: Mapping[str, Any]) -> StudyConfig:
    """The study that tables describe.

    Raises:
        ConfigError: naming section, key, value and what is allowed.
    """
    kinds: dict[str, Any] = {
        "study": StudySection,
        "data": DataConfig,
        "network": NetworkConfig,
        "space": SpaceConfig,
        "hardware": HardwareConfig,
        "train": TrainConfig,
        "fidelity": FidelityConfig,
        "robustness": RobustnessConfig,
        "ray": RayConfig,
        "mlflow": MlflowConfig,
        "candidate": CandidateConfig,
    }
    check_keys(tables, [f.name for f in fields(StudyConfig)], "config")
    sections = {
        name: read_record(kind, tables[name], name)
        for name, kind in kinds.items()
        if name in tables
    }
    if "method" in tables:
        sections["method"] = _read_method(tables["method"])
    others = tables.get("methods", {})
    if not isinstance(others, Mapping):
        raise ConfigError(f"methods is {others!r}; allowed: tables, [methods.NAME]")
    sections["methods"] = {
        name: read_record(method_entry(name).config, settings, f"methods.{name}")
        for name, settings in others.items()
    }
    return StudyConfig(**sections)


def _check_methods_are_read(config: StudyConfig) -> None:
    """Refuses settings of methods that the study never reads."""
    others = [name for name in config.space_methods if name != config.method_name]
    for name in config.methods:
        if name == config.method_name:
            raise ConfigError(f"methods.{name}: the study's own method; allowed: in [method]")
        if name not in others:
            raise ConfigError(
                f"methods.{name}: not one of space.methods; allowed: {', '.join(others) or 'none'}"
            )


def _read_method(table: object) -> MethodConfig:
    if not isinstance(table, Mapping):
        raise ConfigError(f"method is {table!r}; allowed: a table")
    name = table.get("name", "tinyadc")
    settings = {key: value for key, value in table.items() if key != "name"}
    return read_record(method_entry(name).config, settings, "method")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _read_tables(path: str | Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} is not TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name} is {table!r}; allowed: a table, [{name}]")
    return tables


def named_files(tables: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Section, key and path of every file that tables name."""
    for section, key in (("data", "path"), ("data", "cache"), ("network", "checkpoint")):
        value = tables.get(section, {}).get(key)
        if isinstance(value, str):
            yield section, key, value
    preset = tables.get("hardware", {}).get("preset")
    if isinstance(preset, str) and preset.endswith(".toml"):
        yield "hardware", "preset", preset
    law = tables.get("hardware", {}).get("law")
    if isinstance(law, str) and law.startswith("table:"):
        yield "hardware", "law", law.removeprefix("table:")


def with_files(tables: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The tables with other paths, given by the present ones, of files that they name."""
    found = {name: dict(table) for name, table in tables.items()}
    for section, key, path in named_files(tables):
        before = tables[section][key].removesuffix(path)
        found[section][key] = f"{before}{paths.get(path, path)}"
    return found
