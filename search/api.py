"""Crossfront from Python, under the names of its command line, which does no more than call this.

    import search.api as crossfront

    made = crossfront.compress("network.toml", to="out", candidate={"nonzeros": 5})
    print(made.values["accuracy"], made.ratio["power"])
    assert crossfront.verify("out").ok

    study = crossfront.search("study.toml", study={"trials": 24})
    for member in crossfront.pareto(study):
        print(member["number"], member["values"])
    crossfront.export(study, to="best", select="knee")

A configuration is a TOML file or a mapping of the same tables; keywords named after a table replace
some of its settings. Everything raises `hwmodel.errors.CrossfrontError` for a user's mistake.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwmodel.errors import ConfigError, CrossfrontError, StudyError
from hwmodel.records import merge_tables
from search.config import StudyConfig, load_config, read_config
from search.folder import DEFAULT_STORAGE, StudyFolder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from search.run import Display
    from search.study import Study
    from trainers.verify import Verification

__all__ = [
    "Compressed",
    "compress",
    "configure",
    "create_study",
    "export",
    "open_study",
    "pareto",
    "resume",
    "search",
    "verify",
]

Config = str | Path | Mapping[str, Mapping[str, Any]] | StudyConfig
_SAMPLES = 2000
_COMPRESSED_FROM = ("data", "network", "method", "methods", "hardware", "train", "robustness")
"""Sections that a compressed candidate depends on, besides its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """One candidate that was pruned, trained and exported."""

    folder: Path
    values: Mapping[str, float]
    """Accuracy and costs in SI units, by objective."""
    dense: Mapping[str, float]
    """The same of the dense network."""
    ratio: Mapping[str, float]
    """How many times less it costs than dense, by cost."""
    adc_bits: Mapping[str, int]
    """By layer, certified."""
    dead_paths: Mapping[str, Any] | None
    """What pruning made dead and was removed, where the method does that."""


def configure(config: Config, **tables: Mapping[str, Any]) -> StudyConfig:
    """Settings, checked.

    Args:
        config: a TOML file, or tables of settings.
        tables: settings that replace some of them, by table.

    Raises:
        ConfigError: anything in it that cannot be.
    """
    if isinstance(config, str | Path):
        return load_config(config, tables)
    if isinstance(config, StudyConfig):
        return read_config(merge_tables(config.to_json(), tables)) if tables else config
    return read_config(merge_tables(config, tables))


def compress(
    config: Config,
    to: str | Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    force: bool = False,
    **tables: Mapping[str, Any],
) -> Compressed:
    """Prunes, trains and exports the one candidate that `[candidate]` describes.

    Args:
        config: see `configure`.
        to: folder to write; it must not exist, or be an export of the same candidate. Beside it,
            in `.crossfront`, the dense weights are kept for the next candidate.
        say: called with a line about what is being done.
        force: replace another export, too.
        tables: see `configure`.

    Raises:
        CrossfrontError: what the user can mend.
    """
    from search.baseline import kept_weights
    from search.evaluate import FAILED, check_problem, evaluate, load_problem, train_dense
    from search.report import ratios
    from trainers.checkpoint import read_manifest
    from trainers.export import check_target, export_folder
    from trainers.methods import build_method

    target = Path(to)
    settings = configure(config, **tables)
    problem = load_problem(settings)
    candidate = settings.candidate.candidate(
        problem.shapes,
        problem.cost_model.preset.crossbar,
        network=settings.network.name,
        method=settings.method_name,
    )
    # A mistake is better known before the training.
    read = {name: settings.to_json().get(name) for name in _COMPRESSED_FROM}
    origin = _origin(candidate=candidate.to_json(), seed=settings.study.seed, settings=read)
    check_target(target, None if force else origin)
    method = settings.method_config(candidate.method)
    build_method(candidate.method, method, candidate.targets(problem.shapes))
    note = check_problem(problem)
    if note is not None:
        say(note)
    test, parent = problem.dataset.test, _parent(target)
    with tempfile.TemporaryDirectory(dir=parent) as scratch:
        checkpoint, weights = Path(scratch) / "checkpoint", Path(scratch) / "dense.safetensors"
        if settings.network.checkpoint is not None and not settings.network.reset_head:
            say("measuring the dense baseline")
        else:
            weights = kept_weights(settings, target.parent)
            known = weights.exists()
            say(f"{'measuring' if known else 'training'} the dense baseline, kept in {weights}")
        dense = train_dense(problem, weights, Path(scratch) / "dense")
        say(f"dense accuracy {dense.values['accuracy']:.4f}; pruning")
        found = evaluate(problem, candidate, weights, checkpoint)
        if found.status == FAILED:
            raise CrossfrontError(found.reason)
        ratio = ratios(dict(dense.values), dict(found.values))
        facts = {"origin": origin, "dense": dict(dense.values), "ratio": ratio}
        export_folder(checkpoint, target, test.subset(min(_SAMPLES, len(test))), facts)
    return Compressed(
        folder=target,
        values=found.values,
        dense=dense.values,
        ratio=ratio,
        adc_bits=found.adc_bits,
        dead_paths=read_manifest(target).get("dead_paths"),
    )


def create_study(
    config: Config, storage: str | Path = DEFAULT_STORAGE, *, load_if_exists: bool = False
) -> "Study":
    """A new study; whatever is wrong with its settings is said before there is one.

    Args:
        config: see `configure`.
        storage: folder of all studies.
        load_if_exists: a study of this name and these settings is opened, not refused.

    Raises:
        CrossfrontError: what the user can mend.
    """
    from search.evaluate import check_problem, load_problem
    from search.exchange import Exchange
    from search.mlflow_store import check_tracking
    from search.ray_session import check_cluster
    from search.run import make_space
    from search.study import Study
    from search.warm_start import warm_starts

    settings = configure(config)
    folder = StudyFolder(Path(storage), settings.study.name)
    if not folder.exists:
        problem = load_problem(settings)
        warm_starts(folder, settings, make_space(problem))
        check_problem(problem)
        check_cluster(settings.ray)
        check_tracking(settings.mlflow.tracking_uri)
        Exchange(settings.study.storage_path, folder).check()
    elif load_if_exists:
        study = Study.open(folder)
        if study.config.to_json() == settings.to_json():
            return study
    return Study.create(folder, settings)


def open_study(name: str, storage: str | Path = DEFAULT_STORAGE) -> "Study":
    """A study that exists; it may be running, here or elsewhere, and is only read.

    Raises:
        StudyError: there is none, or one of another format.
    """
    from search.study import Study

    return Study.open(StudyFolder(Path(storage), name))


def search(
    config: Config,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    display: "Display | None" = None,
    load_if_exists: bool = False,
    **tables: Mapping[str, Any],
) -> "Study":
    """Runs a new study until its budget is spent; an interrupt leaves what has finished.

    Args:
        config: see `configure`.
        storage: folder of all studies.
        load_if_exists: go on with a study of this name and these settings instead of refusing it.
        display: where to show progress (default: nowhere).
        tables: see `configure`.

    Raises:
        CrossfrontError: what the user can mend.
    """
    from search.run import run_study

    study = create_study(configure(config, **tables), storage, load_if_exists=load_if_exists)
    run_study(study, display)
    return study


def resume(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    display: "Display | None" = None,
    **tables: Mapping[str, Any],
) -> "Study":
    """Goes on with a study, or extends it: `resume("lenet5", study={"trials": 48})`.

    Raises:
        CrossfrontError: what the user can mend.
    """
    from search.run import run_study

    study = open_study(name, storage)
    run_study(study, display, tables)
    return study


def pareto(study: "Study") -> list[dict[str, Any]]:
    """The front of a study, finished or running: number, values, candidate and ADC bits of each."""
    from search.report import pareto_json

    found: list[dict[str, Any]] = pareto_json(study)["front"]
    return found


def export(
    study: "Study",
    to: str | Path,
    *,
    select: str = "knee",
    samples: int = _SAMPLES,
    force: bool = False,
) -> "FrozenTrial":
    """Exports a front member as safetensors, ONNX and torch.export files; returns its trial.

    Args:
        study: with a front.
        to: folder to write; it must not exist, or be an export of the same trial.
        select: `knee`, an objective, a trial's number, or a rule such as
            `accuracy>=0.88,min:area`.
        samples: test images that travel along.
        force: replace another export, too.

    Raises:
        CrossfrontError: an empty front, a rule that no member keeps, a folder that is taken.
    """
    from search.exchange import Exchange
    from search.report import ratios
    from search.trials import values
    from trainers.data import load_dataset
    from trainers.export import check_target, export_folder

    trial = _selected(study, select)
    origin = _origin(study=study.folder.name, candidate=trial.user_attrs["candidate"])
    check_target(Path(to), None if force else origin)
    exchange = Exchange(study.config.study.storage_path, study.folder)
    checkpoint = exchange.bring(study.checkpoint(trial))
    test = load_dataset(study.config.data).test
    dense = study.dense
    assert dense is not None  # a study with a front has its baseline
    facts = {
        "origin": origin,
        "study": {"name": study.folder.name, "trial": trial.number, "select": select},
        "dense": dict(dense.values),
        "ratio": ratios(dict(dense.values), values(trial)),
    }
    export_folder(checkpoint, Path(to), test.subset(min(samples, len(test))), facts)
    return trial


def verify(folder: str | Path, *, images: int = 256) -> "Verification":
    """Proves an export again from its files alone; see `trainers.verify.verify_folder`."""
    from trainers.verify import verify_folder

    return verify_folder(Path(folder), images=images)


def _selected(study: "Study", rule: str) -> "FrozenTrial":
    """The front member that a rule or a trial number names."""
    from search.blame import why_empty
    from search.front import select

    front = study.front()
    if not front:
        raise StudyError(f"the front is empty: {why_empty(study)}")
    if rule.isdecimal():
        for trial in front:
            if trial.number == int(rule):
                return trial
        numbers = ", ".join(str(trial.number) for trial in front) or "none"
        raise StudyError(f"trial {rule} is not on the front; front members: {numbers}")
    chosen = select(study.all_means(front), study.config.study.objectives, rule)
    return front[chosen]


def _origin(**described: Any) -> str:
    """A name for what a network comes from; it changes with anything that is described."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _parent(folder: Path) -> Path:
    """The folder that will hold `folder`, made if need be."""
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder}: cannot be written ({error.strerror})") from None
    return parent
