"""The report as one page, in a browser: it shows what there is, fits, and reaches for nothing outside."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import check_accessibility, chromium, fits_its_width, visit
from playwright.sync_api import Browser, expect

from openkontext import InputError
from openkontext.data.scenes import render as render_scene
from openkontext.evaluation.cases import draw_cases
from openkontext.evaluation.drift import DriftReport, draw_chain, follow
from openkontext.evaluation.editing import Outcome
from openkontext.evaluation.html_report import render, render_drift
from openkontext.evaluation.scene_judge import Fault, Judgment
from openkontext.evaluation.scores import ScoreReport
from openkontext.evaluation.similarity import measure

KINDS = ("recolour", "time", "text")
FACTS = {"model": "nano", "steps": "28"}


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    wrong = Judgment((Fault("color", "the ball is <b>blue</b>"),))
    cases = draw_cases(seed=3, count=9, kinds=KINDS)
    outputs = [case.before if case.index % 2 else case.truth for case in cases]
    return [
        Outcome(
            case,
            output,
            wrong if case.index % 2 else Judgment(()),
            0.5,
            unchanged=case.index == 1,
            measures=measure(case, output),
        )
        for case, output in zip(cases, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page_file(outcomes: list[Outcome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(ScoreReport.of(outcomes), outcomes, "nano & co", "held-out edits", FACTS), "utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_page_shows_scores_plots_and_pictures(browser: Browser, page_file: Path, width: str, scheme: str):
    with visit(browser, page_file.as_uri(), width, color_scheme=scheme) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("How nano & co edits")
        expect(page.locator(".big")).to_have_text("56%")
        expect(page.get_by_role("row", name="recolour")).to_be_visible()
        assert page.locator("figure svg").count() >= 4
        loaded = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(loaded) == 27
        assert min(loaded) > 90
        check_accessibility(page)
        assert fits_its_width(page)


def test_cases_can_be_chosen_and_seen_large(browser: Browser, page_file: Path, outcomes: list[Outcome]):
    with visit(browser, page_file.as_uri()) as page:
        expect(page.locator(".case:visible")).to_have_count(9)
        page.get_by_role("button", name="wrong").click()
        expect(page.locator(".case:visible")).to_have_count(4)
        page.get_by_role("button", name="time", exact=True).click()
        expect(page.locator(".case:visible")).to_have_count(2)
        page.get_by_role("button", name="wrong").click()
        page.get_by_role("button", name="everything").click()
        expect(page.locator(".case:visible")).to_have_count(9)
        page.locator(".case .strip").first.click()
        expect(page.get_by_role("dialog").locator("img")).to_have_count(3)
        expect(page.get_by_role("dialog")).to_contain_text(outcomes[0].case.instruction)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_drift_is_drawn_against_the_turns(browser: Browser, tmp_path: Path, width: str):
    chain = draw_chain(seed=2, index=0, turns=3)
    done = list(follow(chain, lambda picture, *_: picture // 2, lambda picture: picture))
    report = DriftReport.of([kept for kept, _ in done])
    strip = [(None, "start", render_scene(chain.start))]
    strip += [
        (kept, turn.instruction, picture) for turn, (kept, picture) in zip(chain.turns, done, strict=True)
    ]
    text = render_drift(report, [strip], 5, "nano", FACTS)
    (file := tmp_path / "drift.html").write_text(text, "utf-8")
    with visit(browser, file.as_uri(), width) as page:
        expect(page.locator(".big")).to_have_text(f"{report.psnr[-1]:.1f} dB")
        expect(page.get_by_text("The first 1 of 5.")).to_be_visible()
        expect(page.locator(".goals li")).to_have_count(2)  # the scene has a character
        # The higher the value, the higher its mark.
        marks = page.locator(".chart .model circle")
        heights = [-float(marks.nth(i).get_attribute("cy") or 0) for i in range(3)]
        assert list(np.argsort(heights)) == list(np.argsort(report.psnr))
        page.locator(".chain .strip").click()
        expect(page.get_by_role("dialog").locator("img")).to_have_count(4)
        page.keyboard.press("Escape")
        check_accessibility(page)
        assert fits_its_width(page)


def test_what_others_wrote_stays_text_and_nothing_comes_from_outside(page_file: Path):
    text = page_file.read_text("utf-8")
    assert "the ball is &lt;b&gt;blue&lt;/b&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!data:image/webp;base64,)""", text)
    assert "default-src 'none'" in text


def test_without_jinja_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome]):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install '\.\[report\]'"):
        render(ScoreReport.of(outcomes), outcomes, "nano", "held-out edits", FACTS)


def test_only_what_has_a_picture_is_shown_and_all_is_counted(outcomes: list[Outcome]):
    few = [o if o.case.index < 3 else o.without_picture() for o in outcomes]
    text = render(ScoreReport.of(few), few, "nano", "held-out edits", FACTS)
    assert text.count("<article") == 3
    assert "of 9 held-out edits" in text
    assert "67% of 3, the first 1 shown" in text
    assert text.count("data:image/webp") == 9
