"""The documentation's pages, and what is fenced or quoted in them."""

import re
import shlex
from pathlib import Path

__all__ = ["PAGES", "ROOT", "command_lines", "fenced", "table"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def fenced(page: Path, language: str) -> list[str]:
    """The blocks of a language; of none: ''."""
    text = page.read_text(encoding="utf-8")
    return [block for found, block in _FENCE.findall(text) if found == language]


def command_lines(page: Path) -> list[str]:
    """Every command line of ours, as it is typed."""
    lines = [line.strip() for block in fenced(page, "") for line in block.splitlines()]
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    lines += re.findall(r"`(crossfront [^\s`]+ [^`]+)`", prose)  # with arguments, not a mere name
    found = [line for line in lines if line.startswith("crossfront ")]
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in found))


def table(page: str) -> dict[str, list[str]]:
    """The first table of a page: its rows, by their first cell."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {name: cells for name, *cells in rows[2:]}
