"""An MLflow experiment as the mirror writes it: plain data in, no knowledge of a study.

Every method may be called again after it failed half-way, with the same arguments: what an earlier
call did is found and kept. MLflow's own retries are therefore switched off. They send `create_run`
a second time when only its answer was lost, and so make a second run.
"""

import json
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwmodel.errors import CheckpointError, TrackingError
from hwmodel.extras import need
from search.mlflow_models import drop_models, log_model, register_model
from search.urls import shown

__all__ = [
    "DataSplit",
    "MlflowStore",
    "TrialRun",
    "check_tracking",
    "is_refusal",
    "reason",
    "register",
]

_LOG = logging.getLogger(__name__)

_PARENT_TAG = "mlflow.parentRunId"
_TRIAL_TAG = "crossfront.trial"
_KEY_TAG = "crossfront.key"
_PARETO_TAG = "pareto"
_NOTE_TAG = "mlflow.note.content"
_SOURCE_TAGS = {"mlflow.source.name": "crossfront", "mlflow.source.type": "LOCAL"}
_CHECKPOINT_TAG = "crossfront.checkpoint"
_CHECKPOINT = "checkpoint"
_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_HTTP = ("http://", "https://")
_SQLITE = "sqlite"
_DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """What the run of one ended trial says."""

    number: int
    name: str
    ending: str
    """MLflow's word for how it ended: FINISHED, FAILED or KILLED."""
    start_ms: int | None
    end_ms: int
    pareto: bool
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSplit:
    """The images that runs were trained or tested on."""

    name: str
    digest: str
    source: str
    """Where they come from: a path, or the name of an embedded set."""
    context: str
    """`train` or `test`."""
    profile: str
    """JSON: how many images, of which shape."""


class MlflowStore:
    """One parent run and its children in an MLflow store.

    Not safe for threads: one thread at a time may use it.

    Args:
        uri: a server or a database; a local database is made here, before any worker.
        experiment: its name; made if it is not there.
        artifacts: where a new experiment in a database keeps files; a server knows a place.

    Raises:
        TrackingError: the store cannot be reached, or refuses the login.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str) -> None:
        self._uri = uri
        self._client = _connect(uri)
        found = self._client.get_experiment_by_name(experiment)
        place = artifacts if uri.startswith((_SQLITE, *_DATABASES)) else None
        self.experiment: str = (
            self._client.create_experiment(experiment, artifact_location=place)
            if found is None
            else found.experiment_id
        )
        self.parent = ""
        self.runs: dict[int, str] = {}
        """Run ids of mirrored trials, by number."""
        self.pareto: set[int] = set()
        """Trials whose run is tagged as on the front."""
        self.checkpoints: set[int] = set()
        """Trials whose run may carry a checkpoint."""
        self._whole: set[int] = set()
        self._begun: dict[int, str] = {}
        self._doubtful: set[int] = set()

    def open_parent(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        """Takes the parent run with a key, or makes one, and learns which children it has.

        Args:
            key: names the parent run and no other, whoever else uses the store.
            name: for people.
            tags: of a new run.

        Returns:
            The parent's run id.
        """
        found = self._search(f"tags.`{_KEY_TAG}` = '{key}'")
        run = next(found, None)
        if run is None:
            run = self._client.create_run(
                self.experiment, run_name=name, tags={**tags, **_SOURCE_TAGS, _KEY_TAG: key}
            )
        self.parent = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(self.parent, status="RUNNING")
        self.survey()
        return self.parent

    def survey(self) -> None:
        """Learns which children the store has, and deletes those that a lost answer doubled."""
        children = list(self._search(f"tags.`{_PARENT_TAG}` = '{self.parent}'"))
        for run in sorted(children, key=lambda run: run.info.status == "RUNNING"):
            number, run_id = int(run.data.tags[_TRIAL_TAG]), run.info.run_id
            if (self.runs | self._begun).get(number, run_id) != run_id:
                self._client.delete_run(run_id)
                continue
            if run.info.status == "RUNNING":  # a driver died while it wrote this run
                self._begun[number] = run_id
                continue
            self.runs[number] = run_id
            if run.data.tags.get(_PARETO_TAG) == "true":
                self.pareto.add(number)
            kept = run.data.tags.get(_CHECKPOINT_TAG)
            if kept in ("partly", "true"):
                self.checkpoints.add(number)
            if kept == "true":
                self._whole.add(number)

    def send(self, trial: TrialRun) -> None:
        """Writes the run of an ended trial, in three calls."""
        import mlflow

        run_id = self._begun.get(trial.number) or self._begin(trial)
        self._client.log_batch(
            run_id,
            # The time is the trial's, so that a metric sent twice is one value.
            metrics=[
                mlflow.entities.Metric(key, value, trial.end_ms, 0)
                for key, value in trial.metrics.items()
            ],
            params=[mlflow.entities.Param(key, value) for key, value in trial.params.items()],
        )
        self._client.set_terminated(run_id, trial.ending, end_time=trial.end_ms)
        self.runs[trial.number] = run_id
        self._begun.pop(trial.number, None)

    def set_pareto(self, number: int, on_front: bool) -> None:
        """Tags a trial's run as on the front, or off it."""
        if number in self.runs:
            self._client.set_tag(self.runs[number], _PARETO_TAG, str(on_front).lower())

    def log_metrics(self, number: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """Adds metrics to a trial's run, which has ended."""
        if number in self.runs:
            self._log(self.runs[number], metrics, time_ms)

    def keep_checkpoint(self, number: int, folder: Path) -> None:
        """Adds a trial's checkpoint to its run; one that is not there any more is left out."""
        if number in self._whole or number not in self.runs or not folder.is_dir():
            return
        self._client.set_tag(self.runs[number], _CHECKPOINT_TAG, "partly")
        self._client.log_artifacts(self.runs[number], str(folder), _CHECKPOINT)
        self._client.set_tag(self.runs[number], _CHECKPOINT_TAG, "true")
        self._whole.add(number)

    def drop_checkpoint(self, number: int) -> None:
        """Deletes the checkpoint of a trial's run, and its model unless that is registered."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        run = self._client.get_run(self.runs[number])
        drop_models(self._client, self._uri, run)
        uri = run.info.artifact_uri
        if self._client.list_artifacts(self.runs[number], _CHECKPOINT):
            get_artifact_repository(uri, tracking_uri=self._uri).delete_artifacts(_CHECKPOINT)
        self._client.set_tag(self.runs[number], _CHECKPOINT_TAG, "false")
        self._whole.discard(number)

    def keep_model(self, number: int, folder: Path, images: Any) -> None:
        """Adds a trial's network to its run as a model that MLflow can load.

        One that cannot be made is left out, and said: asking the store again is of no use.
        """
        if number not in self.runs or not folder.is_dir():
            return
        run = self._client.get_run(self.runs[number])
        try:
            log_model(self._client, run, folder, images)
        except CheckpointError as error:
            _LOG.warning("trial %d has no model in MLflow: %s", number, reason(error))

    def log_inputs(self, numbers: Iterable[int], splits: Iterable[DataSplit]) -> None:
        """Says what the parent run and these trials were trained and tested on."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=split.name,
                    digest=split.digest[:36],
                    source_type="local",
                    source=json.dumps({"uri": split.source}),
                    profile=split.profile,
                ),
                [InputTag("mlflow.data.context", split.context)],
            )
            for split in splits
        ]
        known = [self.runs[number] for number in numbers if number in self.runs]
        for run_id in (self.parent, *known):
            self._client.log_inputs(run_id, inputs)

    def set_note(self, text: str) -> None:
        """Writes the parent run's note; `[NUMBER](run)` becomes a link to that trial's run."""

        def link(found: re.Match[str]) -> str:
            run_id = self.runs.get(int(found[1]))
            place = f"#/experiments/{self.experiment}/runs/{run_id}"
            return found[1] if run_id is None else f"[{found[1]}]({place})"

        self._client.set_tag(self.parent, _NOTE_TAG, re.sub(r"\[(\d+)\]\(run\)", link, text))

    def log_summary(self, metrics: Mapping[str, float], time_ms: int) -> None:
        """Metrics of the parent run."""
        self._log(self.parent, metrics, time_ms)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Adds a file to the parent run, in a folder of its artifacts."""
        self._client.log_artifact(self.parent, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """Adds a text to the parent run, as a file."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_text(text)
            self.log_file(path)

    def end_parent(self, ending: str) -> None:
        """Ends the parent run: FINISHED, or KILLED."""
        self._client.set_terminated(self.parent, ending)

    def _log(self, run_id: str, metrics: Mapping[str, float], time_ms: int) -> None:
        import mlflow

        self._client.log_batch(
            run_id,
            metrics=[mlflow.entities.Metric(k, v, time_ms, 0) for k, v in metrics.items()],
        )

    def _begin(self, trial: TrialRun) -> str:
        """The trial's run: a new one, or one whose making was never answered."""
        run = None
        if trial.number in self._doubtful:
            own = f"tags.`{_TRIAL_TAG}` = '{trial.number}'"
            run = next(self._search(f"tags.`{_PARENT_TAG}` = '{self.parent}' and {own}"), None)
        self._doubtful.add(trial.number)
        if run is None:
            run = self._client.create_run(
                self.experiment,
                start_time=trial.start_ms,
                run_name=trial.name,
                tags={
                    **trial.tags,
                    **_SOURCE_TAGS,
                    _PARENT_TAG: self.parent,
                    _TRIAL_TAG: str(trial.number),
                    _PARETO_TAG: str(trial.pareto).lower(),
                },
            )
        self._begun[trial.number] = run.info.run_id
        self._doubtful.discard(trial.number)
        return str(run.info.run_id)

    def _search(self, query: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment], query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def check_tracking(uri: str | None) -> None:
    """Refuses a tracking server that does not answer; None stands for the local database.

    Raises:
        TrackingError: naming the server and what it said.
    """
    if uri is not None:
        _connect(uri)


def register(uri: str, run_id: str, name: str) -> int:
    """Makes the model of a trial's run the newest version of a registered model; returns it.

    Raises:
        TrackingError: a store that cannot be reached, a run without a model, or a refusal.
    """
    return register_model(_connect(uri), uri, run_id, name)


def is_refusal(error: BaseException) -> bool:
    """Whether the store has understood and said no, so that asking again is of no use."""
    import mlflow

    if not isinstance(error, mlflow.exceptions.MlflowException):
        return False
    code = int(error.get_http_status_code())
    return 400 <= code < 500 and code not in (401, 403, 408, 429)


def reason(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    text = shown(" ".join(str(error).split()))
    return text[:300] or type(error).__name__


def _connect(uri: str) -> Any:
    """A client of a store that answers and lets us in."""
    need("tracking", f"tracking store {shown(uri)}")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    # Standard output is ours, and each link costs two requests.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith(_HTTP):
        _check_health(uri)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if uri.startswith(_DATABASES):
            _check_database(uri)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(_refusal(uri, error)) from None
    return client


def _check_health(uri: str) -> None:
    """Refuses a server that is not there, sooner than MLflow's own client would."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # it answers; a server behind a login may refuse this page
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"tracking server {shown(uri)} cannot be reached ({reason(error)}); start it, or leave "
            "[mlflow] tracking_uri out to use a local database"
        ) from None


def _check_database(uri: str) -> None:
    """Fails at once where MLflow would try for minutes."""
    import sqlalchemy

    sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()


def _refusal(uri: str, error: Exception) -> str:
    """Why a store could not be opened, and what to do."""
    text = reason(getattr(error, "orig", error))  # SQLAlchemy's own text ends in a link
    if "401" in text or "not authenticated" in text:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        who = "a request without login" if user is None else f"the login of user {user!r}"
        return f"tracking server {shown(uri)} refuses {who}; set {_LOGIN}"
    if isinstance(error, ModuleNotFoundError):
        text += "; for PostgreSQL install crossfront[postgres] and write postgresql+psycopg://"
    return f"tracking store {shown(uri)}: {text}"
