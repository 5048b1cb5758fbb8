"""The reference of settings and commands, written from what the sources themselves say.

python -m search.reference docs/reference    # config.md, cli.md and config.schema.json
"""

import ast
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hwmodel.accelerator import PROVISIONINGS
from hwmodel.adc import ADC_LAWS
from hwmodel.components import preset_names
from hwmodel.policies import POLICIES
from search.config import SAMPLERS, StudyConfig
from search.objectives import OBJECTIVES
from trainers.config import MEMORY_FORMATS, OPTIMISERS, PRECISIONS, SCHEDULES
from trainers.data.augment import AUGMENTATIONS
from trainers.data.catalog import dataset_names
from trainers.methods import METHODS
from trainers.methods.bitslice_l1 import ARMS
from trainers.networks import NETWORKS

__all__ = ["CHOICES", "pages", "schema", "settings_without_meaning", "write_reference"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "study.objectives": OBJECTIVES,
    "study.sampler": SAMPLERS,
    "network.unmapped": ("refuse", "digital"),
    "space.crossbars": ("global", "per-layer"),
    "hardware.provisioning": PROVISIONINGS,
    "train.optimiser": OPTIMISERS,
    "train.schedule": SCHEDULES,
    "train.augment": tuple(AUGMENTATIONS),
    "train.memory_format": tuple(MEMORY_FORMATS),
    "train.precision": PRECISIONS,
    "methods.tinyadc.training": ("admm", "straight-through"),
    "methods.admm-nn.break_even": ("energy", "area", "power", "none"),
    "methods.bitslice-l1.arm": ARMS,
    "methods.xma.granularity": ("segment", "element"),
}
"""Settings that are one of some words, or a list of them, and nothing else."""

_NAMES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "data.name": (dataset_names(), ":"),
    "network.name": (tuple(NETWORKS), ":"),
    "method.name": (tuple(METHODS), ":"),
    "space.methods": (tuple(METHODS), ":"),
    "hardware.preset": (tuple(preset_names()), r"\.toml$"),
    "hardware.law": (tuple(ADC_LAWS), r"^table:|\+"),
    "hardware.policy": (POLICIES, "^tile_types:"),
}
"""Settings that are one of some names, or one of the user's own of this pattern."""

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_WRITTEN = "Written by `python -m search.reference docs/reference`; a test holds it up to date.\n"


def write_reference(folder: Path) -> None:
    """Writes every page of the reference and the schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """What each file of the reference holds."""
    return {
        "config.md": _settings(),
        "cli.md": _commands(),
        "config.schema.json": json.dumps(schema(), indent=1) + "\n",
    }


def schema() -> dict[str, Any]:
    """A JSON schema of configurations: names, types, choices and meanings.

    Limits of numbers, and what goes together, is for Crossfront itself to say. Draft 4 is what
    editors' TOML extensions read.
    """
    tables = {name: _table(name, kind) for name, kind in _sections()}
    methods = {name: tables.pop(f"methods.{name}") for name in METHODS}
    every = {key: value for table in methods.values() for key, value in table["properties"].items()}
    name = {"default": "tinyadc", **_value("method.name", str)}
    tables["method"] = {"type": "object", "properties": {"name": name, **every}}
    tables["methods"] = {"type": "object", "properties": methods}
    return {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "A study of Crossfront",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
    }


def settings_without_meaning() -> list[str]:
    """The settings that say nothing of themselves, as `section.key`."""
    return [
        f"{name}.{field.name}"
        for name, kind in _sections()
        for field, text in _documented(kind)
        if not text
    ]


def _sections() -> Iterator[tuple[str, type]]:
    hints = typing.get_type_hints(StudyConfig)
    for field in fields(StudyConfig):
        if is_dataclass(hints[field.name]):
            yield field.name, hints[field.name]
    for name, entry in METHODS.items():
        yield f"methods.{name}", entry.config


def _documented(kind: type) -> Iterator[tuple["Field[Any]", str]]:
    """The fields of a dataclass, each with the string that follows it in the source."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if is_dataclass(owner):
            texts |= _texts(owner)
    for field in fields(kind):
        yield field, texts.get(field.name, "")


def _texts(kind: type) -> Iterator[tuple[str, str]]:
    """The strings below fields that this class itself has."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, node in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
        ):
            yield before.target.id, " ".join(str(node.value.value).split())


def _settings() -> str:
    """Every setting with its default and meaning, as Markdown."""
    parts = ["# Settings\n", _WRITTEN]
    for name, kind in _sections():
        rows = [_row(field, text) for field, text in _documented(kind)]
        parts.append(f"## [{name}]\n")
        parts += ["| setting | default | meaning |", "|---|---|---|", *rows] if rows else ["None."]
        parts.append("")
    return "\n".join(parts)


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _row(field: "Field[Any]", text: str) -> str:
    default = _default(field)
    shown = "" if default is None else f"`{json.dumps(default, default=dict)}`"
    return f"| `{field.name}` | {shown} | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _table(where: str, kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {}
    for field, text in _documented(kind):
        entry = _value(f"{where}.{field.name}", hints[field.name])
        default = _default(field)
        if isinstance(default, bool | int | float | str):
            entry["default"] = default
        properties[field.name] = {**entry, **({"description": text} if text else {})}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(where: str, hint: Any) -> dict[str, Any]:
    """What the setting `where`, of type `hint`, can be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _value(where, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return {"type": "array", "items": _value(where, arguments[0])}
    if is_dataclass(hint) and isinstance(hint, type):
        return _table(where, hint)
    if origin is not None:
        return {"type": "object", "additionalProperties": _value(where, arguments[1])}
    if where in CHOICES:
        return {"enum": list(CHOICES[where])}
    if where in _NAMES:
        names, own = _NAMES[where]
        return {"anyOf": [{"enum": list(names)}, {"type": "string", "pattern": own}]}
    return {} if hint is Any else {"type": _TYPES[hint]}


def _commands() -> str:
    """Every command with its options, as its own help tells them, as Markdown."""
    import click
    import typer.main

    from search.cli import app

    parts = ["# Commands\n", _WRITTEN]
    group: Any = typer.main.get_command(app)
    above = click.Context(group, info_name="crossfront")
    for name, command in group.commands.items():
        context = click.Context(command, info_name=name, parent=above)
        parts.append(f"## crossfront {name}\n\n{(command.help or '').strip()}\n")
        parts += ["```text", command.get_usage(context).removeprefix("Usage: "), "```\n"]
        parts += ["| option | meaning |", "|---|---|"]
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if parameter.name != "help" and record is not None:
                parts.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
