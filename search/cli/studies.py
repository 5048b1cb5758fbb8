"""Commands about studies: search, resume, pareto, export, ui."""

import json
import os
import socket
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodel.errors import ConfigError
from hwmodel.extras import hint, missing, need
from search.cli.messages import print_json, say
from search.cli.options import LAWS, RULES, Force, Json, Quiet, completes, given, studies
from search.folder import DEFAULT_STORAGE

if TYPE_CHECKING:
    from search.study import Study

__all__ = ["COMMANDS"]

_PORT = 5000


StudyName = Annotated[
    str,
    typer.Argument(help="The study.", autocompletion=studies),
]
Storage = Annotated[Path, typer.Option(help="Folder of all studies.")]
MaxTrials = Annotated[int | None, typer.Option(help="Candidates to evaluate.")]
MaxEpochs = Annotated[int | None, typer.Option(help="Epochs of training to spend in all.")]
LeastGain = Annotated[
    float | None, typer.Option(help="Stop when the hypervolume's relative gain falls below this.")
]
TimeBudget = Annotated[
    float | None, typer.Option(help="Seconds to search; trials under way are queued again.")
]
Seeds = Annotated[
    int | None, typer.Option(help="Train the front under so many seeds once it is found.")
]
TrackingUri = Annotated[str | None, typer.Option(help="An MLflow server or database.")]
Workers = Annotated[int | None, typer.Option(help="Trials at a time.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster; auto: this machine's; local: none.",
        autocompletion=completes(lambda: ("auto", "local")),
    ),
]


def search(
    config: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    max_trials: MaxTrials = None,
    max_epochs: MaxEpochs = None,
    least_gain: LeastGain = None,
    time_budget: TimeBudget = None,
    seeds: Seeds = None,
    workers: Workers = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    quiet: Quiet = False,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            help="A study whose front is tried first; may be repeated.", autocompletion=studies
        ),
    ] = None,
    show_config: Annotated[bool, typer.Option(help="Print every setting and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study: crossfront search examples/lenet5.toml."""
    from search.config import load_config

    overrides = {
        "study": given(
            name=name,
            trials=max_trials,
            epochs=max_epochs,
            least_gain=least_gain,
            time_budget_s=time_budget,
            warm_start=warm_start or None,
        ),
        "fidelity": given(seeds=seeds),
        "ray": given(workers=workers, address=address),
        "mlflow": given(tracking_uri=tracking_uri),
    }
    settings = load_config(config, overrides)
    if show_config:
        print(settings.to_toml(), end="")
        for setting in settings.unset():
            print(f"# not set: {setting}")
        return
    from search.api import create_study

    _drive(create_study(settings, storage), {}, quiet=quiet, as_json=as_json)


def resume(
    name: StudyName,
    max_trials: MaxTrials = None,
    max_epochs: MaxEpochs = None,
    least_gain: LeastGain = None,
    time_budget: TimeBudget = None,
    seeds: Seeds = None,
    workers: Workers = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted study, or extend it: crossfront resume lenet5 --max-trials 48."""
    from search.api import open_study

    study = open_study(name, storage)
    overrides = {
        "study": given(
            trials=max_trials, epochs=max_epochs, least_gain=least_gain, time_budget_s=time_budget
        ),
        "fidelity": given(seeds=seeds),
        "ray": given(workers=workers, address=address),
        "mlflow": given(tracking_uri=tracking_uri),
    }
    _drive(study, overrides, quiet=quiet, as_json=as_json)


def pareto(
    name: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    under: Annotated[
        str | None,
        typer.Option(
            help="Price it anew under another ADC law.", autocompletion=completes(lambda: LAWS)
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it to this file, SVG or PNG, too.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print the front of a study, finished or running: crossfront pareto lenet5 --under pow2."""
    from search.cli.output import print_rescored, print_summary
    from search.cli.progress import progress_bars
    from search.folder import StudyFolder
    from search.report import draw_front, pareto_json
    from search.rescore import rescore
    from search.study import Study

    study = Study.open(StudyFolder(storage, name))
    rescored = None
    if under is not None:
        with progress_bars(quiet=quiet or as_json):
            rescored = rescore(study, under)
    if plot is not None:
        draw_front(study, plot, rescored)
    if as_json:
        print_json(pareto_json(study, rescored))
    elif rescored is not None:
        print_rescored(study, rescored)
    else:
        print_summary(study, None, quiet=quiet)


def export(
    name: StudyName,
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    select: Annotated[
        str,
        typer.Option(
            help="knee, an objective, a trial's number, or e.g. 'accuracy>=0.88,min:area'.",
            autocompletion=completes(lambda: RULES),
        ),
    ] = "knee",
    storage: Storage = DEFAULT_STORAGE,
    samples: Annotated[int, typer.Option(help="Test images that travel along.", min=1)] = 2000,
    register: Annotated[
        str | None, typer.Option(help="Also make it a version of this registered MLflow model.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Export a front member: crossfront export lenet5 --select knee --to out/."""
    from search.api import export as export_member
    from search.api import open_study
    from search.cli.progress import progress_bars
    from search.tracking import register_member
    from search.trials import values

    if register is not None:
        need("tracking", "--register")
        if not register.strip():
            raise ConfigError(f"--register is {register!r}; allowed: a model's name")
    study = open_study(name, storage)
    with progress_bars(quiet=quiet or as_json):
        trial = export_member(study, to, select=select, samples=samples, force=force)
    version = None if register is None else register_member(study, trial, register)
    if as_json:
        found = {"folder": str(to), "number": trial.number, "values": values(trial)}
        print_json(found if version is None else {**found, "version": version})
    if quiet or as_json:
        return
    say(f"trial {trial.number} of {name} is in {to}; prove it with: crossfront verify {to}")
    if missing("export"):
        say(f"it has no ONNX graph: {hint('export')}")
    if version is not None:
        say(f"it is version {version} of the model {register}: models:/{register}/{version}")


def ui(
    name: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[
        int | None,
        typer.Option(help="Default: 5000, or the next free one.", min=1, max=65535),
    ] = None,
) -> None:
    """Open MLflow's own interface on this machine: crossfront ui lenet5."""
    from search.folder import StudyFolder
    from search.mlflow_store import check_tracking
    from search.study import Study
    from search.tracking import parent_address, tracking_uri
    from search.urls import shown

    need("tracking", "crossfront ui")
    study = Study.open(StudyFolder(storage, name))
    check_tracking(study.config.mlflow.tracking_uri)
    uri, place = tracking_uri(study), parent_address(study)
    if uri.startswith(("http://", "https://")):
        say(f"study {name} is on the tracking server {shown(uri.rstrip('/'))}{place}")
        return
    chosen, serves = _port_for(port, place)
    if serves:
        say(f"MLflow shows it already, on http://127.0.0.1:{chosen}{place}; no other is started")
        return
    if port is None and chosen != _PORT:
        say(f"port {_PORT} is taken; this is the next free one")
    say(f"MLflow on http://127.0.0.1:{chosen}{place} (in some seconds); stop it with Ctrl-C")
    if not place:
        say(f"study {name} has no run there yet: a search makes one when it starts")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(chosen)]
    # Each request, and a traceback on Ctrl-C, would be lines for MLflow's own developers.
    command += ["--backend-store-uri", uri, "--registry-store-uri", uri, "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level critical"]
    command += ["--default-artifact-root", study.folder.artifacts.as_uri()]
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }
    # The server takes this process's place, so that whatever stops this command stops the server.
    os.execve(sys.executable, command, {**os.environ, **quiet})


COMMANDS = (search, resume, pareto, export, ui)


def _drive(
    study: "Study", overrides: dict[str, dict[str, Any]], *, quiet: bool, as_json: bool
) -> None:
    """Runs a study to its end and prints what came of it.

    Exit code 1: it was cut short, by Ctrl-C for instance; 130: by a second one, and at once.
    """
    from search.cli.output import StudyDisplay, print_summary
    from search.cli.progress import progress_bars
    from search.report import pareto_json
    from search.run import run_study

    display = StudyDisplay(quiet=quiet)
    try:
        with progress_bars(quiet=quiet or as_json):
            outcome = run_study(study, display, {k: v for k, v in overrides.items() if v})
    except KeyboardInterrupt:
        say(
            "ended at once; finished trials are kept, go on with: "
            f"crossfront resume {study.folder.name}"
        )
        raise typer.Exit(130) from None
    finally:
        display.close()
    if as_json:
        print_json(pareto_json(study))
    else:
        print_summary(study, outcome, quiet=quiet)
    if not outcome.complete and not outcome.timed_out:
        spent, budget = study.spent, study.config.study.trials
        then = "" if study.exhausted is None else ", before the front was repeated"
        say(
            f"interrupted after {spent} of {budget} trials{then}; go on with: "
            f"crossfront resume {study.folder.name}"
        )
        raise typer.Exit(1)
    if study.spent and not (study.counts()["complete"] and study.front()):
        raise typer.Exit(1)


def _port_for(wanted: int | None, place: str) -> tuple[int, bool]:
    """The wanted port, or the first from 5000 on, that is free or whose server shows the study.

    A server outlives a command that was killed; it is taken as it is.

    Args:
        wanted: by the user.
        place: of the study's parent run in MLflow's interface; empty if there is none.

    Returns:
        The port, and whether such a server has it.

    Raises:
        ConfigError: the wanted port is taken by something else.
    """
    for port in range(_PORT, _PORT + 100) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if place and _serves(port, place.rpartition("/")[2]):
                    return port, True
                continue
            except OverflowError:
                continue
            return port, False
    what = "ports 5000 to 5099 are" if wanted is None else f"port {wanted} is"
    raise ConfigError(f"{what} taken; choose another with --port")


def _serves(port: int, run_id: str) -> bool:
    """Whether an MLflow server on this port of loopback knows a run."""
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run_id}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address, timeout=2) as answer:
            return bool(json.load(answer)["run"]["info"]["run_id"] == run_id)
    except (OSError, HTTPException, ValueError, LookupError, TypeError):  # no server of MLflow's
        return False
