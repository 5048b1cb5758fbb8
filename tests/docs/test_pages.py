"""What the pages say: links lead somewhere, examples are read, figures are those of the model."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import search.api
from hwmodel.adc import ADC_LAWS, adc_law
from hwmodel.certificate import certify
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from search.cli import app
from search.config import read_config
from tests.docs.pages import PAGES, ROOT, fenced, table

DOCS = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]


def blocks(language: str, pages: list[Path]) -> list[str]:
    return [block for page in pages for block in fenced(page, language)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]


def test_every_page_is_reached_from_the_first() -> None:
    reached, waiting = {PAGES[0]}, [PAGES[0]]
    while waiting:
        page = waiting.pop()
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            linked = (page.parent / target).resolve()
            if linked in PAGES and linked not in reached:
                reached.add(linked)
                waiting.append(linked)
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("block", blocks("toml", DOCS))
def test_toml_is_a_configuration_or_a_preset(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "examples" / "own")
    if "base" in tomllib.loads(block):
        (tmp_path / "mine.toml").write_text(block)
        load_preset(tmp_path / "mine.toml")
    else:
        read_config(tomllib.loads(block))


def test_tables_of_converters_are_read(tmp_path: Path) -> None:
    (block,) = blocks("csv", DOCS)
    (tmp_path / "mine.csv").write_text(block)
    assert adc_law(f"table:{tmp_path / 'mine.csv'}").cost(8, 1e9, 32e-9).energy_j == 1.7e-12


@pytest.mark.parametrize("block", blocks("python", DOCS))
def test_python_calls_what_there_is(block: str) -> None:
    called = [
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "crossfront"
    ]
    assert called
    assert set(called) <= set(search.api.__all__)


def test_encodings_need_the_bits_that_are_said() -> None:
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    dense = (weight / weight.abs().max() * 127).round().to(torch.int64)
    kept = weight.abs().topk(8, dim=1).indices
    sparse = torch.zeros_like(dense).scatter(1, kept, dense.gather(1, kept))
    found = {
        encoding.value: [
            " ".join(
                map(str, certify(weights, CrossbarSpec(sign_encoding=encoding)).adc_bits_per_slice)
            )
            for weights in (dense, sparse)
        ]
        for encoding in SignEncoding
    }
    assert found == table("explanation/encodings.md")


def test_laws_disagree_as_is_said() -> None:
    def totals(*options: str) -> dict[str, dict[str, float]]:
        words = ["cost", "--network", "resnet20", "--image", "3x32x32", "--band", "--json"]
        laws = json.loads(CliRunner().invoke(app, [*words, *options]).stdout)["band"]["laws"]
        return {law: found["totals"] for law, found in laws.items()}

    dense, pruned = totals(), totals("--nonzeros", "10")
    keys = ("adc_area_m2", "adc_power_w", "area_m2", "power_w")
    found = {law: [f"{dense[law][key] / pruned[law][key]:.2f}" for key in keys] for law in ADC_LAWS}
    assert found == table("explanation/adc-laws.md")
