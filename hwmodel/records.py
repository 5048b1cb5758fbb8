"""Plain tables (TOML, JSON) to frozen dataclasses: typed, complete, and strict about keys."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hwmodel.errors import ConfigError, CrossfrontError

__all__ = ["check_keys", "differences", "listed", "merge_tables", "read_record"]

_Record = TypeVar("_Record")
_NOTHING = object()
_NAMES = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}


def read_record(record: type[_Record], table: object, where: str) -> _Record:
    """The dataclass that a table describes.

    Integers pass for floats and lists for tuples; tables become nested dataclasses or mappings.

    Args:
        record: a dataclass whose fields are numbers, strings, booleans, tuples, mappings,
            dataclasses, or one of these or None.
        table: what the file says.
        where: names the table in errors.

    Raises:
        ConfigError: an unknown key (naming the nearest), a missing one, a value of another type, or
            one that the record itself refuses.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}; allowed: a table")
    assert is_dataclass(record)
    known = {field.name: field for field in fields(record) if field.init}
    check_keys(table, list(known), where)
    for key, field in known.items():
        if key not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}: {key} is missing")
    hints = get_type_hints(record)
    values = {key: _typed(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    try:
        return record(**values)
    except ConfigError:
        raise
    except CrossfrontError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_keys(table: Mapping[str, Any], allowed: list[str], where: str) -> None:
    """Refuses a key that does not exist, naming the nearest that does.

    Raises:
        ConfigError: naming table, key and nearest key.
    """
    for key in table:
        if key not in allowed:
            near = get_close_matches(key, allowed, n=1, cutoff=0.0)
            hint = f"; nearest allowed: {near[0]!r}" if near else "; no key is allowed here"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")


def merge_tables(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_tables(merged[key], value) if both else value
    return merged


def differences(there: Mapping[str, Any], here: Mapping[str, Any], where: str = "") -> list[str]:
    """What two tables say differently: each key with both values."""
    found = []
    for key in sorted({*there, *here}):
        one, other = there.get(key, _NOTHING), here.get(key, _NOTHING)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{where}{key}.")
        elif one != other:
            found.append(f"{where}{key} is {_shown(one)} there, {_shown(other)} here")
    return found


def listed(parts: Sequence[str], most: int = 4) -> str:
    """The first few parts, and how many more there are."""
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more])


def _shown(value: Any) -> str:
    return "not set" if value is _NOTHING else repr(value)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as its field wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(value, arguments[0], where)
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else read_record(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}; allowed: a list")
        return tuple(_typed(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; allowed: a table")
        return {key: _typed(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = next(
        (kind for kind in _NAMES if isinstance(hint, type) and issubclass(hint, kind)), hint
    )
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConfigError(f"{where} is {value!r}; allowed: {_NAMES[plain]}")
    return value
