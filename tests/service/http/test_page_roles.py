"""The page of a service with keys, in a real browser: signing in, refusals, reviewers, admins.

The filters are the real ones, under a profile by which two people decide. The service has no worker of its
own: the tests do its jobs, so that they decide when.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from browsing import check_accessibility, chromium, fits_its_width, visit
from patience import DEAD, wait
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from running import Service, b64, png

from openkontext.service.people import accounts
from openkontext.service.people.accounts import NewKey
from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Role
from openkontext.service.workers.worker import Worker

HELD = "put a rifle into his hands"
"""What the filters leave to the reviewers here."""
PROFILE = """
name = "two reviewers"
extends = "default"

[review]
mode = "refused"
reviewers = 2
"""
QUEUE_SIZE = 2


class Keyed(Service):
    """A service with an account of each role, and the worker of the tests."""

    def prepare(self, model: Path) -> "Keyed":
        settings = Settings(data=self.data, model=str(model))
        self.database, self.audit = Database(settings.database), Audit(settings)
        self.database.migrate()
        self.keys: dict[str, NewKey] = {}
        for name in ("ann", "rita", "rolf", "ada"):
            role = {"ann": Role.USER, "ada": Role.ADMIN}.get(name, Role.REVIEWER)
            self.add(name, role)
        self.worker = Worker(settings, self.database)
        return self

    def add(self, name: str, role: Role = Role.USER, scopes: Sequence[str] = accounts.SCOPES) -> str:
        with self.database.transaction() as session:
            account = accounts.add_account(session, self.audit, name, role=role)
            self.keys[name] = accounts.make_key(session, self.audit, account, scopes=scopes)
            return account.id

    def work(self) -> None:
        """Do the next job, as soon as there is one."""
        wait(self.worker.do_next)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    profile = folder / "profile.toml"
    profile.write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENKONTEXT_PROFILE", str(profile))
        patch.setenv("OPENKONTEXT_DATA", str(folder))
        made = Keyed(folder, copier, workers=0, queue_size=QUEUE_SIZE).prepare(copier)
        made.start()
        for key in made.keys.values():
            with made.client(key.key) as client:
                assert client.post("/v1/consent", json={"version": "1"}).status_code == 200
        yield made
        made.database.close()
        made.stop()


@pytest.fixture
def signed_in(browser: Browser, service: Keyed) -> Callable[..., Any]:
    @contextmanager
    def sign_in(name: str, path: str = "/", width: str = "desktop") -> Iterator[Page]:
        with visit(browser, service.url + path, width) as page:
            page.get_by_label("Key").fill(service.keys[name].key)
            page.keyboard.press("Enter")
            expect(page.locator("body")).to_have_attribute("data-ready", "true")
            yield page

    return sign_in


def ask(page: Page, instruction: str) -> None:
    page.get_by_label("Instruction", exact=True).fill(instruction)
    page.keyboard.press("Control+Enter")


def test_signing_in_with_a_key_and_accepting_the_terms(browser: Browser, service: Keyed) -> None:
    service.add("new", scopes=["read"])
    key = service.keys["new"]
    with visit(browser, service.url, "phone") as page:
        page.get_by_label("Key").fill("ok_123_wrong")
        check_accessibility(page)
        page.get_by_role("button", name="Sign in").last.click()
        expect(page.get_by_role("alert")).to_contain_text("no valid key")
        page.get_by_label("Key").fill(key.key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Before you begin")).to_be_visible()
        check_accessibility(page)
        page.get_by_role("button", name="I accept").click()
        expect(page.locator("#who")).to_have_text("new")
        ask(page, "make it")
        expect(page.locator("#notices")).to_contain_text("this key may not edit", ignore_case=True)

        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        cookies = {cookie["name"]: cookie["value"]}
        with httpx2.Client(base_url=service.url, cookies=cookies, timeout=DEAD) as thief:
            assert thief.get("/v1/me").json()["account"] == "new"
            said = thief.post("/v1/feedback", json={"text": "x"})
            assert (said.status_code, "load it again" in said.text) == (403, True)
        with service.database.transaction() as session:
            accounts.revoke_key(session, service.audit, key.id)
        page.reload()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()  # the session ended with its key


def test_two_reviewers_decide_and_the_edit_goes_on(service: Keyed, signed_in: Callable[..., Any]) -> None:
    with signed_in("ann") as ann:
        with ann.expect_file_chooser() as chooser:
            ann.get_by_role("button", name="Choose a picture").click()
        chooser.value.set_files({"name": "photo.png", "mimeType": "image/png", "buffer": png()})
        ask(ann, HELD)
        service.work()
        expect(ann.locator("#message")).to_contain_text("A person looks at this request")

        with signed_in("rita", "/review", "phone") as rita:
            card = rita.get_by_role("article")
            expect(card).to_contain_text("by ann")
            expect(card).to_contain_text("0 of 2 approvals")
            expect(card.get_by_role("row", name="weapons")).to_contain_text("0.60")
            expect(card.get_by_alt_text("Picture handed in, blurred")).to_be_visible()
            card.get_by_role("button", name="Show clearly").click()
            expect(card.get_by_alt_text("Picture handed in", exact=True)).to_be_visible()
            assert fits_its_width(rita)
            check_accessibility(rita)
            card.get_by_role("button", name="Approve").click()
            expect(rita.locator("#notices")).to_contain_text("needs a reason")
            card.get_by_label("Reason of your decision").fill("a drawing")
            card.get_by_role("button", name="Approve").click()
            expect(card).to_contain_text("1 of 2 approvals")
            expect(card).to_contain_text("You approved it already")
            rita.get_by_text("Audit log of the queue").click()
            expect(rita.get_by_role("row", name="seen")).to_contain_text("rita")

        with signed_in("rolf", "/review") as rolf:
            rolf.get_by_label("Reason of your decision").fill("so it is")
            rolf.get_by_role("button", name="Approve").click()
            expect(rolf.locator("#notices")).to_contain_text("It is approved.")
        expect(ann.locator("#progress-text")).to_contain_text("Waiting for its turn")
        service.work()
        expect(ann.locator("#caption")).to_contain_text(HELD)


def test_who_is_no_reviewer_sees_nothing_of_it(service: Keyed, signed_in: Callable[..., Any]) -> None:
    with signed_in("ann", "/review") as page:
        expect(page.locator("#notices")).to_contain_text("needs the role reviewer")
        expect(page.get_by_role("main")).to_be_hidden()
    for name, path, status in (
        ("ann", "/v1/review/requests", 403),
        ("rita", "/v1/admin/accounts", 403),
        ("rita", "/v1/review/requests", 200),
        ("ada", "/v1/review/requests", 200),
    ):
        with service.client(service.keys[name].key) as client:
            assert client.get(path).status_code == status


def test_an_admin_suspends_and_grants_the_appeal(service: Keyed, signed_in: Callable[..., Any]) -> None:
    with signed_in("ann") as ann, signed_in("ada", "/admin") as ada:
        expect(ada.get_by_role("img", name="Edits a day")).to_be_visible()
        check_accessibility(ada)
        ada.get_by_role("button", name="Decide about ann").click()
        ada.get_by_label("New standing").select_option("suspended")
        ada.get_by_label("Reason").fill("a drill")
        ada.get_by_role("button", name="Apply").click()
        expect(ada.get_by_role("row", name="ann")).to_contain_text("suspended")

        ask(ann, "make it")
        expect(ann.get_by_role("dialog")).to_contain_text("It is suspended: a drill.")
        ann.get_by_label("Say why this is wrong").fill("I did nothing.")
        ann.get_by_role("button", name="Send").click()
        expect(ann.locator("#notices")).to_contain_text("a person will look at it")

        ada.get_by_role("button", name="Refresh").click()
        appeal = ada.get_by_role("listitem").filter(has_text="I did nothing.")
        appeal.get_by_role("button", name="Decide…").click()
        ada.get_by_label("Reason").fill("the drill is over")
        ada.get_by_role("button", name="Grant").click()
        expect(appeal).to_contain_text("granted")
        ask(ann, "make it")
        expect(ann.locator("#progress-text")).to_contain_text("Waiting for its turn")
        service.work()
        expect(ann.locator("#caption")).to_contain_text("make it")
        ada.get_by_text("Audit log", exact=True).click()
        expect(ada.get_by_role("row", name="appeal.grant")).to_contain_text("the drill is over")


def test_commands_of_an_edit_take_the_key_from_the_environment(
    service: Keyed, signed_in: Callable[..., Any], tmp_path: Path
) -> None:
    with signed_in("ann") as page:
        ask(page, "make it brighter")
        expect(page.locator("#progress-text")).to_contain_text("Waiting for its turn")
        service.work()
        page.get_by_role("button", name="As a command").click()
        texts = page.locator("pre.command").all_inner_texts()
    for program, text in zip(([shutil.which("sh") or "", "-e"], [sys.executable]), texts, strict=True):
        assert service.keys["ann"].key not in text
        if program[0] != sys.executable and not shutil.which("curl"):
            continue
        keyless = {name: value for name, value in os.environ.items() if name != "KEY"}
        run = functools.partial(
            subprocess.Popen, [*program, "-c", text], cwd=tmp_path, stderr=subprocess.PIPE
        )
        without = run(env=keyless)
        assert b"KEY" in without.communicate(timeout=DEAD)[1]
        assert without.returncode != 0
        started = run(env=keyless | {"KEY": service.keys["ann"].key})
        service.work()
        assert started.communicate(timeout=DEAD) == (None, b"")
        assert Image.open(tmp_path / "edited.png").size == (128, 128)
        (tmp_path / "edited.png").unlink()


def test_a_full_queue_and_a_service_that_is_gone_are_told_in_words(
    service: Keyed, signed_in: Callable[..., Any]
) -> None:
    with signed_in("ann") as page, service.client(service.keys["rolf"].key) as other:
        for _ in range(QUEUE_SIZE):
            other.post("/v1/flux-kontext-dev", json={"prompt": "make it", "input_image": b64(png())})
        ask(page, "make it brighter")
        expect(page.locator("#form-message")).to_contain_text("The queue is full; try again in")
        expect(page.get_by_label("Instruction", exact=True)).to_have_value("make it brighter")
        for _ in range(QUEUE_SIZE):
            service.work()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#progress-text")).to_contain_text("Waiting for its turn")

        page.context.set_offline(True)
        ask(page, "make it")
        expect(page.locator("#form-message")).to_contain_text("The service does not answer")
        service.work()
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        service.work()
        expect(page.locator("#caption")).to_contain_text("make it")
