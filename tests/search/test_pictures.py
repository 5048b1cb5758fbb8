import re
from pathlib import Path

import pytest

from hwmodel.accelerator import CostModel
from hwmodel.adc import ADC_LAWS, AdcLaw, BoundLaw, Pow2Law, SaberiLaw, SurveyLaw, adc_law
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError
from hwmodel.geometry import LayerShape, plan_layer
from search.palette import COLOURS
from search.pictures import adc_curves, bits_map, cost_breakdown, front_scatter

LAWS: list[AdcLaw] = [*ADC_LAWS.values(), BoundLaw()]


def draw(path: Path, laws: list[AdcLaw] = LAWS) -> bytes:
    adc_curves(laws, range(1, 11), 1.28e9, 32e-9, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("file", "start"), [("laws.svg", b"<?xml"), ("laws.png", b"\x89PNG"), ("LAWS.SVG", b"<?xml")]
)
def test_ending_chooses_the_format(tmp_path: Path, file: str, start: bytes) -> None:
    assert draw(tmp_path / file).startswith(start)


def test_same_curves_make_the_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "a.svg") == draw(tmp_path / "b.svg")


def test_every_law_is_in_the_legend(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "laws.svg").decode()
    for law in LAWS:
        assert f"<!-- {law.name} -->" in drawn


def test_extrapolated_points_are_hollow_and_refused_ones_absent(tmp_path: Path) -> None:
    hollow = f"fill: #ffffff; stroke: {COLOURS['blue']}".encode()
    refusing = draw(tmp_path / "refusing.svg", [SurveyLaw()])
    asked = draw(tmp_path / "asked.svg", [SurveyLaw(extrapolate=True)])
    # Three resolutions below 4 bits in two panels, and what is drawn once a panel as the marker.
    assert asked.count(hollow) - refusing.count(hollow) >= 6


def test_curves_that_agree_are_told_apart(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "laws.svg", [Pow2Law(), SaberiLaw()]).decode()  # of equal area
    below, above = (
        {
            style
            for style in re.findall('style="fill: none; ([^"]*)"', drawn)
            if COLOURS[name] in style
        }
        for name in ("blue", "orange")
    )
    assert all("stroke-width: 3.2" in style and "dash" not in style for style in below)
    assert all("stroke-width" not in style and "dash" in style for style in above)


def test_a_law_that_answers_nothing_leaves_the_picture_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    adc_curves([adc_law("survey")], [1], 1.28e9, 32e-9, path)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("file", ["laws.pdf", "laws"])
def test_other_endings_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: a file \.svg or \.png"):
        draw(tmp_path / file)
    assert not (tmp_path / file).exists()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        draw(tmp_path / "nowhere" / "laws.svg")


def test_breakdown_names_bars_components_and_law(tmp_path: Path) -> None:
    model = CostModel(load_preset("isaac-8bit-weights"), adc_law("pow2"))
    shape = LayerShape(name="a", rows=300, outputs=40, positions=9)
    reports = {
        name: model.evaluate([plan_layer(shape, CrossbarSpec(), nonzeros=n)])
        for name, n in (("dense", None), ("five", 5))
    }
    path = tmp_path / "parts.svg"
    cost_breakdown(reports, path)
    drawn = path.read_text(encoding="utf-8")
    for text in (
        "dense",
        "five",
        "adc",
        "edram",
        "Chip area (mm2)",
        "Chip power (mW)",
        "ADC law pow2",
    ):
        assert f"<!-- {text}" in drawn or text in drawn
    first = path.read_bytes()
    cost_breakdown(reports, path)
    assert path.read_bytes() == first
    with pytest.raises(ConfigError, match=r"allowed: a file \.svg or \.png"):
        cost_breakdown(reports, tmp_path / "parts.pdf")


def test_bits_map_writes_every_resolution(tmp_path: Path) -> None:
    path = tmp_path / "bits.svg"
    bits_map({"conv1": (4, 5, 6), "fc": (11, 12)}, path)
    drawn = path.read_text(encoding="utf-8")
    for text in ("conv1", "fc", "4", "5", "6", "11", "12", "ADC bits"):
        assert f"<!-- {text} -->" in drawn


def test_front_names_members_where_there_is_room_and_leaves_out_what_lost_much(
    tmp_path: Path,
) -> None:
    def at(accuracy: float, area_mm2: float) -> dict[str, float]:
        return {"accuracy": accuracy, "area": area_mm2 * 1e-6}

    front = {71: at(0.9, 1.0), 72: at(0.9, 1.001), 73: at(0.85, 0.1), 74: at(0.5, 0.05)}
    path = tmp_path / "front.svg"
    front_scatter(front, [at(0.84, 0.5)], at(0.91, 2.0), ["accuracy", "area"], path)
    drawn = path.read_text(encoding="utf-8")
    shown = [number for number in front if f"<!-- {number} -->" in drawn]
    assert shown == [71, 73]
    for text in ("candidates below 0.81 are not shown", "Chip area (mm2)", "0.1", "dense"):
        assert f"<!-- {text} -->" in drawn
    del front[74]
    front_scatter(front, [], {}, ["accuracy", "area"], path)
    assert "not shown" not in path.read_text(encoding="utf-8")


def test_front_without_other_candidates_does_not_name_them(tmp_path: Path) -> None:
    member, path = {"accuracy": 0.9, "area": 1e-6}, tmp_path / "front.svg"
    front_scatter({1: member}, [], member, ["accuracy", "area"], path)
    assert "<!-- other candidates -->" not in path.read_text(encoding="utf-8")
    front_scatter({1: member}, [member], member, ["accuracy", "area"], path)
    assert "<!-- other candidates -->" in path.read_text(encoding="utf-8")
