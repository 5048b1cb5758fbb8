from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.errors import ConfigError, SpecError
from hwmodel.records import check_keys, differences, listed, merge_tables, read_record


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise SpecError(f"size is {self.size}; allowed: 0 up")
        if self.size > 99:
            raise ConfigError(f"inner.size is {self.size}; allowed: up to 99")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 1
    rate: float = 1.0
    quick: bool = False
    colour: Colour = Colour.RED
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    shares: tuple[float, ...] | None = None
    inner: Inner | None = None
    always: Inner = field(default_factory=lambda: Inner(size=3))
    layers: Mapping[str, Inner] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hidden: int = field(default=7, init=False)


def read(**table: object) -> Outer:
    return read_record(Outer, {"name": "x", **table}, "outer")


def test_plain_table_becomes_its_record() -> None:
    found = read(count=3, rate=2.5, quick=True, limit=9)
    assert found == Outer(name="x", count=3, rate=2.5, quick=True, limit=9)


def test_defaults_stand_for_what_is_left_out() -> None:
    assert read() == Outer(name="x")


def test_nested_tables_become_records() -> None:
    found = read(inner={"size": 1}, layers={"a.b": {"size": 2, "share": 1}})
    assert found.inner == Inner(size=1)
    assert found.layers == {"a.b": Inner(size=2, share=1.0)}


def test_records_pass_as_they_are() -> None:
    assert read(inner=Inner(size=4)).inner == Inner(size=4)


def test_lists_become_tuples_of_their_type() -> None:
    found = read(sizes=[1, 2], shares=[1, 0.5])
    assert found.sizes == (1, 2)
    assert found.shares == (1.0, 0.5)
    assert isinstance(found.shares[0], float)
    assert read(sizes=(3,)).sizes == (3,)


def test_integers_pass_for_floats() -> None:
    found = read(rate=3)
    assert isinstance(found.rate, float)


def test_none_passes_where_it_may() -> None:
    found = read(limit=None, shares=None, inner=None)
    assert (found.limit, found.shares, found.inner) == (None, None, None)


def test_free_arguments_keep_their_types() -> None:
    arguments = {"hidden": 3, "deep": [1, {"a": True}], "name": "n"}
    assert read(arguments=arguments).arguments == arguments


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("name", 3, "a string"),
        ("name", None, "a string"),
        ("count", True, "an integer"),
        ("count", 1.0, "an integer"),
        ("count", "1", "an integer"),
        ("count", None, "an integer"),
        ("rate", True, "a number"),
        ("rate", "1.0", "a number"),
        ("quick", 1, "true or false"),
        ("quick", "yes", "true or false"),
        ("colour", 1, "a string"),
        ("limit", "none", "an integer"),
        ("limit", False, "an integer"),
        ("sizes", 3, "a list"),
        ("sizes", "34", "a list"),
        ("sizes", {"0": 1}, "a list"),
        ("layers", [1], "a table"),
        ("arguments", "a=1", "a table"),
        ("inner", 3, "a table"),
        ("inner", [], "a table"),
        ("always", None, "a table"),
    ],
)
def test_wrong_type_names_key_value_and_what_is_allowed(
    key: str, value: object, wanted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{key: value})
    assert str(caught.value) == f"outer.{key} is {value!r}; allowed: {wanted}"


def test_wrong_type_inside_says_where() -> None:
    with pytest.raises(ConfigError, match=r"^outer\.sizes\[1\] is True; allowed: an integer$"):
        read(sizes=[1, True])
    with pytest.raises(ConfigError, match=r"^outer\.layers\.fc\.size is 'x'; allowed: an integer$"):
        read(layers={"fc": {"size": "x"}})


def test_table_itself_must_be_one() -> None:
    with pytest.raises(ConfigError, match=r"^outer is 3; allowed: a table$"):
        read_record(Outer, 3, "outer")


@pytest.mark.parametrize(("key", "near"), [("cout", "count"), ("Layers", "layers"), ("q", "quick")])
def test_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{key: 1})
    assert str(caught.value).startswith(f"outer: unknown key {key!r}; nearest allowed: ")
    if len(key) > 1:
        assert f"'{near}'" in str(caught.value)


def test_unknown_key_inside_says_where() -> None:
    with pytest.raises(ConfigError, match=r"outer\.inner: unknown key 'siz'; .* 'size'"):
        read(inner={"siz": 1})


def test_field_that_the_record_computes_is_no_key() -> None:
    with pytest.raises(ConfigError, match="unknown key 'hidden'"):
        read(hidden=1)


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^outer: name is missing$"):
        read_record(Outer, {}, "outer")
    with pytest.raises(ConfigError, match=r"^outer\.inner: size is missing$"):
        read(inner={})


def test_refusal_of_the_record_becomes_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"^outer\.inner: size is -1; allowed: 0 up$"):
        read(inner={"size": -1})
    with pytest.raises(ConfigError, match=r"^inner\.size is 100; allowed: up to 99$"):
        read(inner={"size": 100})


def test_no_key_where_none_is_allowed() -> None:
    with pytest.raises(ConfigError, match="no key is allowed here"):
        check_keys({"a": 1}, [], "empty")


_TABLES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
).filter(lambda value: isinstance(value, dict))


@given(_TABLES, _TABLES)
def test_merged_tables_prefer_the_second_key_by_key(base: dict, over: dict) -> None:
    before = repr((base, over))
    merged = merge_tables(base, over)
    assert repr((base, over)) == before
    assert set(merged) == set(base) | set(over)
    for key, value in merged.items():
        if key not in over:
            assert value == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            assert value == merge_tables(base[key], over[key])
        else:
            assert value == over[key]


def test_merging_goes_into_tables() -> None:
    merged = merge_tables({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4})
    assert merged == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}


def test_differences_name_each_key_with_both_values() -> None:
    there = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": 3}
    here = {"a": 1, "b": {"c": [1], "d": "x"}, "f": None}
    assert differences(there, here) == [
        "b.c is [1, 2] there, [1] here",
        "e is 3 there, not set here",
        "f is not set there, None here",
    ]
    assert differences(there, there) == []


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdef"), most=3) == "a, b, c, and 3 more"
