"""What the page does with an edit beside showing it, in a real browser: again, beside others, deleted."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from browsing import ask, check_accessibility, choose, chromium, fits_its_width, tree, visit
from patience import wait
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect
from running import Service, b64, get, png, poll

LARGEST = 2**64 - 1
"""A seed that a JavaScript number would round."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("tools"), copier).start()
    yield made
    made.stop()


@pytest.fixture
def api(service: Service) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def page(browser: Browser, service: Service, api: httpx2.Client) -> Iterator[Page]:
    for edit in api.get("/v1/jobs").json()["edits"]:  # the page opens with an edit that is under way
        poll(api, edit["id"])
    allowed = ["clipboard-read", "clipboard-write"]
    with visit(browser, service.url, permissions=allowed) as opened:
        expect(opened.locator("body")).to_have_attribute("data-ready", "true")
        yield opened


def instruction(page: Page) -> Locator:
    return page.get_by_label("Instruction", exact=True)


def show(page: Page, id: str) -> None:
    page.goto(f"{page.url}#{id}")
    expect(page.locator("#caption")).to_be_visible()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def what_is_asked(told: dict[str, Any]) -> list[Any]:
    options = {name: value for name, value in told["options"].items() if name != "preview"}
    return [told["prompt"], options, told["references"], told["has_mask"]]


def edit(api: httpx2.Client, **fields: object) -> str:
    """Have the service do an edit; its id."""
    id = api.post("/v1/flux-kontext-dev", json={"input_image": b64(png()), **fields}).json()["id"]
    assert poll(api, id)["status"] == "Ready"
    return str(id)


def test_an_edits_settings_stay_and_are_taken_again(page: Page, api: httpx2.Client) -> None:
    choose(page, png())
    page.get_by_label("Reference picture file").set_input_files(
        {"name": "style.png", "mimeType": "image/png", "buffer": png(value=30)}
    )
    page.get_by_role("button", name="Paint where it may change").click()
    page.get_by_label("Fill a part").select_option(label="the left half")
    page.get_by_role("button", name="Done").click()
    page.get_by_text("More options").click()
    given = {"Seed": str(LARGEST), "Guidance": "2.5"}
    for label, value in given.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Shape", exact=True).select_option("3:4")
    page.get_by_label("File type").select_option("webp")
    ask(page, "make it brighter", "7")
    expect(page.locator("#caption")).to_contain_text(f"seed {LARGEST} ")
    expect(instruction(page)).to_have_value("make it brighter")  # to be changed and asked again

    page.reload()
    instruction(page).fill("something else")
    page.get_by_role("button", name="Use these settings").click()
    expect(instruction(page)).to_be_focused()
    expect(instruction(page)).to_have_value("make it brighter")
    expect(page.get_by_alt_text("Reference 1")).to_be_visible()
    expect(page.locator("#mask")).to_have_text("Mask: painted")
    for label, value in {**given, "Steps": "7", "Shape": "3:4", "File type": "webp"}.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    check_accessibility(page)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("treeitem")).to_have_count(3)
    expect(page.get_by_role("treeitem", selected=True)).not_to_contain_text("w")  # neither waits nor works
    edits = api.get("/v1/jobs", params={"limit": 2}).json()["edits"]
    first, second = (f"/v1/jobs/{one['id']}" for one in edits)
    assert api.get(first).json()["options"] == api.get(second).json()["options"]
    assert api.get(first).json()["options"]["seed"] == LARGEST
    masks = [pixels(api.get(f"{path}/pictures/mask").content) for path in (first, second)]
    assert masks[0].mean() == pytest.approx(127.5, abs=1)
    assert masks[0].mean() == pytest.approx(masks[1].mean(), abs=1)


def test_settings_without_a_field_are_named_and_can_be_left_out(page: Page, api: httpx2.Client) -> None:
    asked = {"negative_prompt": "fog", "true_cfg_scale": 1.5, "width": 128, "height": 96, "seed": 1}
    show(page, edit(api, prompt="make it", **asked))
    page.get_by_role("button", name="Use these settings").click()
    further = page.get_by_role("list", name="Further settings")
    expect(further).to_contain_text("Not to show: fog")
    expect(page.get_by_label("Shape", exact=True)).to_have_value("128x96")
    page.get_by_role("button", name="Leave out: True guidance").click()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("treeitem", name=re.compile("^make it: "))).to_have_count(2)
    options = api.get("/v1/jobs", params={"limit": 1}).json()["edits"][0]["options"]
    assert {name: options.get(name) for name in asked} == {**asked, "true_cfg_scale": None}


def test_a_result_of_the_pictures_own_size(page: Page, api: httpx2.Client) -> None:
    choose(page, png(300, 200))
    page.get_by_text("More options").click()
    page.get_by_label("Shape", exact=True).select_option(label="the picture's own size")
    ask(page, "make it brighter")
    expect(page.locator("#caption")).to_contain_text("300 × 200")
    last = api.get("/v1/jobs", params={"limit": 1}).json()["edits"][0]
    assert pixels(api.get(f"/v1/jobs/{last['id']}/pictures/output").content).shape == (200, 300, 3)
    notes = page.get_by_role("list", name="Notes").get_by_role("listitem").all_inner_texts()
    assert [note.lower() for note in notes] == [note.lower() for note in last["result"]["notes"]]
    page.reload()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Shape", exact=True)).to_have_value("original")


def test_a_picture_that_the_browser_cannot_show_is_edited(page: Page, api: httpx2.Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (128, 96), (140, 140, 140)).save(buffer, "TIFF")
    choose(page, buffer.getvalue(), "scan.tiff")
    expect(page.locator("#picture")).to_contain_text("scan.tiff: this browser cannot show it.")
    page.get_by_role("button", name="Paint where it may change").click()
    expect(page.locator("#form-message")).to_contain_text("nothing can be painted over it")
    ask(page, "make it brighter")
    expect(page.get_by_role("img", name="After")).to_be_visible()
    expect(page.locator("#picture img")).to_have_count(1)
    check_accessibility(page)


def test_older_edits_are_loaded_when_asked_for(browser: Browser, service: Service) -> None:
    def fewer(route: Route) -> None:
        url = httpx2.URL(route.request.url)
        route.fulfill(json=get(url.copy_set_param("limit", 2)).json())

    with service.client() as api, visit(browser, service.url) as page:
        for seed in range(5):
            edit(api, prompt="make it old", seed=seed)
        page.route(re.compile(r"/v1/jobs(\?.*)?$"), fewer)
        page.reload()
        mine = page.get_by_role("treeitem", name="make it old")
        for count in (2, 4):
            expect(mine).to_have_count(count)
            page.get_by_role("button", name="Older edits").click()
        expect(mine).to_have_count(5)


def test_variants_stand_side_by_side_and_one_is_gone_on_from(page: Page, api: httpx2.Client) -> None:
    choose(page, png(value=101))
    page.get_by_text("More options").click()
    page.get_by_label("Seed", exact=True).fill(str(LARGEST - 1))
    page.get_by_label("How many variants").select_option("3")
    ask(page, "make it brighter")
    beside = page.get_by_role("list", name="Variants side by side")
    expect(beside.get_by_role("img")).to_have_count(3)
    seeds = [LARGEST - 1, LARGEST, 0]
    for seed in seeds:
        expect(beside.get_by_text(f"Seed {seed}", exact=True)).to_be_visible()
    assert [level for _, level in tree(page)[:4]] == [1, 2, 2, 2]
    check_accessibility(page)
    page.reload()  # the address says that they are shown so
    expect(beside.get_by_role("img")).to_have_count(3)
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert fits_its_width(page)

    page.get_by_role("button", name=f"Go on from this: Seed {LARGEST}", exact=True).click()
    expect(page.locator("#caption")).to_contain_text(f"seed {LARGEST} ")
    expect(beside).to_be_hidden()
    page.get_by_label("How many variants").select_option("1")
    ask(page, "brighter still")
    expect(page.locator("#caption")).to_contain_text("brighter still")
    last = api.get("/v1/jobs", params={"limit": 1}).json()["edits"][0]
    assert api.get(f"/v1/jobs/{last['parent_id']}").json()["result"]["seed"] == LARGEST
    page.get_by_role("treeitem", name="make it brighter").first.click()
    page.get_by_role("button", name="Side by side (3)").click()
    expect(beside.get_by_role("img")).to_have_count(3)


def test_of_variants_that_are_refused_one_is_asked_for(page: Page, api: httpx2.Client) -> None:
    before = len(api.get("/v1/jobs").json()["edits"])
    page.get_by_label("How many variants").select_option("4")
    ask(page, "put a rifle into his hands")
    problem = page.locator("#prompt-problem")
    expect(problem).to_contain_text("This was refused: the instruction asks for weapons.")
    expect(page.get_by_role("button", name="Edit Ctrl")).to_be_enabled()
    page.wait_for_timeout(1500)  # longer than the page waits between two looks
    assert len(api.get("/v1/jobs").json()["edits"]) == before + 1
    instruction(page).press_sequentially("!")
    expect(problem).to_be_empty()


def test_closer_and_full_screen(page: Page, api: httpx2.Client) -> None:
    show(page, edit(api, prompt="make it brighter"))
    frame, picture = page.locator("#frame"), page.locator("#picture")
    width, height = (frame.evaluate(f"frame => frame.{side}") for side in ("clientWidth", "clientHeight"))
    fits = picture.bounding_box()
    page.get_by_role("button", name="Larger").click()
    page.keyboard.press("+")
    wait(lambda: picture.bounding_box()["width"] == pytest.approx(2 * fits["width"], abs=2))
    assert frame.evaluate("frame => frame.scrollHeight > frame.clientHeight")
    assert frame.evaluate("frame => frame.offsetHeight") == pytest.approx(height, abs=4)
    assert frame.evaluate("frame => frame.scrollTop + frame.clientHeight / 2") == pytest.approx(
        frame.evaluate("frame => frame.scrollHeight / 2"), abs=2
    )  # what was in the middle stays there
    assert fits_its_width(page)
    check_accessibility(page)
    page.get_by_label("Line between before and after").focus()
    page.keyboard.press("0")
    wait(lambda: picture.bounding_box()["width"] == pytest.approx(fits["width"], abs=2))
    assert frame.evaluate("frame => frame.clientWidth") == width

    page.get_by_role("button", name="Full screen").click()
    leave = page.get_by_role("button", name="Leave full screen")
    expect(leave).to_be_visible()
    assert page.evaluate("document.fullscreenElement.id") == "viewer"
    wait(lambda: picture.bounding_box()["height"] > fits["height"])
    box = picture.bounding_box()
    assert box["y"] + box["height"] <= page.evaluate("innerHeight")
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Full screen", exact=True)).to_be_visible()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_goes_into_the_clipboard(page: Page, api: httpx2.Client, kind: str) -> None:
    id = edit(api, prompt="make it brighter", output_format=kind)
    show(page, id)
    page.get_by_role("button", name="Copy picture").click()
    expect(page.locator("#status")).to_have_text("The picture is in the clipboard.")
    content = page.evaluate(
        """async () => {
            const [item] = await navigator.clipboard.read();
            return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())];
        }"""
    )
    made = pixels(api.get(f"/v1/jobs/{id}/pictures/output").content)
    assert np.abs(pixels(bytes(content)).astype(int) - made).max() <= 2


def test_an_edit_as_a_command_does_it_again(page: Page, api: httpx2.Client, tmp_path: Path) -> None:
    half = Image.new("L", (128, 96))
    half.paste(255, (0, 0, 64, 96))
    mask = io.BytesIO()
    half.save(mask, "PNG")
    prompt = """it's "brighter" \\ 100% `$HOME` é"""
    asked = {"seed": LARGEST, "mask": b64(mask.getvalue()), "input_image_2": b64(png(value=30)), "steps": 3}
    id = edit(api, prompt=prompt, output_format="webp", keep_unchanged=False, **asked)
    show(page, id)
    page.get_by_role("button", name="As a command").click()
    check_accessibility(page)
    made = pixels(api.get(f"/v1/jobs/{id}/pictures/output").content)
    for name, command in (("curl", ["sh", "-e"]), ("Python", [sys.executable])):
        if shutil.which(command[0]) is None or (name == "curl" and shutil.which("curl") is None):
            continue
        page.get_by_role("button", name=f"Copy as {name}").click()
        expect(page.locator("#status")).to_have_text(f"Copied as {name}.")
        text = page.evaluate("navigator.clipboard.readText()")
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(command, input=text, cwd=folder, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        again = api.get("/v1/jobs", params={"limit": 1}).json()["edits"][0]
        assert again["id"] != id
        assert what_is_asked(again) == what_is_asked(api.get(f"/v1/jobs/{id}").json())
        assert (pixels((folder / "edited.webp").read_bytes()) == made).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_result_that_is_dropped_brings_its_settings(page: Page, api: httpx2.Client, kind: str) -> None:
    prompt = "make “it” brighter, ночь 🌙"
    asked = {"seed": LARGEST, "steps": 3, "guidance": 1.5, "output_format": kind}
    content = api.get(f"/v1/jobs/{edit(api, prompt=prompt, **asked)}/pictures/output").content
    instruction(page).fill("mine")
    choose(page, content, f"result.{kind}")
    expect(instruction(page)).to_have_value(prompt)
    for label, value in {"Seed": str(LARGEST), "Steps": "3", "Guidance": "1.5"}.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    check_accessibility(page)
    page.get_by_role("button", name="Take back").click()
    expect(instruction(page)).to_have_value("mine")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")
    expect(page.locator("#form-message")).to_be_hidden()


def test_steps_are_deleted_with_their_pictures(page: Page, api: httpx2.Client) -> None:
    first = edit(api, prompt="delete this")
    second = edit(api, prompt="keep this", parent_id=first, input_image="")
    show(page, first)
    page.reload()
    page.get_by_role("button", name="Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("“delete this” goes with its pictures. What was made of it stays.")
    check_accessibility(page)
    dialog.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("treeitem", name="delete this")).to_be_visible()
    page.get_by_role("treeitem", name="delete this").focus()
    page.keyboard.press("Delete")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("treeitem", name="delete this")).to_have_count(0)
    assert api.get(f"/v1/jobs/{first}/pictures/output").status_code == 404
    page.get_by_role("treeitem", name="keep this").click()
    expect(page.get_by_label("Line between before and after")).to_be_visible()  # the service kept a copy
    page.get_by_role("button", name="Another try").click()
    expect(page.get_by_role("button", name="Side by side (2)")).to_have_count(0)
    expect(page.get_by_role("treeitem", name="keep this")).to_have_count(2)
    again = api.get("/v1/jobs", params={"limit": 1}).json()["edits"][0]
    assert again["source"] is not None  # made of the same picture, though the edit that made it is gone
    poll(api, again["id"])

    choose_other = page.get_by_role("treeitem", name="Picture: original").first
    choose_other.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(dialog).to_contain_text("so do")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("treeitem", name="keep this")).to_have_count(1)
    assert api.get(f"/v1/jobs/{again['id']}").status_code == 404
    assert api.get(f"/v1/jobs/{second}").status_code == 200


def test_one_who_is_alone_is_offered_no_review_and_no_accounts(page: Page) -> None:
    expect(page.get_by_role("button", name="Help")).to_be_visible()
    expect(page.get_by_role("navigation")).to_be_hidden()
    page.goto(f"{page.url}admin")  # they can be come to by name
    expect(page.get_by_role("heading", name="Administration")).to_be_visible()


def test_the_page_says_that_the_service_is_starting(browser: Browser, service: Service) -> None:
    asked: list[bool] = []
    starting = True

    def about(route: Route) -> None:
        told = get(f"{service.url}/v1/about").json()
        asked.append(starting)
        route.fulfill(json={**told, "ready": told["ready"] and not starting})

    with visit(browser, service.url) as page:
        expect(page.locator("body")).to_have_attribute("data-ready", "true")
        page.route("**/v1/about", about)
        page.reload()
        expect(page.get_by_text("The model and the filters are being loaded.")).to_be_visible()
        check_accessibility(page)
        starting = False
        expect(page.locator("#starting")).to_be_hidden()
        assert asked[0]
        assert not asked[-1]  # it asked again by itself
