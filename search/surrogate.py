"""A sampler for many layers: a model of accuracy alone, and the exact cost model.

Costs are analytic, so the only unknown of a candidate is its accuracy. It is predicted in two
steps, each a Gaussian process over a handful of features however many layers there are:

1. of the candidate projected without training, from a scan: what each layer's strength costs alone
   (interpolated and summed), and how much all layers keep;
2. of the candidate trained for so many epochs, none included, from the same and from step 1, or
   from the projection's measurement where there is one. The dense network is known to it.

Both predict the logarithm of the error. Among candidates drawn evenly and candidates near the
front, the one with the largest expected hypervolume improvement is proposed; candidates under way
count as if they had reached their prediction. A measured candidate goes on to its next rung if it
still promises a fair share of what a new one would. With one uncertain objective the expectation is
a one-dimensional integral over the accuracy, exact but for its grid.

Source: expected hypervolume improvement as in Emmerich et al., 2011; the additive scan is ours.
"""

import math
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import OutOfRangeError
from hwmodel.geometry import LayerShape
from search.endings import Endings
from search.evaluate import Problem
from search.front import scaled
from search.objectives import COSTS
from search.study import Study
from search.trials import INTERRUPTED, PROJECTED, RUNG, candidate_of, is_feasible, status, values
from spaces.candidate import Candidate, LayerSetting
from spaces.space import Drawn, Space
from spaces.strength import KINDS, log_strengths

__all__ = ["SurrogateSampler", "expected_improvement"]

Array = NDArray[np.float64]

_Where = tuple[str, str]
"""A layer and what is asked of it."""

_Key = tuple[tuple[str, Any], ...]
"""A candidate's parameters."""

_LEAST_ROWS = 5
"""Candidates measured before the model is trusted with the next."""
_MOST_ROWS = 250
"""Newest measurements that the model learns from; its time grows with their cube."""
_FITTED_ROWS = 120
"""Measurements, evenly spaced, that length scales and noise are fitted to; a fit takes dozens of
steps, each of which grows like their square, while all rows are taken in by one step more."""
_GRID = 65
_LEAST_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """One measurement of a candidate."""

    candidate: Candidate
    epochs: int
    log_error: float
    projected: float | None
    """The log error of the same candidate without training, where it was measured."""


class _Measurements:
    """What trials say about accuracy and costs.

    Args:
        costs: how many there are.
    """

    def __init__(self, costs: int) -> None:
        self.rows = deque[_Row](maxlen=_MOST_ROWS)
        """The newest."""
        self.overrated = np.zeros(costs)
        """The sum over trials of the logarithm of each measured cost over the planned one."""
        self.trials = 0

    def copy(self) -> "_Measurements":
        """The same, to be added to."""
        other = _Measurements(len(self.overrated))
        other.rows.extend(self.rows)
        other.overrated += self.overrated
        other.trials = self.trials
        return other


class _View(NamedTuple):
    """What a study says when it is looked at."""

    rows: list[_Row]
    """What candidates measured on their rungs."""
    ratios: dict[str, float]
    """By how much plans overrate each cost, measured over planned."""
    known: set[_Key]
    """The parameters of all trials."""
    running: list[FrozenTrial]
    """Candidates under way or queued, those of the scan aside."""


class SurrogateSampler:
    """Proposes parameters for a study's next candidate.

    Args:
        study: with its dense baseline; its objectives hold `accuracy` and at least one cost.
        space: where candidates come from.
        problem: prices candidates before training.
        pool: candidates to choose from, each time.
    """

    def __init__(self, study: Study, space: Space, problem: Problem, *, pool: int = 400) -> None:
        self.study = study
        self.space = space
        self.problem = problem
        self.pool = pool
        self._costs = [name for name in study.config.study.objectives if name in COSTS]
        self._planned: dict[int, dict[str, float]] = {}
        """Costs of the trials under way, by number."""
        self._endings = Endings()
        self._known: set[_Key] = set()
        """The parameters of all trials."""
        self._ended = _Measurements(len(self._costs))
        self._scan: list[_Row] = []
        self._looking = threading.Lock()  # a driver proposes and judges in different threads
        self._planned_dense = problem.planned_dense()
        threading.Thread(target=_import_libraries, name="imports", daemon=True).start()

    def __call__(self) -> dict[str, Any]:
        """Parameters worth evaluating next."""
        random = Random(f"{self.study.config.study.seed} {len(self.study.trials())}")
        view = self._look()
        if len(view.rows) < _LEAST_ROWS:
            return self._draw(random)[0]
        drawn, costs = self._pool(random, self.pool, view)
        if not drawn:
            return self._draw(random)[0]
        gains = self._gains([candidate for _, candidate in drawn], costs, view)
        return drawn[int(np.argmax(gains))][0]

    def goes_on(self, number: int) -> bool | None:
        """Whether a trial, as it was measured last, is worth its next rung; None: not known yet.

        It is if it promises no less than one in `fidelity.reduction` of what the best of a few new
        candidates does: those cost a projection to look at, and the rung costs epochs.
        """
        view = self._look()
        if len(view.rows) < _LEAST_ROWS:
            return None
        trial = self.study.trials()[number]
        random = Random(f"{self.study.config.study.seed} {number} {len(view.rows)}")
        drawn, costs = self._pool(random, self.pool // 4, view)
        if not drawn:
            return True
        reference = self.study.reference
        own = [scaled(values(trial), reference, name) for name in self._costs]
        candidates = [candidate_of(trial), *(candidate for _, candidate in drawn)]
        others = [other for other in view.running if other.number != number]
        gains = self._gains(candidates, np.vstack([own, costs]), view._replace(running=others))
        return bool(gains[0] * self.study.config.fidelity.reduction >= gains[1:].max())

    def _pool(
        self, random: Random, size: int, view: _View
    ) -> tuple[list[tuple[dict[str, Any], Candidate]], Array]:
        """New candidates within all bounds, drawn evenly or near the front, and their costs."""
        known = set(view.known)
        parents = [trial.params for trial in self.study.front()]
        drawn, costs = [], []
        for index in range(size):
            parent = parents[index % len(parents)] if parents and index % 3 else None
            parameters, candidate = self._draw(random, parent)
            if _key(parameters) in known:
                continue
            known.add(_key(parameters))
            try:
                planned = self.problem.planned_costs(candidate)
            except OutOfRangeError:  # an ADC that the law does not know
                continue
            if self._keeps_bounds(planned):
                drawn.append((parameters, candidate))
                costs.append(self._scaled(planned, view.ratios))
        return drawn, np.array(costs)

    def _gains(self, candidates: Sequence[Candidate], costs: Array, view: _View) -> Array:
        """The expected hypervolume improvement of each candidate, once trained in full.

        Args:
            candidates: `[points]`.
            costs: expected of each, over the reference's, `[points, costs]`.
            view: of the study.
        """
        model = _Accuracy(view.rows, self.problem.shapes, self._dense_log_error(), self._scan)
        epochs = self.study.config.rungs[-1]
        reference = self.study.reference
        worst = max(1 - reference["accuracy"], _LEAST_ERROR)
        mean, spread = model.predict(candidates, epochs)
        front = self.study.front_means()
        names = ["accuracy", *self._costs]
        points = [[scaled(found, reference, name) for name in names] for found in front]
        if view.running:  # as if they had reached what is expected of them
            expected, _ = model.predict([candidate_of(trial) for trial in view.running], epochs)
            for trial, log_error in zip(view.running, expected, strict=True):
                point = [math.exp(log_error) / worst]
                points.append(point + self._scaled(self._plan(trial), view.ratios))
        return expected_improvement(np.array(points), mean - math.log(worst), spread, costs)

    def _draw(
        self, random: Random, parent: Mapping[str, int] | None = None
    ) -> tuple[dict[str, Any], Candidate]:
        few = 2.0 / len(parent) if parent else 0.0
        drawn = Drawn(random, parent, change=max(few, 0.1))
        candidate = self.space.suggest(drawn, seed=0)
        return drawn.parameters, candidate

    def _keeps_bounds(self, costs: Mapping[str, float]) -> bool:
        bounds = [b for b in self.study.config.study.bounds if b.objective in costs]
        return all(bound.violation(costs, self._planned_dense) <= 0 for bound in bounds)

    def _plan(self, trial: FrozenTrial) -> dict[str, float]:
        found = self._planned.get(trial.number)
        if found is None:
            found = self.problem.planned_costs(candidate_of(trial))
            self._planned[trial.number] = found
        return found

    def _scaled(self, planned: Mapping[str, float], ratios: Mapping[str, float]) -> list[float]:
        """The costs that are expected of a plan, over the reference's."""
        reference = self.study.reference
        expected = {name: planned[name] * ratios[name] for name in self._costs}
        return [scaled(expected, reference, name) for name in self._costs]

    def _dense_log_error(self) -> float:
        dense = self.study.dense
        assert dense is not None  # a study that is searched has its baseline
        return _log_error(dense.values["accuracy"])

    def _look(self) -> _View:
        """The study as it is now; what has ended is taken in once."""
        with self._looking:
            for trial in self._endings.look(self.study.trials()):
                self._known.add(_key(trial.params))
                self._take_in(trial, self._ended)
                self._planned.pop(trial.number, None)
                if trial.user_attrs.get("scan"):
                    self._scan += self._scanned(trial)
            found, unended = self._ended.copy(), self._endings.unended
            running = [  # without retries that nobody has taken yet, which have no candidate
                trial
                for trial in unended
                if "candidate" in trial.user_attrs and not trial.user_attrs.get("scan")
            ]
            for trial in running:
                self._take_in(trial, found)
            known = self._known | {_key(trial.params) for trial in unended}
        mean = found.overrated / max(found.trials, 1)
        return _View(
            rows=list(found.rows),
            ratios={n: math.exp(m) for n, m in zip(self._costs, mean, strict=True)},
            known=known,
            running=running,
        )

    def _take_in(self, trial: FrozenTrial, found: "_Measurements") -> None:
        """What a trial measured on its rungs; nothing if it is of the scan or was interrupted."""
        if trial.user_attrs.get("scan") or status(trial) == INTERRUPTED:
            return
        rungs = [trial.user_attrs.get(f"{RUNG}{r}") for r in range(len(self.study.config.rungs))]
        measured = [row for row in rungs if row is not None]
        if not measured:
            return
        candidate = candidate_of(trial)
        first, last = measured[0], measured[-1]["values"]
        projected = _log_error(first["values"]["accuracy"]) if first["epochs"] == 0 else None
        found.rows += [
            _Row(
                candidate=candidate,
                epochs=row["epochs"],
                log_error=_log_error(row["values"]["accuracy"]),
                projected=projected,
            )
            for row in measured
        ]
        planned = self._plan(trial)
        found.overrated += [math.log(last[name] / planned[name]) for name in self._costs]
        found.trials += 1

    def _scanned(self, trial: FrozenTrial) -> list[_Row]:
        """What a candidate of the scan measured, if it did and keeps all bounds."""
        if status(trial) != PROJECTED or not is_feasible(trial):
            return []
        log_error = _log_error(values(trial)["accuracy"])
        return [_Row(candidate=candidate_of(trial), epochs=0, log_error=log_error, projected=None)]


class _Accuracy:
    """The two-step model of log errors.

    Args:
        rows: of candidates.
        shapes: the network's layers.
        dense: the dense network's log error.
        scan: of the scan's candidates.
    """

    def __init__(
        self,
        rows: Sequence[_Row],
        shapes: Mapping[str, LayerShape],
        dense: float,
        scan: Sequence[_Row],
    ) -> None:
        self._shapes = shapes
        self._scan = _Scan(scan, shapes)
        projected = [row for row in (*rows, *scan) if row.epochs == 0]
        self._projection = (
            _Process(
                self._features([row.candidate for row in projected]),
                np.array([row.log_error for row in projected]),
            )
            if len(projected) >= _LEAST_ROWS
            else None
        )
        known = [*rows, *_anchors(rows, shapes, dense)]
        self._training = _Process(
            self._trained_features(
                [row.candidate for row in known],
                [row.epochs for row in known],
                [row.projected for row in known],
            ),
            np.array([row.log_error for row in known]),
        )

    def predict(self, candidates: Sequence[Candidate], epochs: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the log errors after training."""
        blank: list[float | None] = [None] * len(candidates)
        features = self._trained_features(candidates, [epochs] * len(candidates), blank)
        return self._training.predict(features)

    def _features(self, candidates: Sequence[Candidate]) -> Array:
        """What the scan adds up to, and how much layers keep: mean and least of each kind."""
        weights = np.array([float(s.rows * s.outputs) for s in self._shapes.values()])
        kept = [log_strengths(candidate, self._shapes) for candidate in candidates]
        strengths = np.array([list(one.values()) for one in kept])
        by_layer = strengths.reshape(len(candidates), len(self._shapes), len(KINDS))
        scanned = [self._scan.predict(*pair) for pair in zip(candidates, kept, strict=True)]
        return np.column_stack(
            [
                np.array(scanned),
                np.einsum("nlk,l->nk", by_layer, weights / weights.sum()),
                by_layer.mean(axis=1),
                by_layer.sum(axis=2).min(axis=1, initial=0.0),
            ]
        )

    def _trained_features(
        self,
        candidates: Sequence[Candidate],
        epochs: Sequence[int],
        projected: Sequence[float | None],
    ) -> Array:
        base = self._features(candidates)
        columns = [base, np.log2(1.0 + np.array(epochs, dtype=float))[:, None]]
        if self._projection is not None and len(candidates):
            mean, _ = self._projection.predict(base)
            known = [m if p is None else p for m, p in zip(mean, projected, strict=True)]
            columns.append(np.array(known)[:, None])
        return np.hstack(columns)


class _Scan:
    """What each layer's strength alone adds to the log error, on each crossbar that was scanned.

    The rises of a crossbar are above its own mildest candidate, whose own rise above that of the
    first crossbar comes on top. A layer is looked up on the scanned crossbar nearest to its own.

    Args:
        rows: of the scan's candidates, those of one method and crossbar after the other.
        shapes: the network's layers.
    """

    def __init__(self, rows: Sequence[_Row], shapes: Mapping[str, LayerShape]) -> None:
        self._layers = list(shapes)
        self._curves: dict[_Where, dict[CrossbarSpec, tuple[Array, Array]]] = {}
        self._rises: dict[CrossbarSpec, float] = {}
        groups: dict[tuple[str, CrossbarSpec], list[_Row]] = {}
        for row in rows:
            groups.setdefault((row.candidate.method, row.candidate.plan.default), []).append(row)
        firsts: dict[str, float] = {}
        for (method, spec), group in groups.items():
            kept = [log_strengths(row.candidate, shapes) for row in group]
            mildest = max(range(len(group)), key=lambda index: sum(kept[index].values()))
            least = group[mildest].log_error
            first = firsts.setdefault(method, least)
            self._rises.setdefault(spec, least - first)
            rises = [row.log_error - least for row in group]
            for where, points in _single_changes(kept, kept[mildest], rises).items():
                strengths = sorted(points)
                curve = np.array(strengths), np.array([points[s] for s in strengths])
                self._curves.setdefault(where, {})[spec] = curve

    def predict(self, candidate: Candidate, kept: Mapping[_Where, float]) -> float:
        """The sum of what the strengths of a candidate, `kept`, and its crossbars add."""
        total = 0.0
        for where, curves in self._curves.items():
            strengths, rises = curves[_nearest(candidate.plan[where[0]], curves)]
            total += float(np.interp(kept[where], strengths, rises))
        if self._rises:
            own = [self._rises[_nearest(candidate.plan[n], self._rises)] for n in self._layers]
            total += sum(own) / len(own)
        return total


class _Process:
    """A Gaussian process on standardised features, with noise.

    Args:
        features: `[rows, features]`.
        targets: `[rows]`; two or more.
    """

    def __init__(self, features: Array, targets: Array) -> None:
        self._prior = float(targets.mean())
        spread = features.std(axis=0)
        self._used = spread > 1e-9
        self._centre, self._scale = features.mean(axis=0)[self._used], spread[self._used]
        self._spread = float(targets.std())
        if not self._used.any():  # all candidates look alike to it
            return
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        width = np.ones(int(self._used.sum()))
        kernel = ConstantKernel(0.5, (1e-3, 1e2)) * Matern(
            2.0 * width, (0.2, 50.0), nu=2.5
        ) + WhiteKernel(0.01, (1e-5, 1.0))
        few = np.linspace(0, len(targets) - 1, min(len(targets), _FITTED_ROWS)).astype(int)
        # A length scale at its limit is an answer, too; `catch_warnings` is for one thread only.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        known, wanted = self._standard(features), targets - self._prior
        with _one_thread():
            fitted = GaussianProcessRegressor(kernel, random_state=0).fit(known[few], wanted[few])
            self._process: Any = fitted
            if len(few) < len(targets):
                self._process = GaussianProcessRegressor(fitted.kernel_, optimizer=None)
                self._process.fit(known, wanted)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, `[rows]` each."""
        if not self._used.any():
            return np.full(len(features), self._prior), np.full(len(features), self._spread + 1e-6)
        with _one_thread():
            mean, spread = self._process.predict(self._standard(features), return_std=True)
        return mean + self._prior, np.maximum(spread, 1e-6)

    def _standard(self, features: Array) -> Array:
        return np.asarray((features[:, self._used] - self._centre) / self._scale)


def _import_libraries() -> None:
    """Takes seconds, in which the first trials train; later, workers would wait for a proposal."""
    for name in ("scipy.special", "sklearn.gaussian_process"):
        import_module(name)


def _one_thread() -> AbstractContextManager[Any]:
    """Small matrices gain nothing by more threads, and would wait for those that hold no core."""
    limiter: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limiter


@cache
def _libraries() -> ThreadpoolController:
    """What is loaded once the regression's library is; to look for it takes milliseconds."""
    return ThreadpoolController()


def expected_improvement(front: Array, mean: Array, spread: Array, costs: Array) -> Array:
    """The expected gain in hypervolume of points whose first coordinate is uncertain.

    All coordinates are losses, scaled so that the reference point is 1 in each.

    Args:
        front: `[members, 1 + costs]`; members beyond the reference do not matter.
        mean: of the logarithm of each point's first coordinate, normal, `[points]`.
        spread: its standard deviation, `[points]`.
        costs: the other coordinates, `[points, costs]`.

    Returns:
        The expectation, `[points]`.
    """
    from scipy.special import ndtr

    inside = front[(front < 1).all(axis=1)] if len(front) else front.reshape(0, costs.shape[1] + 1)
    inside = inside[np.argsort(inside[:, 0])]
    levels = np.concatenate([[0.0], inside[:, 0], [1.0]])
    grid = np.linspace(levels[:-1], levels[1:], _GRID, axis=1)  # [steps, grid]
    logs = np.log(np.maximum(grid, _LEAST_ERROR))
    gains = np.zeros(len(costs))
    for step in range(len(grid)):
        free = _free(inside[:step, 1:], costs)
        reached = ndtr((logs[step] - mean[:, None]) / spread[:, None])
        gains += free * np.trapezoid(reached, grid[step], axis=1)
    return gains


def _free(members: Array, corners: Array) -> Array:
    """The volume between each corner and 1 that no member dominates.

    Args:
        members: `[members, costs]`.
        corners: `[points, costs]`.

    Returns:
        The volumes, `[points]`.
    """
    first = corners[:, 0]
    if corners.shape[1] == 1:
        return np.asarray(np.maximum(members[:, 0].min(initial=1.0) - first, 0.0))
    members = members[np.argsort(members[:, 0])]
    edges = [0.0, *members[:, 0], 1.0]
    total = np.zeros(len(corners))
    for count in range(len(members) + 1):  # slabs, each with so many members below it
        widths = np.maximum(edges[count + 1] - np.maximum(edges[count], first), 0.0)
        if widths.any():
            total += widths * _free(members[:count, 1:], corners[:, 1:])
    return total


def _single_changes(
    kept: Sequence[Mapping[_Where, float]], mildest: Mapping[_Where, float], rises: Sequence[float]
) -> dict[_Where, dict[float, float]]:
    """Rises by strength, of each strength that some candidate alone has other than the mildest."""
    points: dict[_Where, dict[float, float]] = {}
    for strengths, rise in zip(kept, rises, strict=True):
        changed = [where for where in strengths if strengths[where] != mildest[where]]
        if len(changed) == 1:
            (where,) = changed
            own = points.setdefault(where, {0.0: 0.0, mildest[where]: 0.0})
            own[strengths[where]] = max(0.0, rise)
    return points


def _nearest(spec: CrossbarSpec, scanned: Iterable[CrossbarSpec]) -> CrossbarSpec:
    """The scanned crossbar whose size is nearest, in powers of two; of equals, the first."""

    def distance(other: CrossbarSpec) -> float:
        heights, widths = other.wordlines / spec.wordlines, other.bitlines / spec.bitlines
        return abs(math.log2(heights)) + abs(math.log2(widths))

    return min(scanned, key=distance)


def _anchors(rows: Sequence[_Row], shapes: Mapping[str, LayerShape], dense: float) -> list[_Row]:
    """The dense network, which no training changes, on each crossbar and after each rung."""
    known = {(row.candidate.plan.default, row.epochs): row.candidate for row in rows}
    return [
        _Row(
            candidate=replace(candidate, layers=dict.fromkeys(shapes, LayerSetting())),
            epochs=epochs,
            log_error=dense,
            projected=dense,
        )
        for (_, epochs), candidate in known.items()
    ]


def _key(parameters: Mapping[str, Any]) -> _Key:
    return tuple(sorted(parameters.items()))


def _log_error(accuracy: float) -> float:
    return math.log(max(1.0 - accuracy, _LEAST_ERROR))
