"""The reference of settings and commands, written from what the sources themselves say.

python -m search.reference docs      # writes reference.md and config.schema.json
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

from search.config import StudyConfig
from trainers.methods import METHODS

__all__ = ["reference", "schema", "write_reference"]

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def write_reference(folder: Path) -> None:
    """Writes `reference.md` and `config.schema.json`."""
    (folder / "reference.md").write_text(reference(), encoding="utf-8")
    text = json.dumps(schema(), indent=1) + "\n"
    (folder / "config.schema.json").write_text(text, encoding="utf-8")


def reference() -> str:
    """Every setting with its default and meaning, then every command, as Markdown."""
    parts = [
        "# Reference\n",
        "Written by `python -m search.reference docs`; a test holds it up to date.",
        "`config.schema.json` beside it is for editors that complete TOML.\n",
        "## Settings\n",
    ]
    for name, kind in _sections():
        parts += [f"### [{name}]\n", "| setting | default | meaning |", "|---|---|---|"]
        parts += [_row(field, text) for field, text in _documented(kind)]
        parts.append("")
    parts.append("## Commands\n")
    parts += _commands()
    return "\n".join(parts) + "\n"


def schema() -> dict[str, Any]:
    """A JSON schema of configurations: names, types and meanings.

    What values are allowed, and which together, is for Crossfront itself to say.
    """
    tables = {name: _table(kind) for name, kind in _sections() if not name.startswith("method")}
    methods = {
        name.removeprefix("methods."): _table(kind)
        for name, kind in _sections()
        if name.startswith("methods.")
    }
    every = {key: value for table in methods.values() for key, value in table["properties"].items()}
    tables["method"] = {"type": "object", "properties": {"name": {"type": "string"}, **every}}
    tables["methods"] = {"type": "object", "properties": methods}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study of Crossfront",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
    }


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
    body = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, node in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
        ):
            texts[before.target.id] = " ".join(str(node.value.value).split())
    for field in fields(kind):
        yield field, texts.get(field.name, "")


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _row(field: "Field[Any]", text: str) -> str:
    default = _default(field)
    plain = list(default) if isinstance(default, tuple) else default
    plain = dict(plain) if isinstance(plain, Mapping) else plain
    shown = "" if plain is None else f"`{json.dumps(plain, default=str)}`"
    return f"| `{field.name}` | {shown} | {text.replace('|', chr(92) + '|')} |"


def _table(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {}
    for field, text in _documented(kind):
        entry = _type(hints[field.name])
        default = _default(field)
        if isinstance(default, bool | int | float | str):
            entry["default"] = default
        properties[field.name] = {**entry, **({"description": text} if text else {})}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _type(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _type(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    return {"type": _TYPES.get(hint, "object")} if hint is not Any else {}


def _commands() -> Iterator[str]:
    import click
    import typer.main

    from search.cli import app

    group = typer.main.get_command(app)
    context = click.Context(group, info_name="crossfront")  # type: ignore[arg-type]
    for name, command in getattr(group, "commands", {}).items():
        yield f"### crossfront {name}\n"
        yield f"{(command.help or '').strip()}\n"
        yield "| option | meaning |\n|---|---|"
        for parameter in command.get_params(context):
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{option}`" for option in parameter.opts)
            if parameter.param_type_name == "argument":
                names = f"`{(parameter.name or '').upper()}`"
            yield f"| {names} | {getattr(parameter, 'help', None) or ''} |"
        yield ""


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
