"""What can be known about `examples/cluster/` without a cloud."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from search.cli import app

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "cluster"
KUBERAY = ("kuberay-raycluster.yaml", "kuberay-rayjob.yaml")
STUBS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": "printf 'node1\\nnode2\\n'",
    "hostname": "echo 127.0.0.1",
    "crossfront": """
printf "%s\\n" "$@" >"$SEEN/crossfront"
for _ in $(seq 100); do [ "$(wc -l <"$SEEN/ray")" = 2 ] && break; sleep 0.1; done
""",
    "ray": """
echo "$RAY_AUTH_MODE $(cat "$RAY_AUTH_TOKEN_PATH") $*" >>"$SEEN/ray"
for word; do case $word in --port=*) port=${word#*=} ;; esac; done
[ -z "${port:-}" ] || exec "$PYTHON" -c "
import socket, sys, time
with socket.create_server(('127.0.0.1', int(sys.argv[1]))):
    time.sleep(60)
" "$port"
""",
}


def command_options(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and the options that Crossfront's own command line reads in `words`."""
    assert words[0] == "crossfront"
    group = typer.main.get_command(app)
    with typer.Context(group) as above:
        command = group.get_command(above, words[1])  # type: ignore[attr-defined]
        assert command is not None, words[1]
        return words[1], command.make_context(words[1], words[2:]).params


def commands_in(text: str) -> list[list[str]]:
    """The command lines of a fenced or quoted Markdown text."""
    fenced = "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    found = [line for line in fenced.splitlines() if line.startswith("crossfront ")]
    found += re.findall(r"`(crossfront [^`]*)`", text)
    return [shlex.split(line, comments=True) for line in found]


def ray_version() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def described(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_ray_is_the_one_that_we_pin(path: Path) -> None:
    text = path.read_text()
    found = re.findall(r"(?:ray:|ray(?=\d)|rayVersion: \")(\d+\.\d+\.\d+)", text)
    assert set(found) <= {ray_version()}
    assert found or path.name in ("README.md", "slurm.sbatch")


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_asks_for_a_token_and_shares_the_storage(name: str) -> None:
    content = described(name)
    assert content["apiVersion"] == "ray.io/v1"
    cluster = content["spec"].get("rayClusterSpec", content["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert group["rayStartParams"] is not None
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount == {"name": volume["name"], "mountPath": "/shared"}
        assert "persistentVolumeClaim" in volume
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_entrypoint_of_the_ray_job_is_a_command_line_of_ours() -> None:
    command, options = command_options(
        shlex.split(described("kuberay-rayjob.yaml")["spec"]["entrypoint"])
    )
    assert command == "search"
    assert options["address"] == "auto"
    assert options["storage"].is_relative_to("/shared")
    assert (ROOT / options["config"].relative_to("/home/ray/crossfront")).exists()


def test_every_command_of_the_readme_is_one() -> None:
    lines = commands_in((FOLDER / "README.md").read_text())
    assert {command_options(line)[0] for line in lines} == {
        *("submit", "status", "logs", "stop", "resume")
    }


def test_ray_up_passes_rays_own_validation() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    content = util.prepare_config(described("ray-up.yaml"))
    util.validate_config(content)
    assert "RAY_AUTH_MODE=token" in " ".join(content["docker"]["run_options"])
    assert "--dashboard-host=127.0.0.1" in " ".join(content["head_start_ray_commands"])


@pytest.mark.parametrize("exists", [False, True], ids=["new study", "queued again"])
def test_slurm_starts_head_workers_and_study_with_a_token(tmp_path: Path, exists: bool) -> None:
    tools, seen, storage = tmp_path / "bin", tmp_path / "seen", tmp_path / "studies"
    tools.mkdir()
    seen.mkdir()
    for name, body in STUBS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    if exists:
        (storage / "lenet5").mkdir(parents=True)
        (storage / "lenet5" / "journal.log").touch()
    slurm = {"NODELIST": "node[1-2]", "NUM_NODES": "2", "ID": str(os.getpid())}
    answer = subprocess.run(
        ["bash", FOLDER / "slurm.sbatch", "/shared/lenet5.toml", storage],
        env={
            **{f"SLURM_JOB_{name}": value for name, value in slurm.items()},
            "SLURM_CPUS_PER_TASK": "8",
            "PATH": f"{tools}:/usr/bin:/bin",
            "PYTHON": sys.executable,
            "SEEN": str(seen),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    command, options = command_options(
        ["crossfront", *(seen / "crossfront").read_text().splitlines()]
    )
    assert command == ("resume" if exists else "search")
    assert (options["workers"], options["name"]) == (16, "lenet5")
    starts = (seen / "ray").read_text().splitlines()
    assert len(starts) == 2
    modes, tokens, words = zip(*(line.split(" ", 2) for line in starts), strict=True)
    assert set(modes) == {"token"}
    assert re.fullmatch(r"[0-9a-f]{64}", tokens[0])
    assert len(set(tokens)) == 1
    assert any("--head" in line and "--node-ip-address=127.0.0.1" in line for line in words)
    assert any(f"--address={options['address']}" in line for line in words)
    assert not list(storage.glob(".token*"))
