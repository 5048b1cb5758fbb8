from pathlib import Path
from typing import Any

import pytest

from hwmodel.components import (
    SIZES,
    Component,
    crossbar_sizes,
    load_preset,
    preset_names,
    scale_factor,
)
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import ConfigError

REFERENCE = load_preset("isaac").reference


def component(**fields: Any) -> Component:
    plain = {
        "name": "part",
        "level": "ima",
        "count": 1.0,
        "power_w": 1.0,
        "area_m2": 1.0,
        "kind": "assumed",
        "source": "a test",
    }
    return Component(**{**plain, **fields})


def test_shipped_presets_load_and_cite_every_component() -> None:
    assert preset_names() == (
        "forms-like",
        "isaac",
        "isaac-8bit-weights",
        "isaac-9bit-weights",
        "memristor-blocks",
        "small-edge",
    )
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert all(part.source for part in preset.components)


def test_isaac_is_the_published_configuration() -> None:
    preset = load_preset("isaac")
    assert preset.crossbars == 16128
    assert preset.crossbar == preset.reference
    assert preset.adc_rate_hz(preset.crossbar) == pytest.approx(1.28e9)
    assert preset.cycle_time_s(preset.crossbar) == pytest.approx(100e-9)


def test_the_derived_preset_overrides_formats_and_nothing_else() -> None:
    isaac, derived = load_preset("isaac"), load_preset("isaac-8bit-weights")
    assert derived.components == isaac.components
    assert derived.reference == isaac.reference
    assert derived.crossbar == CrossbarSpec(weight_bits=8, input_bits=8)
    assert derived.crossbar.sign_encoding is SignEncoding.DIFFERENTIAL


@pytest.mark.parametrize(
    ("bitlines", "cycle_s", "rate_hz"),
    [(64, 100e-9, 0.64e9), (128, 100e-9, 1.28e9), (512, 400e-9, 1.28e9)],
)
def test_wide_crossbars_wait_for_their_adc(bitlines: int, cycle_s: float, rate_hz: float) -> None:
    preset, spec = load_preset("isaac"), CrossbarSpec(bitlines=bitlines)
    assert preset.cycle_time_s(spec) == pytest.approx(cycle_s)
    assert preset.adc_rate_hz(spec) == pytest.approx(rate_hz)


def test_the_small_chip_is_a_sixth_of_a_tile_four_times() -> None:
    small, isaac = load_preset("small-edge"), load_preset("isaac-8bit-weights")
    assert (small.crossbars, small.crossbars_per_tile) == (64, 16)
    buffers = [next(p for p in x.components if p.name == "edram") for x in (small, isaac)]
    each = [
        part.count / preset.crossbars_per_tile
        for part, preset in zip(buffers, (small, isaac), strict=True)
    ]
    assert each[0] == pytest.approx(each[1])
    assert next(p for p in small.components if p.io).count == 0


def test_forms_has_its_published_formats_and_converters() -> None:
    """FORMS, ISCA 2021: 16-bit inputs, 8-bit weights, 2-bit cells, 32 ADCs of 2.1 GS/s an IMA."""
    preset = load_preset("forms-like")
    spec = preset.crossbar
    assert (spec.input_bits, spec.weight_bits, spec.cell_bits) == (16, 8, 2)
    assert preset.crossbars_per_ima == 32
    assert preset.adc_rate_hz(spec) == pytest.approx(2.1e9)


def test_sizes_of_the_reference_are_the_published_registers() -> None:
    sizes = crossbar_sizes(REFERENCE, 16)
    assert tuple(sizes) == SIZES
    assert sizes["input_bytes"] * 8 == 2048
    assert sizes["output_bytes"] * 8 == 256


def test_buffers_and_links_grow_with_the_crossbar() -> None:
    large = CrossbarSpec(
        **{**REFERENCE.to_json(), "wordlines": 512, "bitlines": 512, "dac_bits": 2}
    )
    factors = {name: scale_factor([name], large, REFERENCE, 16) for name in SIZES}
    assert factors == {
        "wordlines": 4,
        "bitlines": 4,
        "cells": 16,
        "dac_bits": 2,
        "dac_levels": 2,
        "input_bytes": 4,
        "output_bytes": 4,
        "input_output_bytes": 4,
    }
    assert scale_factor([], large, REFERENCE, 16) == 1
    assert scale_factor(["wordlines", "dac_levels"], large, REFERENCE, 16) == 8
    unscaled = {part.name for part in load_preset("isaac").components if not part.scales_with}
    assert unscaled == {"shift_add", "mask_shift", "hyper_transport"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"power_w": -1.0}, "power_w is -1.0; allowed: a finite number, 0 or more"),
        ({"area_m2": float("nan")}, "area_m2 is nan"),
        ({"level": "rack"}, "level is 'rack'; allowed: crossbar, ima, tile, chip"),
        ({"event": "sneeze"}, "event is 'sneeze'; allowed: conversion"),
        ({"kind": "guessed"}, "kind is 'guessed'; allowed: published"),
        ({"energy_kind": "guessed"}, "energy_kind is 'guessed'"),
        ({"scales_with": ("rows",)}, "scales_with is 'rows'; allowed: wordlines"),
        ({"energy_j": 1.0}, "energy_j is 1.0; allowed: 0 without an event"),
        ({"static_power_w": 2.0}, "static_power_w is 2.0; allowed: at most power_w, 1.0"),
        ({"name": "adc"}, "the ADC's price comes from the ADC law"),
        ({"level": "chip", "scales_with": ("cells",)}, "follows no crossbar"),
    ],
)
def test_impossible_components_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        component(**fields)


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_user_file_may_build_on_a_shipped_preset_or_a_neighbour(tmp_path: Path) -> None:
    first = write(tmp_path, 'base = "isaac"\nname = "mine"\ntiles = 2\n[components.bus]\ncount = 3')
    second = write(tmp_path, 'base = "mine.toml"\nread_time_s = 50e-9', "other.toml")
    assert load_preset(first).tiles == 2
    preset = load_preset(str(second))
    parts = {part.name: part for part in preset.components}
    assert (preset.name, preset.tiles, preset.read_time_s) == ("mine", 2, 50e-9)
    assert (parts["bus"].count, parts["bus"].power_w) == (3, 7e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile = 3", "unknown key 'tile'; nearest allowed: 'tiles'"),
        ("tiles = -3", "tiles is -3; allowed: a positive, finite number"),
        ("tiles = 1.5", "tiles is 1.5; allowed: an integer"),
        ("tiles = true", "tiles is True; allowed: an integer"),
        ("node_m = nan", "node_m is nan"),
        ("node_m = '32 nm'", "node_m is '32 nm'; allowed: a number"),
        ("pipeline_fill_cycles = -1", "pipeline_fill_cycles is -1"),
        ("crossbar = 3", r"crossbar is 3; allowed: a table"),
        ("[crossbar]\nwordline = 3", "unknown key 'wordline'; nearest allowed: 'wordlines'"),
        ("[crossbar]\nwordlines = 0", r"crossbar: wordlines is 0; allowed"),
        ("components = 3", "components is 3; allowed: tables"),
        ("[components]\nbus = 3", r"components.bus is 3; allowed: a table"),
        ("[components.bus]\npower = 3", "unknown key 'power'; nearest allowed: 'power_w'"),
        ("[components.bus]\nscales_with = 'cells'", "allowed: a list"),
        ("[components.bus]\nio = 1", "io is 1; allowed: true or false"),
        ("[components.fan]\nlevel = 'tile'", "count is missing"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset(write(tmp_path, f'base = "isaac"\n{text}'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "mine.toml"', "base leads back to itself"),
        ("base = 3", "base is 3; allowed: a name or a path"),
        ("tiles = ", "cannot be read"),
        ("tiles = 3", "name is missing"),
        ('base = "eniac"', "preset is 'eniac'; allowed: forms-like, isaac, isaac-8bit-weights"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_preset(tmp_path / "absent.toml")


def test_the_reference_defaults_to_the_crossbar(tmp_path: Path) -> None:
    keys = {
        "name": '"tiny"',
        "source": '"a test"',
        "node_m": 1e-8,
        "read_time_s": 1e-7,
        "max_adc_rate_hz": 1e9,
        "nameplate_adc_rate_hz": 1e9,
        "pipeline_fill_cycles": 0,
        "output_bits": 16,
        "crossbars_per_ima": 1,
        "imas_per_tile": 1,
        "tiles": 1,
    }
    text = "\n".join(f"{key} = {value}" for key, value in keys.items())
    preset = load_preset(write(tmp_path, f"{text}\n[crossbar]\nwordlines = 64"))
    assert preset.reference == preset.crossbar == CrossbarSpec(wordlines=64)
    assert preset.components == ()
