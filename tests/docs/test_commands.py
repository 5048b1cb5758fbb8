"""Every command of the documentation: all are parsed, and run where that takes seconds."""

import shlex
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w
import typer.main
from typer.testing import CliRunner

from hwmodel.records import merge_tables
from search.api import create_study, export
from search.cli import app
from search.evaluate import evaluate, load_problem, train_dense
from search.run import make_space
from tests.docs.pages import PAGES, ROOT, command_lines

LINES = list(dict.fromkeys(line for page in PAGES for line in command_lines(page)))
RUN = ("adc", "compress", "cost", "doctor", "export", "list", "pareto", "verify")
"""The others train for long, need a cluster, or serve until they are stopped."""
ELSEWHERE = ("HOST", "--register", "/shared")
"""What is not on a test's machine."""
NEEDED = ("best", "out", "out5")
"""Exports that commands take for granted."""
TINY: dict[str, dict[str, Any]] = {
    "network": {"name": "mlp", "arguments": {"hidden": 4}},
    "data": {"test_count": 40},
    "train": {"dense_epochs": 1, "epochs": 2, "train_count": 200, "calibration_count": 40},
}


def words_of(line: str) -> list[str]:
    return shlex.split(line)[1:]


def runs(line: str) -> bool:
    wanted = words_of(line)
    shown = wanted[0] == "search" and "--show-config" in wanted and "CONFIG" not in wanted
    return shown or (wanted[0] in RUN and not any(mark in line for mark in ELSEWHERE))


@pytest.mark.parametrize("line", LINES)
def test_command_is_one(line: str) -> None:
    name, *rest = words_of(line)
    group: Any = typer.main.get_command(app)
    command = group.commands.get(name)
    assert command is not None, f"no command {name}"
    command.make_context(name, rest, parent=click.Context(group))


def test_reader_of_the_documentation_finds_its_commands() -> None:
    names = {words_of(line)[0] for line in LINES}
    assert names == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len([line for line in LINES if runs(line)]) > len(LINES) / 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as its reader's: examples, a study `lenet5` with a front, and exports of it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "examples" / "own", folder, dirs_exist_ok=True)
    (folder / "examples").mkdir()
    for path in ROOT.glob("examples/*.toml"):
        small = merge_tables(tomllib.loads(path.read_text(encoding="utf-8")), TINY)
        (folder / "examples" / path.name).write_text(tomli_w.dumps(small), encoding="utf-8")
    for name in ("F.toml", "lenet5.toml", "examples/NAME.toml"):
        shutil.copy(folder / "examples" / "lenet5.toml", folder / name)
    tables = {**TINY, "study": {"name": "lenet5", "sampler": "random", "trials": 2}}
    study = create_study(tables, folder / "studies")
    problem = load_problem(study.config)
    dense = train_dense(problem, study.folder.dense_weights, study.folder.dense_checkpoint)
    study.set_dense(dense)
    proposal = study.propose(
        make_space(problem), lambda candidate: dict(dense.values), dict(dense.values)
    )
    assert proposal is not None
    checkpoint = study.folder.checkpoint(proposal.number)
    found = evaluate(problem, proposal.candidate, study.folder.dense_weights, checkpoint)
    better = replace(found, values={**found.values, "accuracy": 0.88})  # a full schedule's
    study.finish(proposal.number, better)
    first, *others = NEEDED
    export(study, folder / first, samples=8)
    for name in others:
        shutil.copytree(folder / first, folder / name)
    return folder


@pytest.mark.parametrize("line", [line for line in LINES if runs(line)])
def test_command_does_what_it_should(
    line: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    words = words_of(line)
    if "--to" in words:  # a reader's folder is new
        shutil.rmtree(words[words.index("--to") + 1], ignore_errors=True)
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, f"{answer.output}\n{answer.exception!r}"
