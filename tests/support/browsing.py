"""Chromium for the tests of the page, and what they ask of every view."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from patience import DEAD
from playwright.sync_api import Browser, Page, expect, sync_playwright

WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
PATIENCE = 1000 * DEAD
"""Milliseconds that a test waits for what must come: the machine may be busy."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or skip the test."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium here; apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that containers lack; it only sees our own page.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str, width: str = "desktop", **options: Any) -> Iterator[Page]:
    """Open a page as a new visitor. Whatever the browser complains of fails the test."""
    size = WIDTHS[width]
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.goto(url)
    yield page
    context.close()
    assert complaints == [], complaints


def check_accessibility(page: Page) -> None:
    """No fault that axe knows of: names, roles, contrast, order of headings and so on."""
    found = Axe().run(page).response["violations"]
    faults = [f"{fault['id']}: {[node['html'][:120] for node in fault['nodes']]}" for fault in found]
    assert faults == [], faults


def fits_its_width(page: Page) -> bool:
    """Whether nothing sticks out sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def choose(page: Page, content: bytes, name: str = "photo.png") -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a picture").click()
    chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})


def ask(page: Page, instruction: str, steps: str = "") -> None:
    page.get_by_label("Steps", exact=True).evaluate("(field, value) => field.value = value", steps)
    page.get_by_label("Instruction", exact=True).fill(instruction)
    page.keyboard.press("Control+Enter")


def download(page: Page, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    saved = folder / started.value.suggested_filename
    started.value.save_as(saved)
    return saved


def tree(page: Page) -> list[tuple[str, int]]:
    """The history as it is shown: titles and levels."""
    items = page.get_by_role("treeitem").all()
    return [(item.locator("b").inner_text(), int(item.get_attribute("aria-level") or 0)) for item in items]


expect.set_options(timeout=PATIENCE)
