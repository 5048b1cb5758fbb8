"""The reference is what the sources say now, and the schema agrees with what is really read."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hwmodel.errors import ConfigError
from search.config import read_config
from search.reference import CHOICES, pages, schema, settings_without_meaning
from tests.docs.pages import ROOT

FOLDER = ROOT / "docs" / "reference"
STUDIES = [
    path
    for path in sorted(ROOT.glob("examples/**/*.toml"))
    if "base" not in tomllib.loads(path.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="module")
def validator() -> Any:
    """What an editor makes of the schema, which is one."""
    kind = pytest.importorskip("jsonschema").Draft4Validator
    kind.check_schema(schema())
    return kind(schema())


def as_table(setting: str, value: Any) -> dict[str, Any]:
    """A configuration in which only this is set."""
    *section, key = setting.split(".")
    if section[0] == "methods":
        return {"method": {"name": section[1], key: value}}
    return {section[0]: {key: value}}


def test_reference_is_up_to_date() -> None:
    assert set(pages()) == {path.name for path in FOLDER.iterdir()}
    for name, text in pages().items():
        written = (FOLDER / name).read_text(encoding="utf-8")
        assert written == text, "write it anew: python -m search.reference docs/reference"


def test_every_setting_says_what_it_means() -> None:
    assert settings_without_meaning() == []


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_schema_takes_the_examples(path: Path, validator: Any) -> None:
    validator.validate(tomllib.loads(path.read_text(encoding="utf-8")))


def test_schema_takes_every_default(validator: Any) -> None:
    validator.validate(json.loads(json.dumps(read_config({}).to_json())))


@pytest.mark.parametrize(
    "table",
    [
        {"study": {"trails": 4}},
        {"study": {"trials": "four"}},
        {"study": {"objectives": ["beauty"]}},
        {"network": {"name": "lenet6"}},
        {"hardware": {"law": "pow3"}},
        {"space": {"layers": {"fc1": {"nonzero": [5]}}}},
        {"candidate": {"layers": {"fc1": {"nonzeros": "all"}}}},
        {"train": {"optimiser": "lion"}},
        {"serach": {}},
    ],
    ids=str,
)
def test_schema_refuses_mistakes(table: dict[str, Any], validator: Any) -> None:
    assert not validator.is_valid(table)


@pytest.mark.parametrize(
    "table",
    [
        {"network": {"name": "mine:net", "arguments": {"width": 4}}},
        {"hardware": {"preset": "mine.toml", "law": "survey+extrapolate"}},
        {"hardware": {"law": "table:mine.csv", "policy": "tile_types:3"}},
        {"method": {"name": "mine:Method", "steps": 4}},
    ],
    ids=str,
)
def test_schema_takes_what_is_ones_own(table: dict[str, Any], validator: Any) -> None:
    validator.validate(table)


@pytest.mark.parametrize("setting", [name for name in CHOICES if name != "study.objectives"])
def test_choices_are_those_that_are_read(setting: str, validator: Any) -> None:
    for word in CHOICES[setting]:
        read_config(as_table(setting, word))
        validator.validate(as_table(setting, word))
    with pytest.raises(ConfigError, match=f"allowed: {', '.join(CHOICES[setting])}$"):
        read_config(as_table(setting, "none of them"))
