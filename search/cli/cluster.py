"""Commands about studies on a Ray cluster: submit, status, logs, stop."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwmodel.errors import ConfigError
from hwmodel.records import merge_tables
from search.cli.messages import print_json, say
from search.cli.options import Json, Quiet, given
from search.cli.studies import LeastGain, MaxEpochs, MaxTrials, Seeds, TimeBudget, Workers

if TYPE_CHECKING:
    from search.jobs import Job, Shipment

__all__ = ["COMMANDS"]

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id that submit printed.")]
_ADDRESS = "http://127.0.0.1:8265"


def submit(
    config: Annotated[str, typer.Argument(help="The study's TOML file; with --resume its name.")],
    storage: Annotated[
        str,
        typer.Option(
            help="Folder of all studies, as the cluster sees it, by an absolute path: one that the "
            "head and every worker share, or with study.storage_path the head's own."
        ),
    ],
    address: Address = _ADDRESS,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    max_trials: MaxTrials = None,
    max_epochs: MaxEpochs = None,
    least_gain: LeastGain = None,
    time_budget: TimeBudget = None,
    seeds: Seeds = None,
    workers: Workers = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="An MLflow server, as the cluster sees it.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a study in --storage.")] = False,
    ship: Annotated[
        bool, typer.Option(help="Send the files that CONFIG names by relative paths.")
    ] = True,
    extra: Annotated[
        list[str] | None, typer.Option("--with", help="Send this file beside CONFIG, too.")
    ] = None,
    driver_gpus: Annotated[
        float, typer.Option(help="GPUs for the study's own process, which trains the baseline.")
    ] = 0.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a study on a cluster: crossfront submit lenet5.toml --storage /shared/studies.

    The cluster has Crossfront installed. Of this machine's files only CONFIG and what it names by
    relative paths are sent; absolute paths are the cluster's own. A cluster that asks for a token
    gets it from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token.
    """
    from search.jobs import Cluster
    from trainers.config import check_number

    if not Path(storage).is_absolute():
        raise ConfigError(
            f"--storage is {storage!r}; allowed: the absolute path of a folder that the head and "
            "every worker share, or of one of the head's with study.storage_path"
        )
    check_number("--driver-gpus", driver_gpus, low=0)
    changes = {
        "study": given(
            name=name,
            trials=max_trials,
            epochs=max_epochs,
            least_gain=least_gain,
            time_budget_s=time_budget,
        ),
        "fidelity": given(seeds=seeds),
        "ray": given(workers=workers),
        "mlflow": given(tracking_uri=tracking_uri),
    }
    options = given(
        workers=workers,
        max_trials=max_trials,
        max_epochs=max_epochs,
        least_gain=least_gain,
        time_budget=time_budget,
        seeds=seeds,
        tracking_uri=tracking_uri,
    )
    if resume:
        study, shipment = _known(config, changes, name=name, extra=extra or []), None
    else:
        study, shipment = _described(config, changes, ship=ship, extra=extra or [])
        options["name"] = study
    target = config if shipment is None else shipment.config.name
    verb = "resume" if resume else "search"
    command = ["crossfront", verb, target, "--storage", storage, "--address", "auto"]
    for option, value in options.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    cluster = Cluster(address)
    difference = cluster.differences()
    if difference is not None and not quiet:
        say(f"note: {difference}")
    job = cluster.submit(command, study=study, storage=storage, shipment=shipment, gpus=driver_gpus)
    if as_json:
        print_json({"job": job, "study": study, "storage": storage, "address": cluster.address})
        return
    if quiet:
        print(job)
        return
    option = "" if address == _ADDRESS else f" --address {address}"
    say(f"study {study} is job {job}; see it with: crossfront logs {job} --follow{option}")


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Default: all jobs.")] = None,
    address: Address = _ADDRESS,
    as_json: Json = False,
) -> None:
    """Show how submitted studies stand: crossfront status lenet5-1f0c9a3e.

    Exit code 1: the job failed or was stopped.
    """
    from search.jobs import Cluster

    cluster = Cluster(address)
    found = cluster.jobs() if job is None else [cluster.job(job)]
    if as_json:
        content = [dataclasses.asdict(one) for one in found]
        print_json(content if job is None else content[0])
    else:
        for one in found:
            print(_line(one))
    if job is not None and found[0].failed:
        raise typer.Exit(1)


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option(help="Until the job ends.")] = False,
    address: Address = _ADDRESS,
) -> None:
    """Print what a submitted study prints: crossfront logs lenet5-1f0c9a3e --follow.

    Exit code 1, with --follow: the job failed or was stopped.
    """
    from search.jobs import Cluster

    cluster = Cluster(address)
    if not follow:
        print(cluster.logs(job), end="")
    elif cluster.follow(job, lambda text: print(text, end="", flush=True)).failed:
        raise typer.Exit(1)


def stop(
    job: JobId, address: Address = _ADDRESS, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Stop a submitted study, which keeps its trials: crossfront stop lenet5-1f0c9a3e.

    Exit code 1: the job still runs.
    """
    from search.jobs import Cluster

    found, was_running = Cluster(address).stop(job)
    if as_json:
        print_json({**dataclasses.asdict(found), "was_running": was_running})
    elif not quiet:
        say(_line(found) if was_running else f"{_line(found)} (it had ended already)")
        if was_running and found.study and found.storage:
            say(f"go on with: crossfront submit {found.study} --resume --storage {found.storage}")
    if found.running:
        raise typer.Exit(1)


COMMANDS = (submit, status, logs, stop)


def _described(
    config: str, changes: dict[str, Any], *, ship: bool, extra: list[str]
) -> tuple[str, "Shipment | None"]:
    """The name of the study that a file describes, and what to send."""
    from search.config import load_config
    from search.jobs import Shipment

    path = Path(config)
    settings = load_config(path, changes)
    if ship:
        return settings.study.name, Shipment.of(path, settings, extra)
    if not path.is_absolute() or extra:
        raise ConfigError(
            f"--no-ship sends nothing, and CONFIG is {config!r}; allowed: the absolute path of a "
            "file that this machine and the cluster share, without --with"
        )
    return settings.study.name, None


def _known(study: str, changes: dict[str, Any], *, name: str | None, extra: list[str]) -> str:
    """The name of a study that is to go on, once all that is asked of it makes sense."""
    from search.config import read_config

    if name is not None or extra:
        raise ConfigError("--resume takes a study as it is; allowed: neither --name nor --with")
    return read_config(merge_tables(changes, {"study": {"name": study}})).study.name


def _line(job: "Job") -> str:
    """One job on one line."""
    where = f"study {job.study} in {job.storage}" if job.study else "not a study"
    code = "" if job.exit_code in (None, 0) else f", exit code {job.exit_code}"
    if job.exit_code == 127:
        code += " (the cluster has no command crossfront)"
    return f"{job.id}  {job.status}  {where}  {job.started or ''}{code}"
