"""The page in a real browser, on a running service."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from browsing import (
    PATIENCE,
    ask,
    check_accessibility,
    choose,
    chromium,
    download,
    fits_its_width,
    tree,
    visit,
)
from patience import wait
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from running import Service, brightness, get, png

from openkontext import provenance
from openkontext.images import read_metadata
from openkontext.version import __version__

SLOW = "1000"
"""Steps of an edit that takes long enough to be looked at and stopped."""


UNFINISHED = ("queued", "running")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, slow_copier: Path) -> Iterator[Service]:
    """Without keys, as on one's own machine."""
    made = Service(tmp_path_factory.mktemp("page"), slow_copier, feedback_address="help@example.org").start()
    yield made
    made.stop()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with visit(browser, service.url) as opened:
        expect(opened.locator("body")).to_have_attribute("data-ready", "true")
        yield opened


def test_from_a_picture_to_a_branch_and_a_download(page: Page, tmp_path: Path) -> None:
    choose(page, png(value=100))
    expect(page.get_by_role("img", name="photo.png")).to_be_visible()
    ask(page, "make it brighter")
    line = page.get_by_label("Line between before and after")
    expect(line).to_have_value("50")
    line.focus()
    page.keyboard.press("End")
    expect(line).to_have_attribute("aria-valuetext", "100% before, 0% after")

    ask(page, "make the picture brighter")  # of the result
    expect(page.locator("#caption")).to_contain_text("make the picture brighter")
    assert tree(page) == [("photo.png", 1), ("make it brighter", 2), ("make the picture brighter", 3)]

    page.get_by_role("treeitem", name="make it brighter").focus()  # back, and another way from there
    page.keyboard.press("Enter")
    page.get_by_text("More options").click()
    page.get_by_label("Seed", exact=True).fill("42")
    page.get_by_label("File type").select_option("jpeg")
    ask(page, "it brighter")
    expect(page.locator("#caption")).to_contain_text("seed 42")
    assert tree(page)[1:] == [("make it brighter", 2), ("make the picture brighter", 3), ("it brighter", 3)]

    page.get_by_role("button", name="What is in this file").click()
    card = page.locator("#in-file")
    expect(card).to_contain_text("Nothing was changed since it was signed; signed by this service.")
    steps = card.get_by_role("list").get_by_role("listitem")
    assert [step.inner_text().split(",")[0] for step in steps.all()] == [
        "a picture without a record",
        *[f"edited by openkontext {__version__} with copier"] * 2,
    ]
    saved = download(page, tmp_path)
    assert saved.suffix == ".jpeg"
    assert abs(brightness(saved.read_bytes()) - 100 - 2 * 12.75) < 2
    report = provenance.verify(saved)  # the file says by itself what the page showed
    assert (report.valid, len(report.chain)) == (True, 2)
    written = read_metadata(saved)
    assert written["seed"] == "42"
    for value in written.values():
        expect(card).to_contain_text(value)
    check_accessibility(page)


def test_reading_the_history_with_the_keyboard(page: Page) -> None:
    choose(page, png(value=90))
    ask(page, "make it")
    expect(page.locator("#caption")).to_contain_text("make it")
    page.locator("[role=treeitem][tabindex='0']").focus()
    for key, level in (("ArrowLeft", "1"), ("ArrowRight", "2"), ("ArrowUp", "1"), ("ArrowDown", "2")):
        page.keyboard.press(key)
        expect(page.locator(":focus")).to_have_attribute("aria-level", level)


def test_only_what_is_painted_changes(page: Page, tmp_path: Path) -> None:
    choose(page, png(value=100))
    page.get_by_role("button", name="Paint where it may change").click()
    page.get_by_label("Fill a part").select_option(label="the left half")
    brush = page.get_by_role("application")
    brush.focus()
    for _ in range(30):  # from the middle to the right edge, brush down over the last steps
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Undo").click()  # takes the stroke back, leaves the half
    page.get_by_role("button", name="Done").click()
    ask(page, "make it brighter")
    expect(page.locator("#caption")).to_contain_text("make it brighter")
    result = Image.open(download(page, tmp_path))
    assert result.getpixel((120, 50)) == (100, 100, 100)
    assert abs(result.getpixel((10, 50))[0] - 100 - 12.75) < 2


def test_pictures_come_by_dropping_and_pasting_too(page: Page) -> None:
    for kind, event in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        page.evaluate(
            """([kind, event, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, { type: "image/png" }));
                const given = { bubbles: true, cancelable: true };
                given[kind === "drop" ? "dataTransfer" : "clipboardData"] = data;
                document.body.dispatchEvent(new window[event](kind, given));
            }""",
            [kind, event, list(png())],
        )
        expect(page.get_by_role("img", name=f"{kind}.png")).to_be_visible()
        expect(page.get_by_role("treeitem", selected=True)).to_contain_text(f"{kind}.png")


def test_another_try_asks_for_the_same_with_another_seed(page: Page, service: Service) -> None:
    choose(page, png(value=100))
    page.get_by_label("Reference picture file").set_input_files(
        {"name": "style.png", "mimeType": "image/png", "buffer": png(value=30)}
    )
    expect(page.get_by_alt_text("Reference 1: style.png")).to_be_visible()
    page.get_by_text("More options").click()
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_label("Shape", exact=True).select_option("1:1")
    ask(page, "make it brighter")
    expect(page.locator("#caption")).to_contain_text("seed 5")
    page.get_by_role("button", name="Remove reference 1").click()
    page.reload()  # what the second try needs comes from the service
    page.get_by_role("button", name="Another try").click()
    expect(page.locator("#caption")).not_to_contain_text("seed 5")
    with service.client() as client:
        second, first = client.get("/v1/jobs", params={"limit": 2}).json()["edits"]
    for edit in (first, second):
        assert (edit["prompt"], edit["references"], edit["options"]["aspect_ratio"]) == (
            "make it brighter",
            1,
            [1, 1],
        )
    assert first["source"] == second["source"]
    page.get_by_text("More options").click()
    page.get_by_role("button", name="Reuse").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(second["result"]["seed"]))


def test_a_reload_in_the_middle_keeps_the_edit_and_cancel_ends_it(page: Page) -> None:
    choose(page, png(value=80))
    ask(page, "make it", SLOW)
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_alt_text("A first glimpse of the result")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    expect(page.locator("#progress-text")).to_contain_text("Working")
    expect(page.get_by_role("treeitem", selected=True)).to_contain_text("make it")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#message")).to_contain_text("It was cancelled")
    expect(page.get_by_label("Instruction", exact=True)).to_have_value("make it")  # to change and ask again
    expect(page.get_by_role("treeitem", selected=True)).to_contain_text("cancelled")


def test_a_refusal_is_told_with_its_reason_and_can_be_objected_to(page: Page, service: Service) -> None:
    ask(page, "put a rifle into his hands")
    expect(page.locator("#message")).to_contain_text("This was refused: the instruction asks for weapons.")
    expect(page.get_by_role("treeitem", selected=True)).to_contain_text("refused")
    expect(page.get_by_label("Instruction", exact=True)).to_have_value("put a rifle into his hands")
    expect(page.locator("#prompt-problem")).to_contain_text(
        "This was refused: the instruction asks for weapons."
    )
    check_accessibility(page)
    page.get_by_role("button", name="This refusal is wrong").click()
    expect(page.get_by_label("What is it about?")).to_have_value("wrong refusal")
    page.get_by_label("What happened?").fill("It is a toy.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#notices")).to_contain_text("Thank you")
    refused = page.url.partition("#")[2]
    with service.client() as client:
        assert client.get(f"/v1/jobs/{refused}/pictures/input").status_code == 404
    page.goto(f"{service.url}/admin")
    expect(page.locator("#feedback-list")).to_contain_text("It is a toy.")


def test_a_refusal_that_is_quicker_than_the_page_leaves_the_instruction(page: Page, service: Service) -> None:
    def late(route: Route) -> None:
        with service.client() as client:
            path = httpx2.URL(route.request.url).path
            wait(lambda: client.get(path).json()["details"]["state"] not in UNFINISHED)
        route.continue_()

    page.route(re.compile(r"/v1/jobs/[0-9a-f-]+$"), late, times=1)
    ask(page, "put a rifle into his hands")
    expect(page.locator("#message")).to_contain_text("This was refused")
    expect(page.get_by_label("Instruction", exact=True)).to_have_value("put a rifle into his hands")


def test_what_cannot_be_read_is_said_before_it_is_sent(page: Page) -> None:
    choose(page, b"no picture", "notes.txt")
    expect(page.locator("#notices")).to_contain_text("notes.txt is not a picture")
    choose(page, png(6000, 5000))
    expect(page.locator("#notices")).to_contain_text("30 megapixels; at most 25")
    page.get_by_role("button", name="Use a smaller copy").click()
    expect(page.locator("#base-title")).to_have_text("photo.png, smaller")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#prompt-problem")).to_contain_text("Say what to change")
    expect(page.get_by_label("Instruction", exact=True)).to_be_focused()


def test_another_sites_page_cannot_use_the_open_service(service: Service) -> None:
    with service.client() as client:
        assert client.get("/v1/me").json()["open"] is True
        for headers in (
            {"Origin": "http://localhost:3000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        ):
            assert client.post("/v1/feedback", json={"text": "x"}, headers=headers).status_code == 403
        ours = {"Origin": service.url, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/feedback", json={"text": "x"}, headers=ours).status_code == 200


def test_the_policy_lets_no_foreign_or_inline_script_run(browser: Browser, service: Service) -> None:
    policy = get(service.url).headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    page = browser.new_page()
    page.goto(service.url, timeout=PATIENCE)
    ran = page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.ran = 1";
        document.body.append(script); return window.ran; }"""
    )
    page.close()
    assert ran is None


@pytest.mark.parametrize(
    ("width", "scheme"), [("phone", "dark"), ("tablet", "light"), ("desktop", "light"), ("desktop", "dark")]
)
def test_the_empty_page_reads_well(browser: Browser, service: Service, width: str, scheme: str) -> None:
    with visit(browser, service.url, width, color_scheme=scheme) as page:
        expect(page.get_by_role("button", name="make it winter").first).to_be_visible()
        page.get_by_text("More options").click()
        assert fits_its_width(page)
        check_accessibility(page)
        for name in ("Feedback", "Help"):
            page.get_by_role("button", name=name).click()
            expect(page.get_by_role("dialog")).to_be_visible()
            check_accessibility(page)
            page.keyboard.press("Escape")
