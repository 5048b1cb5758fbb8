"""Documentation that cannot rot: commands parse, quick ones run, the reference is up to date."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from typer.testing import CliRunner

from search.cli import app
from search.reference import reference, schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = ("adc", "cost", "list")


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = [line.split("  #")[0].strip() for line in block.splitlines()]
            found += [line for line in lines if line.startswith("crossfront ")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", commands())
def test_command_in_the_documentation_exists(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *rest = shlex.split(line)
    group: Any = typer.main.get_command(app)
    command = group.commands.get(name)
    assert command is not None, f"no command {name}"
    command.make_context(name, list(rest), parent=click.Context(group))
    if name in QUICK:
        answer = CliRunner().invoke(app, [name, *rest])
        assert answer.exit_code == 0, answer.output


def test_reference_and_schema_are_up_to_date() -> None:
    hint = "write them anew: python -m search.reference docs"
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == reference(), hint
    written = (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == schema(), hint


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.toml")), ids=lambda p: p.name)
def test_schema_knows_every_setting_of_the_examples(path: Path) -> None:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if "base" in tables:
        pytest.skip("a preset, not a study")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(tables, schema())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
