"""The study: an Optuna study on a journal file, and the only truth about a search.

A trial ends in one of these states (user attribute `status`):

    complete      evaluated; COMPLETE with the objectives as values
    failed        trained and failed (a diverging loss, a worker error); FAIL with its reason
    infeasible    breaks a hard bound by cost alone; PRUNED, never trained
    interrupted   its worker or driver went away; FAIL, and its parameters are queued again

Complete and failed trials count against the budget; nothing is ever counted twice.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hwmodel.errors import StudyError
from hwmodel.records import merge_tables
from search.config import StudyConfig, read_config
from search.evaluate import COMPLETE, FAILED, Evaluation
from search.folder import StudyFolder, study_names
from search.front import hypervolume, nondominated
from search.objectives import ACCURACIES, direction
from spaces.candidate import Candidate
from spaces.space import Space

__all__ = ["FORMAT", "Proposal", "Study", "candidate_of", "is_feasible", "status", "values"]

optuna.logging.set_verbosity(optuna.logging.WARNING)

FORMAT = 1
_HEADER = "crossfront"
_DENSE = "dense"
_INFEASIBLE = "infeasible"
_INTERRUPTED = "interrupted"
_PROPOSALS_PER_SUGGESTION = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate that has been asked for and is to be evaluated."""

    number: int
    candidate: Candidate


class Study:
    """One study; several processes may read it while one drives it.

    Args:
        folder: where it lies.
        handle: the Optuna study.
        config: what it was created with.
    """

    def __init__(self, folder: StudyFolder, handle: optuna.Study, config: StudyConfig) -> None:
        self.folder = folder
        self.config = config
        self._handle = handle
        self._running: dict[int, optuna.Trial] = {}

    @classmethod
    def create(cls, folder: StudyFolder, config: StudyConfig) -> "Study":
        """A new study.

        Raises:
            StudyError: the name exists, or the storage cannot be written.
        """
        if folder.exists:
            raise StudyError(
                f"study {folder.name!r} exists in {str(folder.storage)!r}; go on with 'crossfront "
                f"resume {folder.name}', or choose another name with --name"
            )
        folder.make()
        handle = optuna.create_study(
            study_name=folder.name,
            storage=_storage(folder),
            directions=[direction(name) for name in config.study.objectives],
            sampler=_sampler(config),
        )
        handle.set_user_attr(_HEADER, {"format": FORMAT, "config": config.to_json()})
        return cls(folder, handle, config)

    @classmethod
    def open(cls, folder: StudyFolder) -> "Study":
        """An existing study.

        Raises:
            StudyError: no such study, or one of another format.
        """
        if not folder.exists:
            names = ", ".join(study_names(folder.storage)) or "none"
            raise StudyError(
                f"no study {folder.name!r} in {str(folder.storage)!r}; studies there: {names}"
            )
        try:
            handle = optuna.load_study(study_name=folder.name, storage=_storage(folder))
        except KeyError:
            raise StudyError(f"{folder.journal}: holds no study {folder.name!r}") from None
        except ValueError as error:
            raise StudyError(f"{folder.journal}: damaged ({error})") from None
        header = handle.user_attrs.get(_HEADER)
        if header is None:
            raise StudyError(
                f"study {folder.name!r} was never finished being made; delete {folder.path}"
            )
        if header.get("format") != FORMAT:
            raise StudyError(
                f"study {folder.name!r} has format {header.get('format')!r}; "
                f"this version reads {FORMAT}"
            )
        config = read_config(header["config"])
        handle.sampler = _sampler(config, asked=len(handle.get_trials(deepcopy=False)))
        return cls(folder, handle, config)

    def reconfigure(self, overrides: Mapping[str, Mapping[str, Any]]) -> None:
        """Replaces settings of the study, such as its budget, for good.

        Raises:
            ConfigError: an impossible setting.
        """
        self.config = read_config(merge_tables(self.config.to_json(), overrides))
        self._handle.set_user_attr(_HEADER, {"format": FORMAT, "config": self.config.to_json()})

    # Facts about the whole study.

    @property
    def dense(self) -> Evaluation | None:
        """The dense baseline, once it has been evaluated."""
        fields = self._handle.user_attrs.get(_DENSE)
        return None if fields is None else Evaluation.from_json(fields)

    def set_dense(self, evaluation: Evaluation) -> None:
        """Records the dense baseline."""
        self._handle.set_user_attr(_DENSE, evaluation.to_json())

    @property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point: dense costs, and accuracies a window below dense."""
        dense = self._dense_values()
        window = self.config.study.accuracy_window
        return {
            name: max(0.0, dense[name] - window) if name in ACCURACIES else dense[name]
            for name in self.config.study.objectives
        }

    def note(self, key: str, value: Any) -> None:
        """Remembers a JSON value under a key of the caller's own."""
        self._handle.set_user_attr(f"note.{key}", value)

    def notes(self) -> dict[str, Any]:
        """Everything that `note` remembered."""
        prefix = "note."
        attributes = self._handle.user_attrs.items()
        return {k.removeprefix(prefix): v for k, v in attributes if k.startswith(prefix)}

    # Trials.

    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first."""
        return self._handle.get_trials(deepcopy=False)

    def ended(self) -> list[FrozenTrial]:
        """Trials that are over, whatever came of them."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def counts(self) -> dict[str, int]:
        """Trials by what came of them, with the names of `crossfront pareto --json`."""
        found = Counter(status(trial) for trial in self.trials())
        return {
            "complete": found[COMPLETE],
            "pruned": found["pruned"],
            "failed": found[FAILED],
            "infeasible": found[_INFEASIBLE],
        }

    @property
    def spent(self) -> int:
        """Trials that count against the budget."""
        counts = self.counts()
        return counts["complete"] + counts["pruned"] + counts["failed"]

    def front(self) -> list[FrozenTrial]:
        """Complete trials within all bounds that no other such trial dominates."""
        complete = [t for t in self.trials() if status(t) == COMPLETE and is_feasible(t)]
        points = [values(trial) for trial in complete]
        return [complete[i] for i in nondominated(points, self.config.study.objectives)]

    def hypervolume(self) -> float:
        """Share of the cube below the reference point that the front dominates."""
        if self.dense is None:
            return 0.0
        return hypervolume([values(trial) for trial in self.front()], self.reference)

    # What the driver does.

    def enqueue(self, parameters: list[dict[str, Any]]) -> None:
        """Queues parameters to be tried first."""
        for fixed in parameters:
            self._handle.enqueue_trial(fixed, skip_if_exists=True)

    def propose(
        self,
        space: Space,
        planned_costs: Callable[[Candidate], Mapping[str, float]],
        planned_dense: Mapping[str, float],
    ) -> Proposal | None:
        """The next candidate to train, or None once the budget is spent.

        Candidates whose planned cost breaks a bound are recorded as infeasible on the way. Plans
        are worst cases, so a bound relative to dense compares them with the dense plan; what a
        trial measures is later compared with what dense measured.

        Args:
            space: where candidates come from.
            planned_costs: prices a candidate before training.
            planned_dense: the same for the dense network.

        Raises:
            StudyError: hundreds of candidates in a row break the same bound.
        """
        blamed: Counter[str] = Counter()
        for _ in range(_PROPOSALS_PER_SUGGESTION):
            if self.spent + len(self._running) >= self.config.study.trials:
                return None
            trial = self._handle.ask()
            seed = trial.user_attrs.get("seed", _trial_seed(self.config.study.seed, trial.number))
            candidate = space.suggest(trial, seed)
            trial.set_user_attr("candidate", candidate.to_json())
            violations = self._violations(planned_costs(candidate), planned_dense)
            broken = [bound for bound, violation in violations.items() if violation > 0]
            if not broken:  # its constraints are written once, from what it measures
                self._running[trial.number] = trial
                return Proposal(number=trial.number, candidate=candidate)
            blamed.update(broken)
            for bound, violation in violations.items():
                trial.set_constraint(bound, violation)
            trial.set_user_attr("reason", f"breaks {', '.join(broken)} before training")
            self._end(trial, TrialState.PRUNED, _INFEASIBLE)
        bound, times = blamed.most_common(1)[0]
        raise StudyError(
            f"{times} of {_PROPOSALS_PER_SUGGESTION} candidates in a row break {bound!r}; "
            "loosen that constraint or widen the space"
        )

    def finish(self, number: int, evaluation: Evaluation) -> None:
        """Ends a trial with its evaluation."""
        broken = [name for name, value in evaluation.values.items() if not math.isfinite(value)]
        if broken:
            reason = f"{broken[0]} is {evaluation.values[broken[0]]}; allowed: a finite number"
            evaluation = Evaluation(status=FAILED, reason=reason, seconds=evaluation.seconds)
        trial = self._running.pop(number)
        trial.set_user_attr("evaluation", evaluation.to_json())
        if evaluation.status == FAILED:
            trial.set_user_attr("reason", evaluation.reason)
            self._end(trial, TrialState.FAIL, FAILED)
            return
        known = self.trials()[number].constraints
        for bound, violation in self._violations(evaluation.values, self._dense_values()).items():
            if bound not in known:
                trial.set_constraint(bound, violation)
        trial.set_user_attr("status", COMPLETE)
        self._handle.tell(trial, [evaluation.values[n] for n in self.config.study.objectives])

    def requeue_interrupted(self) -> int:
        """Ends trials that nobody runs any more and queues their parameters again.

        Only for the process that drives the study: it takes every running trial for an orphan.

        Returns:
            How many there were.
        """
        trials = self.trials()
        queued = {trial.user_attrs.get("retry_of") for trial in trials}
        orphans = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._running.clear()
        for orphan in orphans:
            if "evaluation" in orphan.user_attrs:  # measured, but not yet told
                self._running[orphan.number] = optuna.Trial(self._handle, orphan._trial_id)
                self.finish(orphan.number, Evaluation.from_json(orphan.user_attrs["evaluation"]))
                continue
            # Queued before it is ended, so that no crash in between can lose it.
            if orphan.number not in queued:
                attributes = {"retry_of": orphan.number}
                if "candidate" in orphan.user_attrs:
                    attributes["seed"] = orphan.user_attrs["candidate"]["seed"]
                elif "seed" in orphan.user_attrs:
                    attributes["seed"] = orphan.user_attrs["seed"]
                fixed = orphan.system_attrs.get("fixed_params", {})
                self._handle.enqueue_trial({**fixed, **orphan.params}, user_attrs=attributes)
            self._handle.tell(orphan.number, state=TrialState.FAIL)
        return len(orphans)

    def _violations(
        self, found: Mapping[str, float], dense: Mapping[str, float]
    ) -> dict[str, float]:
        """By how much values break each bound that they speak of, by the bound's text."""
        return {
            bound.text: bound.violation(found, dense)
            for bound in self.config.study.bounds
            if bound.objective in found
        }

    def _end(self, trial: optuna.Trial, state: TrialState, outcome: str) -> None:
        trial.set_user_attr("status", outcome)
        self._handle.tell(trial, state=state)

    def _dense_values(self) -> Mapping[str, float]:
        if self.dense is None:
            raise StudyError(f"study {self.folder.name!r} has no dense baseline yet")
        return self.dense.values


def status(trial: FrozenTrial) -> str:
    """What came of a trial: a status of this module, or `running` or `waiting`."""
    if not trial.state.is_finished():
        return trial.state.name.lower()
    found: str = trial.user_attrs.get("status", _INTERRUPTED)
    return found


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps every hard bound, by its measured values."""
    return all(violation <= 0 for violation in trial.constraints.values())


def values(trial: FrozenTrial) -> dict[str, float]:
    """Everything that a complete trial measured, by objective."""
    return dict(trial.user_attrs["evaluation"]["values"])


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate of a trial."""
    return Candidate.from_json(trial.user_attrs["candidate"])


def _storage(folder: StudyFolder) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder.journal)))


def _sampler(config: StudyConfig, asked: int = 0) -> optuna.samplers.BaseSampler:
    """The configured sampler; a resumed study draws on from a seed of its own."""
    seed = _trial_seed(config.study.seed, -1 - asked)
    name, trials = config.study.sampler, config.study.trials
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(
            seed=seed, population_size=min(50, max(4, trials // 4))
        )
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(4, trials // 3)))


def _trial_seed(study_seed: int, number: int) -> int:
    """A seed that depends on nothing but study and trial."""
    return (study_seed * 1_000_003 + number * 7919 + 12_345) % (1 << 31)
