"""A browser for tests, where there is one."""

import os
import shutil
from collections.abc import Iterator

import pytest

__all__ = ["page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def page() -> Iterator[object]:
    """A page of a headless Chromium: CROSSFRONT_CHROMIUM's, the system's, or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("CROSSFRONT_CHROMIUM") or next(
        filter(None, map(shutil.which, _NAMES)), None
    )
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=program, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        yield opened
        browser.close()
