"""The study: an Optuna study on durable storage, and the only truth about a search.

A trial is a candidate. It is measured on one rung after the other (`StudyConfig.rungs`), each time
as a finalised integer network, and ends in one of these states (user attribute `status`):

    complete      measured on the last rung; COMPLETE with the objectives as values
    pruned        stopped after a rung with training; PRUNED, with what it measured there
    projected     stopped after a rung without training; PRUNED likewise
    failed        a diverging loss, a worker error; FAIL with its reason
    infeasible    breaks a hard bound by cost alone, or has no price; PRUNED, never measured
    interrupted   its driver went away; FAIL, and its parameters are queued again
    repeated      a front member once more, under another seed (`search.repeats`); COMPLETE

Complete, pruned and failed trials count against the budget; nothing is ever counted twice. What was
measured is true of the network that was measured, however little it was trained, so every trial
with measurements may be on the front. Once the budget is spent, the front's members are repeated
over `fidelity.seeds` and stand by their means, until every member of the front has been. Several
processes may drive one study: each trial belongs to one of them (`search.drivers`), and the budget
is taken under a lock.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hwmodel.errors import ConfigError, OutOfRangeError, StudyError
from hwmodel.records import differences, listed, merge_tables
from search.config import StudyConfig, read_config
from search.drivers import Driver, exclusive, has_company, is_alive
from search.evaluate import COMPLETE, FAILED, Evaluation
from search.folder import StudyFolder, study_names
from search.front import hypervolume
from search.ledger import Ledger
from search.objectives import ACCURACIES, direction
from search.refusals import Refusals
from search.repeats import REPEATED, Repeat, Spread, repeat_by
from search.rungs import goes_on
from search.samplers import make_sampler
from search.storage import load_study, make_storage
from search.trials import (
    INFEASIBLE,
    INTERRUPTED,
    MEASURED,
    PROJECTED,
    PRUNED,
    RUNG,
    candidate_of,
    root_of,
    rungs_of,
    status,
)
from spaces.candidate import Candidate
from spaces.space import Space

__all__ = [
    "FORMAT",
    "Proposal",
    "Study",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)

FORMAT = 1
_HEADER = "crossfront"
_DENSE = "dense"
_SPACE = "space"
_PROPOSALS_PER_SUGGESTION = 500
MATES = 250
"""Newest candidates of a rung that one is compared with; the time grows with their square. What is
lost is what older ones would say, among which those of a sampler that learns are the weaker."""
_OTHER_VERSION = "go on with the version that made it, or search anew under another name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate that is to be evaluated, for the first time or on its next rung."""

    number: int
    candidate: Candidate
    rung: int
    """Index in `StudyConfig.rungs`."""
    root: int
    """The trial whose files it goes on with: its own number, unless it was interrupted before."""


@dataclass(slots=True)
class _Open:
    """A trial of this driver that has not ended."""

    trial: optuna.Trial
    candidate: Candidate
    rung: int
    root: int
    scan: bool = False
    repeat: bool = False
    waiting: bool = False
    """Measured on its rung, which has too few candidates yet to say who goes on."""
    ready: bool = False
    """To be evaluated on its rung as soon as a worker is free."""


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
        # A resumed study draws on from a seed of its own.
        seed = _trial_seed(config.study.seed, -1 - len(handle.get_trials(deepcopy=False)))
        handle.sampler = make_sampler(config, seed, self.front)
        self.judge: Callable[[int], bool | None] = self._by_dominance
        """Whether a trial that keeps its bounds goes on to its next rung; None: it waits."""
        self._dense: Evaluation | None = None
        self._driver: Driver | None = None
        self._open: dict[int, _Open] = {}
        self._ledger = Ledger(
            config.study.objectives,
            lambda found: self._violations(found, self._dense_values()),
        )

    @classmethod
    def create(cls, folder: StudyFolder, config: StudyConfig) -> "Study":
        """A new study.

        Raises:
            StudyError: the name exists, or the storage cannot be written.
        """
        if folder.exists:
            there = cls.open(folder).config.to_json()
            differing = differences(there, config.to_json())
            raise StudyError(
                f"study {folder.name!r} exists in {str(folder.storage)!r}"
                + (f" with other settings ({listed(differing)})" if differing else "")
                + f"; go on with 'crossfront resume {folder.name}' (resume in Python)"
                + (", which keeps its own" if differing else "")
                + ", or choose another name with --name"
            )
        folder.make()
        try:
            handle = optuna.create_study(
                study_name=folder.name,
                storage=make_storage(folder, config.study.database),
                directions=[direction(name) for name in config.study.objectives],
            )
        except optuna.exceptions.DuplicatedStudyError:
            folder.database.unlink(missing_ok=True)
            raise StudyError(
                f"the database has a study {folder.name!r} already, made with another --storage; "
                "choose another name with --name"
            ) from None
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
        handle = load_study(folder)
        header = handle.user_attrs.get(_HEADER)
        if header is None:
            raise StudyError(
                f"study {folder.name!r} was never finished being made", f"delete {folder.path}"
            )
        if header.get("format") != FORMAT:
            raise StudyError(
                f"study {folder.name!r} has format {header.get('format')!r}; this version reads "
                f"{FORMAT}",
                _OTHER_VERSION,
            )
        try:
            config = read_config(header["config"])
        except ConfigError as error:
            raise StudyError(
                f"study {folder.name!r} has settings that this version does not know: {error}",
                _OTHER_VERSION,
            ) from None
        return cls(folder, handle, config)

    def reconfigure(self, overrides: Mapping[str, Mapping[str, Any]], *, keep: bool = True) -> None:
        """Replaces settings of the study, such as its budget.

        Args:
            overrides: values by section.
            keep: for good, and not for this process alone.

        Raises:
            ConfigError: an impossible setting.
        """
        self.config = read_config(merge_tables(self.config.to_json(), overrides))
        if not keep:
            return
        self._handle.set_user_attr(_HEADER, {"format": FORMAT, "config": self.config.to_json()})

    # Facts about the whole study.

    @property
    def dense(self) -> Evaluation | None:
        """The dense baseline, once it has been evaluated."""
        if self._dense is None:
            fields = self._handle.user_attrs.get(_DENSE)
            self._dense = None if fields is None else Evaluation.from_json(fields)
        return self._dense

    def set_dense(self, evaluation: Evaluation) -> None:
        """Records the dense baseline.

        Raises:
            StudyError: it measured something that is no number.
        """
        reason = _not_finite(evaluation.values)
        if reason is not None:
            raise StudyError(f"the dense baseline's {reason}")
        self._handle.set_user_attr(_DENSE, evaluation.to_json())
        self._dense = evaluation

    @property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point: dense costs, and accuracies a window below dense."""
        dense = self._dense_values()
        window = self.config.study.accuracy_window
        return {
            name: max(0.0, dense[name] - window) if name in ACCURACIES else dense[name]
            for name in self.config.study.objectives
        }

    def check_space(self, choices: Mapping[str, Sequence[Any]]) -> None:
        """Refuses a space other than the one that the study's candidates are from.

        Args:
            choices: of each dimension, by name.

        Raises:
            StudyError: naming the dimensions that differ.
        """
        here = {name: list(values) for name, values in choices.items()}
        there = self._handle.user_attrs.get(_SPACE)
        if there is None:
            self._handle.set_user_attr(_SPACE, here)
        elif there != here:
            raise StudyError(
                f"study {self.folder.name!r} was made with another space "
                f"({listed(differences(there, here))}); {_OTHER_VERSION}"
            )

    @property
    def choices(self) -> dict[str, list[Any]]:
        """What a trial's parameters choose from, by dimension; they are indices into it."""
        found: dict[str, list[Any]] = self._handle.user_attrs.get(_SPACE, {})
        return found

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

    def _read(self) -> list[FrozenTrial]:
        """All trials, after the ledger has taken in what is new; costs time for each trial."""
        return self._ledger.read(self.trials)

    def ended(self) -> list[FrozenTrial]:
        """Trials that are over, whatever came of them."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def unended(self) -> list[FrozenTrial]:
        """Trials that are queued or under way."""
        self._read()
        return list(self._ledger.unended)

    def checkpoint(self, trial: FrozenTrial) -> Path:
        """Where the integer network of a trial lies, as it was measured last."""
        return self.folder.checkpoint(root_of(trial))

    def counts(self) -> dict[str, int]:
        """Trials by what came of them, with the names of `crossfront pareto --json`."""
        self._read()
        names = (COMPLETE, PRUNED, FAILED, INFEASIBLE, PROJECTED)
        return {name: self._ledger.counts[name] for name in names}

    @property
    def spent(self) -> int:
        """Trials that count against the budget."""
        self._read()
        return self._ledger.spent

    @property
    def epochs(self) -> int:
        """Epochs that all trials together have trained."""
        self._read()
        return self._ledger.epochs

    def measured(self) -> list[FrozenTrial]:
        """Trials that may be on a front, repeats aside."""
        return [trial for trial in self.trials() if status(trial) in MEASURED]

    def front(self) -> list[FrozenTrial]:
        """Measured trials within all bounds that no other such trial dominates."""
        self._read()
        return self._ledger.members()

    def ranked_front(self) -> list[tuple[FrozenTrial, dict[str, float]]]:
        """The front's members and what they stand for, the most accurate first."""
        front = self.front()  # once: trials end meanwhile
        members = zip(front, self.all_means(front), strict=True)
        return sorted(members, key=lambda member: -member[1]["accuracy"])

    def hypervolume(self) -> float:
        """Share of the cube below the reference point that the front dominates."""
        if self.dense is None:
            return 0.0
        return hypervolume(self.front_means(), self.reference)

    def front_means(self) -> list[dict[str, float]]:
        """What each member of the front stands for, in the front's order."""
        self._read()
        return self._ledger.front_means()

    def repeats(self, trial: FrozenTrial) -> list[FrozenTrial]:
        """The repeats of a trial that have ended, failed ones included."""
        self._read()
        return self._ledger.repeats.get(trial.number, [])

    def spreads(self, trial: FrozenTrial) -> dict[str, Spread]:
        """What a measured trial came to over its seeds, by objective."""
        self._read()
        return self._ledger.spreads(trial)

    def means(self, trial: FrozenTrial) -> dict[str, float]:
        """What a measured trial stands for on the front: `values`, if it has no repeats."""
        self._read()
        return self._ledger.means(trial)

    def all_means(self, trials: Sequence[FrozenTrial]) -> list[dict[str, float]]:
        """What each of these trials stands for; the study is read once for all of them."""
        self._read()
        return [self._ledger.means(trial) for trial in trials]

    def violations(self, trial: FrozenTrial) -> Mapping[str, float]:
        """By how much an ended trial breaks each bound that it was held against, by its text."""
        if self.repeats(trial):
            return self._violations(self.means(trial), self._dense_values())
        return trial.constraints

    def resumable(self) -> list[FrozenTrial]:
        """Trials whose files a trial goes on with: under way, queued, or to be repeated again."""
        due = set(self._due())
        lost = [t for t in self.trials() if status(t) == INTERRUPTED] if due else []
        return [*self.unended(), *(trial for trial in lost if repeat_by(trial) in due)]

    # What the driver does.

    def enqueue(
        self,
        parameters: Sequence[dict[str, Any]],
        *,
        scan: bool = False,
        uniform: bool = False,
        source: str | None = None,
    ) -> None:
        """Queues parameters to be tried first.

        Args:
            parameters: of each candidate.
            scan: they are measured on the first rung only, and do not count.
            uniform: they prune every layer alike, as one would by hand.
            source: the study that they are from.
        """
        attributes: dict[str, Any] = {"scan": True} if scan else {}
        attributes |= {"uniform": True} if uniform else {}
        attributes |= {} if source is None else {"warm_start": source}
        for fixed in parameters:
            self._handle.enqueue_trial(fixed, user_attrs=attributes, skip_if_exists=True)

    def join(self) -> None:
        """Makes this process one of the study's drivers; `leave` ends that."""
        self._driver = Driver(self.folder.drivers)
        name = self._driver.name
        if has_company(self.folder.drivers, name):  # whose draws would be the same
            seed = self.config.study.seed + zlib.crc32(name.encode())
            self._handle.sampler = make_sampler(self.config, seed % (1 << 31), self.front)

    @property
    def driver(self) -> str | None:
        """The name of this process among the study's drivers, if it is one."""
        return None if self._driver is None else self._driver.name

    def leave(self) -> None:
        """Queues again what this driver has not ended, and drives no more."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None
            self.requeue_interrupted()

    def propose(
        self,
        space: Space,
        planned_costs: Callable[[Candidate], Mapping[str, float]],
        planned_dense: Mapping[str, float],
        suggest: Callable[[], dict[str, Any]] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Proposal | None:
        """What to evaluate next, or None while nothing is to be: see `over`.

        Candidates whose planned cost breaks a bound are recorded as infeasible on the way. Plans
        are worst cases, so a bound relative to dense compares them with the dense plan; what a
        trial measures is later compared with what dense measured.

        Args:
            space: where candidates come from.
            planned_costs: prices a candidate before training.
            planned_dense: the same for the dense network.
            suggest: gives the parameters of a new candidate (default: the study's sampler does).
            say: told while nothing but infeasible candidates is found.

        Raises:
            StudyError: hundreds of candidates in a row break the same bound.
            OutOfRangeError: as many cannot be priced under the ADC law.
        """
        refusals = Refusals()
        for _ in range(_PROPOSALS_PER_SUGGESTION):
            again = self._next_rung()
            if again is not None:
                return again
            trial = self._take(suggest)
            if trial is None:
                return self._next_rung(settle=True) or self._next_repeat()
            attributes = trial.user_attrs
            seed = attributes.get("seed", _trial_seed(self.config.study.seed, trial.number))
            candidate = space.suggest(trial, seed)
            trial.set_user_attr("candidate", candidate.to_json())
            rungs = rungs_of(attributes)
            if rungs > attributes.get("gone_on", 0):  # its driver left before it was judged
                self._open[trial.number] = _opened(trial, candidate, rungs - 1)
                self._settle(trial.number)
                continue
            try:
                planned = planned_costs(candidate)
            except OutOfRangeError as error:  # an ADC that the law does not know
                refusals.unpriced(error)
                self._refuse(trial, f"cannot be priced: {error}", refusals, say)
                continue
            violations = self._violations(planned, planned_dense)
            broken = [bound for bound, violation in violations.items() if violation > 0]
            if not broken:  # its constraints are written once, from what it measures
                self._open[trial.number] = _opened(trial, candidate, rungs)
                return self._proposal(trial.number)
            refusals.broke(violations)
            for bound, violation in violations.items():
                trial.set_constraint(bound, violation)
            self._refuse(trial, f"breaks {', '.join(broken)} before training", refusals, say)
        raise refusals.error()

    def _refuse(
        self, trial: optuna.Trial, reason: str, refusals: Refusals, say: Callable[[str], None]
    ) -> None:
        """Ends a candidate that is not trained."""
        trial.set_user_attr("reason", reason)
        self._end(trial, TrialState.PRUNED, INFEASIBLE)
        if refusals.news is not None:
            say(refusals.news)

    @property
    def over(self) -> bool:
        """Whether this driver has nothing left to do, now or later."""
        if self._open or self.exhausted is None or self._ledger.running:
            return False
        return self.settled

    @property
    def settled(self) -> bool:
        """Whether no repeat will change the front any more, though new candidates may."""
        if self.config.fidelity.seeds == 1:
            return True
        if self.exhausted is None or self._ledger.running or self._ledger.repeating:
            return False
        return not self._due()

    @property
    def exhausted(self) -> str | None:
        """Why no further candidates are asked for; None while they are."""
        self._read()
        return self._exhausted()

    def _exhausted(self) -> str | None:
        """The same, as the ledger was read last."""
        goal, spent = self.config.study, self._ledger.spent
        if spent >= goal.trials:
            return f"{spent} of {goal.trials} trials are spent (more: --max-trials)"
        if goal.epochs is not None and self._ledger.epochs >= goal.epochs:
            return f"{goal.epochs} epochs of training are spent (more: --max-epochs)"
        volumes = [] if goal.least_gain is None else self._ledger.volumes
        if goal.least_gain is not None and len(volumes) > goal.gain_trials:
            before, now = volumes[-1 - goal.gain_trials], volumes[-1]
            if now - before < goal.least_gain * before:
                return (
                    f"the hypervolume has grown by less than {goal.least_gain:g} of itself over "
                    f"{goal.gain_trials} trials (on all the same: --least-gain 0)"
                )
        return None

    def finish(self, number: int, evaluation: Evaluation) -> None:
        """Records what a trial measured on its rung, and decides what becomes of it."""
        reason = _not_finite(evaluation.values)
        if reason is not None:
            evaluation = Evaluation(status=FAILED, reason=reason, seconds=evaluation.seconds)
        found = self._open[number]
        if evaluation.status == FAILED:
            del self._open[number]
            found.trial.set_user_attr("evaluation", evaluation.to_json())
            found.trial.set_user_attr("reason", evaluation.reason)
            self._end(found.trial, TrialState.FAIL, FAILED)
            return
        found.trial.set_user_attr("evaluation", evaluation.to_json())
        row = {
            "epochs": evaluation.epochs,
            "values": dict(evaluation.values),
            "seconds": dict(evaluation.seconds),
        }
        found.trial.set_user_attr(f"{RUNG}{found.rung}", row)
        self._settle(number)

    def give_back(self, number: int, reason: str) -> None:
        """Queues a trial again whose worker was lost, as often as `ray.retries` allows."""
        trial = self.trials()[number]
        tries = trial.user_attrs.get("tries", 0)
        if tries >= self.config.ray.retries:
            self.finish(number, Evaluation(status=FAILED, reason=reason))
            return
        with exclusive(self.folder.budget_lock):
            del self._open[number]
            self._requeue(trial, set(), tries=tries + 1)

    def _settle(self, number: int, *, hurry: bool = False) -> None:
        """Ends a measured trial, sends it on, or lets it wait for more candidates on its rung."""
        found, rungs = self._open[number], self.config.rungs
        if found.repeat:
            self._close(number, REPEATED)
            return
        evaluation = found.trial.user_attrs["evaluation"]
        if found.rung == len(rungs) - 1 and not found.scan:
            self._close(number, COMPLETE)
            return
        # More training mends accuracy, but no cost.
        costs = {n: v for n, v in evaluation["values"].items() if n not in ACCURACIES}
        violations = self._violations(costs, self._dense_values())
        further: bool | None = not found.scan and all(v <= 0 for v in violations.values())
        if further:
            further = self.judge(number)
        if further is None and not hurry:
            found.waiting = True
        elif further is False:
            self._close(number, PRUNED if rungs[found.rung] > 0 else PROJECTED)
        else:
            found.trial.set_user_attr("gone_on", found.rung + 1)
            found.rung, found.waiting, found.ready = found.rung + 1, False, True

    def _by_dominance(self, number: int) -> bool | None:
        """Whether a trial goes on by the rule of `search.rungs`."""
        self._read()
        measured, mates, gone_on = self._ledger.on_rung(self._open[number].rung, number, MATES)
        return goes_on(
            measured,
            mates,
            self.config.study.objectives,
            self.config.fidelity.reduction,
            gone_on=gone_on,
        )

    def _close(self, number: int, outcome: str) -> None:
        """Ends a measured trial."""
        trial = self._open.pop(number).trial
        measured = trial.user_attrs["evaluation"]["values"]
        known = self._read()[number].constraints
        found = self._violations(measured, self._dense_values())
        for bound, violation in found.items():
            if bound not in known:
                trial.set_constraint(bound, violation)
        if outcome != REPEATED:
            points = self._ledger.front_means()
            if all(violation <= 0 for violation in {**found, **known}.values()):
                points.append(measured)
            trial.set_user_attr("hypervolume", hypervolume(points, self.reference))
        if outcome not in (COMPLETE, REPEATED):
            self._end(trial, TrialState.PRUNED, outcome)
            return
        trial.set_user_attr("status", outcome)
        self._handle.tell(trial, [measured[name] for name in self.config.study.objectives])

    def _next_rung(self, *, settle: bool = False) -> Proposal | None:
        """A trial of this driver that goes on to its next rung.

        Args:
            settle: nobody new will come, so those who wait are settled now.
        """
        for number, found in list(self._open.items()):
            if found.waiting:
                self._settle(number, hurry=settle)
        for number, found in list(self._open.items()):
            if found.ready:
                found.ready = False
                return self._proposal(number)
        return None

    def _proposal(self, number: int) -> Proposal:
        found = self._open[number]
        return Proposal(number=number, candidate=found.candidate, rung=found.rung, root=found.root)

    def _take(self, suggest: Callable[[], dict[str, Any]] | None) -> optuna.Trial | None:
        """A new trial, if the budget still has one."""
        with exclusive(self.folder.budget_lock):
            self._read()
            waiting = self._ledger.waiting()
            scan = bool(waiting) and waiting[0].user_attrs.get("scan", False)
            full = self._ledger.spent + self._ledger.running >= self.config.study.trials
            if not scan and (full or self._exhausted() is not None):
                return None
            if suggest is not None and not waiting:
                self._handle.enqueue_trial(suggest())
            trial = self._handle.ask()
            if self._driver is not None:
                trial.set_user_attr("driver", self._driver.name)
            return trial

    def _due(self) -> list[Repeat]:
        """The repeats that the front lacks, the first of each member first.

        None before the last candidate has ended, for the front may still change. What no training
        has touched is the same under any seed.
        """
        seeds = self.config.fidelity.seeds
        if seeds == 1 or self.exhausted is None or self._ledger.running:
            return []
        ended = {repeat_by(trial) for trials in self._ledger.repeats.values() for trial in trials}
        wanted = {
            Repeat(index, member.number)
            for member in self.front()
            if member.user_attrs["evaluation"]["epochs"] > 0
            for index in range(1, seeds)
        }
        return sorted(wanted - ended - self._ledger.repeating)

    def _next_repeat(self) -> Proposal | None:
        """A front member under a further seed; what an interrupted repeat left is gone on with."""
        with exclusive(self.folder.budget_lock):
            due = self._due()
            if not due:
                return None
            trials = self.trials()
            member = trials[due[0].member]
            seed = _trial_seed(self.config.study.seed, root_of(member), due[0].index)
            candidate = replace(candidate_of(member), seed=seed)
            attributes: dict[str, Any] = {
                **due[0].attributes(),
                "candidate": candidate.to_json(),
                "driver": self.driver,
            }
            for before in trials:
                if repeat_by(before) == due[0]:
                    attributes |= {"root": root_of(before)}
                    attributes |= {"tries": before.user_attrs.get("tries", 0)}
            self._handle.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=member.params,
                    distributions=member.distributions,
                    user_attrs=attributes,
                )
            )
            trial = next(t for t in reversed(self.trials()) if repeat_by(t) == due[0])
        handle = optuna.Trial(self._handle, trial._trial_id)
        rung = rungs_of(member.user_attrs) - 1
        self._open[trial.number] = _opened(handle, candidate, rung)
        return self._proposal(trial.number)

    def requeue_interrupted(self) -> int:
        """Ends running trials whose driver is gone and queues their parameters again.

        Returns:
            How many there were.
        """
        with exclusive(self.folder.budget_lock):
            trials = self.trials()
            queued = {trial.user_attrs.get("retry_of") for trial in trials}
            orphans = [t for t in trials if t.state == TrialState.RUNNING and self._orphaned(t)]
            for orphan in orphans:
                self._open.pop(orphan.number, None)
                self._requeue(orphan, queued)
        return len(orphans)

    def _orphaned(self, trial: FrozenTrial) -> bool:
        name = trial.user_attrs.get("driver")
        return name is None or not is_alive(self.folder.drivers, name)

    def _requeue(
        self, orphan: FrozenTrial, queued: set[int | None], tries: int | None = None
    ) -> None:
        known = orphan.user_attrs
        repeat, last = repeat_by(orphan) is not None, len(self.config.rungs) - 1
        scan = known.get("scan", False)
        measured = rungs_of(known) > 0 if repeat or scan else f"{RUNG}{last}" in known
        if measured:  # but not yet told
            handle = optuna.Trial(self._handle, orphan._trial_id)
            self._open[orphan.number] = _opened(handle, candidate_of(orphan), 0 if scan else last)
            self._settle(orphan.number)
            return
        if known.get("evaluation", {}).get("status") == FAILED:
            self._end(optuna.Trial(self._handle, orphan._trial_id), TrialState.FAIL, FAILED)
            return
        if repeat and tries is not None:
            optuna.Trial(self._handle, orphan._trial_id).set_user_attr("tries", tries)
        # Queued before it is ended, so that no crash in between can lose it.
        if not repeat and orphan.number not in queued:  # the front asks for repeats by itself
            kept = {k: v for k, v in known.items() if k.startswith(RUNG)}
            kept |= {
                k: known[k]
                for k in ("seed", "scan", "uniform", "evaluation", "tries", "gone_on")
                if k in known
            }
            kept |= {} if tries is None else {"tries": tries}
            if "candidate" in known:
                kept["seed"] = known["candidate"]["seed"]
            kept |= {"retry_of": orphan.number, "root": known.get("root", orphan.number)}
            fixed = orphan.system_attrs.get("fixed_params", {})
            self._handle.enqueue_trial({**fixed, **orphan.params}, user_attrs=kept)
        self._handle.tell(orphan.number, state=TrialState.FAIL)

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


def _opened(trial: optuna.Trial, candidate: Candidate, rung: int) -> _Open:
    """A trial that is this driver's from now on, on a rung."""
    attributes = trial.user_attrs
    return _Open(
        trial=trial,
        candidate=candidate,
        rung=rung,
        root=attributes.get("root", trial.number),
        scan=attributes.get("scan", False),
        repeat="repeat_of" in attributes,
    )


def _not_finite(found: Mapping[str, float]) -> str | None:
    """What is wrong with values of which one is no number."""
    for name, value in found.items():
        if not math.isfinite(value):
            return f"{name} is {value}; allowed: a finite number"
    return None


def _trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """A seed that depends on nothing but study, trial and repeat."""
    return (study_seed * 1_000_003 + number * 7919 + repeat * 104_729 + 12_345) % (1 << 31)
