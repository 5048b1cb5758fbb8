"""MLflow as the study's mirror: one parent run, one child run per trial, written by the driver.

`sync` compares the study with what has been mirrored and sends the difference, so a server that was
away, or a driver that was killed, costs nothing but delay.
"""

import json
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from hwmodel.errors import TrackingError
from search.environment import describe_environment
from search.evaluate import COMPLETE, FAILED
from search.objectives import COSTS
from search.study import Study, candidate_of, status
from spaces.candidate import Candidate

__all__ = ["MlflowMirror", "check_tracking", "mirrored_runs", "tracking_uri"]

_LOG = logging.getLogger(__name__)
_RETRY_S = 30.0
_PARENT_TAG = "mlflow.parentRunId"
_TRIAL_TAG = "crossfront.trial"
_STUDY_TAG = "crossfront.study"
_CHECKPOINT = "checkpoint"


def check_tracking(uri: str | None) -> None:
    """Refuses a tracking server that does not answer; None stands for the local database.

    Raises:
        TrackingError: naming the server and what it said.
    """
    if uri is not None:
        _connect(uri)


def tracking_uri(study: Study) -> str:
    """Where a study is mirrored: what its configuration says, or the storage's own database."""
    return study.config.mlflow.tracking_uri or study.folder.tracking_uri


class MlflowMirror:
    """Keeps an MLflow experiment in step with a study.

    Args:
        study: the study to mirror; only its driver may.

    Raises:
        TrackingError: the server cannot be reached.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.uri = tracking_uri(study)
        self._pareto: dict[int, bool] = {}
        self._runs: dict[int, str] = {}
        self._half: dict[int, str] = {}
        self._down_until = 0.0
        self._client = _connect(self.uri)
        try:
            self._experiment = self._open_experiment()
            self.parent = self._open_parent()
            self._find_runs()
        except Exception as error:
            raise TrackingError(f"tracking store {self.uri}: {_reason(error)}") from None

    def sync(self) -> bool:
        """Sends what the store does not have yet; a store that is away is tried again later.

        Returns:
            Whether the store now has everything.
        """
        if time.monotonic() < self._down_until:
            return False
        try:
            for trial in self.study.ended():
                if trial.number not in self._runs:
                    self._mirror(trial)
            self._move_pareto_tags()
        except Exception as error:
            self._down_until = time.monotonic() + _RETRY_S
            _LOG.warning(
                "tracking store %s: %s; the study keeps every result and sends it later",
                self.uri,
                _reason(error),
            )
            return False
        return True

    def finish(self, files: Mapping[str, Path], *, complete: bool) -> bool:
        """Brings everything up to date and closes the parent run.

        Args:
            files: artifacts for the parent run, by name.
            complete: whether the study has ended, or was interrupted.

        Returns:
            Whether the store has everything.
        """
        self._down_until = 0.0
        if not self.sync():
            return False
        try:
            self._keep_front_checkpoints()
            self._log_summary()
            for path in files.values():
                self._client.log_artifact(self.parent, str(path))
            self._log_text("config.toml", self.study.config.to_toml())
            self._log_text("environment.json", json.dumps(describe_environment(), indent=1))
            self._client.set_terminated(self.parent, "FINISHED" if complete else "KILLED")
        except Exception as error:
            _LOG.warning("tracking store %s: %s", self.uri, _reason(error))
            return False
        return True

    def _open_experiment(self) -> str:
        name = self.study.config.mlflow.experiment
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = self.study.config.mlflow.tracking_uri is None
        artifacts = self.study.folder.artifacts.as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _open_parent(self) -> str:
        """The study's parent run: the one that was noted, if this store has it, or a new one."""
        import mlflow

        noted = self.study.notes().get("mlflow_parent")
        store = self.study.config.mlflow.tracking_uri  # None: the storage's own, wherever it lies
        if noted is not None and noted["uri"] == store:
            try:
                self._client.update_run(noted["run_id"], status="RUNNING")
                return str(noted["run_id"])
            except mlflow.exceptions.MlflowException:
                _LOG.warning("tracking store %s has lost run %s", self.uri, noted["run_id"])
        config = self.study.config
        run = self._client.create_run(
            self._experiment,
            run_name=self.study.folder.name,
            tags={
                _STUDY_TAG: self.study.folder.name,
                "crossfront.objectives": ", ".join(config.study.objectives),
                "crossfront.law": config.hardware.law,
            },
        )
        run_id = str(run.info.run_id)
        self.study.note("mlflow_parent", {"uri": store, "run_id": run_id})
        return run_id

    def _find_runs(self) -> None:
        """Learns which trials the store has already."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.`{_PARENT_TAG}` = '{self.parent}'", page_token=token
            )
            for run in page:
                number = int(run.data.tags[_TRIAL_TAG])
                if run.info.status == "RUNNING":  # the driver died while it wrote this run
                    self._client.delete_run(run.info.run_id)
                    continue
                self._runs[number] = run.info.run_id
                self._pareto[number] = run.data.tags.get("pareto") == "true"
            token = page.token
            if not token:
                return

    def _mirror(self, trial: FrozenTrial) -> None:
        """Writes one ended trial as a child run; what an earlier attempt left half done goes."""
        import mlflow

        if trial.number in self._half:
            self._client.delete_run(self._half[trial.number])
            del self._half[trial.number]
        outcome = status(trial)
        tags = {
            _PARENT_TAG: self.parent,
            _TRIAL_TAG: str(trial.number),
            _STUDY_TAG: self.study.folder.name,
            "status": outcome,
            "pareto": "false",
        }
        if "reason" in trial.user_attrs:
            tags["reason"] = str(trial.user_attrs["reason"])[:5000]
        run = self._client.create_run(
            self._experiment,
            start_time=_ms(trial.datetime_start),
            run_name=f"{self.study.folder.name}-{trial.number:04d}",
            tags=tags,
        )
        run_id = run.info.run_id
        self._half[trial.number] = run_id
        evaluation = trial.user_attrs.get("evaluation", {})
        metrics = _metrics(evaluation.get("values", {}))
        if evaluation.get("adc_bits"):
            metrics["max_adc_bits"] = max(evaluation["adc_bits"].values())
        if "total" in evaluation.get("seconds", {}):
            metrics["seconds"] = evaluation["seconds"]["total"]
        params = _params(candidate_of(trial)) if "candidate" in trial.user_attrs else {}
        self._client.log_batch(
            run_id,
            metrics=_as_metrics(metrics),
            params=[mlflow.entities.Param(key, str(value)) for key, value in params.items()],
        )
        ending = {COMPLETE: "FINISHED", FAILED: "FAILED"}.get(outcome, "KILLED")
        self._client.set_terminated(run_id, ending, end_time=_ms(trial.datetime_complete))
        del self._half[trial.number]
        self._runs[trial.number] = run_id
        self._pareto[trial.number] = False
        self.study.note(f"run.{trial.number}", run_id)

    def _move_pareto_tags(self) -> None:
        """Sets the `pareto` tag of runs that joined or left the front."""
        front = {trial.number for trial in self.study.front()}
        for number, was in self._pareto.items():
            now = number in front
            if now != was:
                self._client.set_tag(self._runs[number], "pareto", str(now).lower())
                self._pareto[number] = now

    def _keep_front_checkpoints(self) -> None:
        """Front members carry their checkpoint as an artifact; runs that left it do not."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        front = {trial.number for trial in self.study.front()}
        for number, run_id in self._runs.items():
            has = bool(self._client.list_artifacts(run_id, _CHECKPOINT))
            folder = self.study.checkpoint(self.study.trials()[number])
            if number in front and not has and folder.is_dir():
                self._client.log_artifacts(run_id, str(folder), _CHECKPOINT)
            if number not in front and has:
                uri = self._client.get_run(run_id).info.artifact_uri
                get_artifact_repository(uri).delete_artifacts(_CHECKPOINT)

    def _log_summary(self) -> None:
        """The parent's few metrics: the dense baseline and the hypervolume."""
        dense = self.study.dense
        values = {} if dense is None else _metrics(dense.values)
        metrics = {f"dense_{key}": value for key, value in values.items()}
        metrics["hypervolume"] = self.study.hypervolume()
        self._client.log_batch(self.parent, metrics=_as_metrics(metrics))

    def _log_text(self, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_text(text)
            self._client.log_artifact(self.parent, str(path))


def _connect(uri: str) -> Any:
    """A client of a store that answers; the local database is made here, before any worker."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers; a server behind a login refuses this page
        except (OSError, ValueError) as error:
            raise TrackingError(
                f"tracking server {uri} cannot be reached ({_reason(error)}); start it, or leave "
                "[mlflow] tracking_uri out to use a local database"
            ) from None
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        raise TrackingError(f"tracking store {uri}: {_reason(error)}") from None


def mirrored_runs(study: Study) -> dict[int, str]:
    """MLflow run ids by trial number, as the driver noted them."""
    prefix = "run."
    notes = study.notes().items()
    return {int(k.removeprefix(prefix)): v for k, v in notes if k.startswith(prefix)}


def _metrics(values: Mapping[str, float]) -> dict[str, float]:
    """Objectives under names that carry their SI units."""
    return {COSTS.get(name, name): float(value) for name, value in values.items()}


def _as_metrics(values: Mapping[str, float]) -> list[Any]:
    import mlflow

    now = int(time.time() * 1000)
    return [mlflow.entities.Metric(key, value, now, 0) for key, value in values.items()]


def _params(candidate: Candidate) -> dict[str, Any]:
    """The candidate as flat parameters; settings that do not vary by layer once."""
    spec = candidate.plan.default
    params: dict[str, Any] = {
        "method": candidate.method,
        "seed": candidate.seed,
        "cell_bits": spec.cell_bits,
        "dac_bits": spec.dac_bits,
    }
    if not candidate.plan.per_layer:
        params |= {"wordlines": spec.wordlines, "bitlines": spec.bitlines}
    for name, own in candidate.plan.per_layer.items():
        params |= {f"{name}.wordlines": own.wordlines, f"{name}.bitlines": own.bitlines}
    for name, setting in candidate.layers.items():
        params[f"{name}.nonzeros"] = setting.nonzeros
        params[f"{name}.kept_shapes"] = setting.kept_shapes
        params[f"{name}.kept_filters"] = setting.kept_filters
    return params


def _ms(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
