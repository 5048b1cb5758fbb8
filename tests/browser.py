"""A browser for tests, where there is one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["arguments", "page", "program"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str | None:
    """A Chromium: CROSSFRONT_CHROMIUM's or the system's; None: Playwright's own."""
    own = os.environ.get("CROSSFRONT_CHROMIUM")
    return own or next(filter(None, map(shutil.which, _NAMES)), None)


def arguments() -> list[str]:
    """What it needs to run as the user that we are."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a headless Chromium; skips the test where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        if program() is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed, the system's or Playwright's own")
        browser = driver.chromium.launch(executable_path=program(), args=arguments())
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()
