"""The run: cases through an editor, its scores, and its contact sheet."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from stand_ins import Copying, Knowing

import openkontext
import openkontext.editor
from openkontext.cli import main
from openkontext.data.edits import FIRST_KINDS, KINDS, TASKS
from openkontext.errors import InputError, RefusedError
from openkontext.evaluation.cases import Case, draw_cases
from openkontext.evaluation.editing import Outcome, edited_by, evaluate, round_trip, with_first_pictures
from openkontext.evaluation.scene_judge import Fault, Judgment
from openkontext.evaluation.scores import Score, ScoreReport
from openkontext.evaluation.sheet import contact_sheet
from openkontext.provenance.report import verify
from openkontext.repository import RepositoryConfig


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return draw_cases(seed=3, count=2 * len(FIRST_KINDS), kinds=FIRST_KINDS)


class Lossless:
    """An autoencoder that loses nothing."""

    precision = "bf16"

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return latents


def outcomes_of(cases: list[Case], failing: set[int]) -> list[Outcome]:
    """Outcomes made up: failures by their index."""
    wrong = Judgment((Fault("color", "the ball is blue"), Fault("outside", "the rest changed")))
    return [Outcome(c, c.truth, wrong if c.index in failing else Judgment(()), 0.5) for c in cases]


@pytest.mark.parametrize(("right", "count"), [(0, 9), (7, 10), (180, 300), (5, 5)])
def test_the_interval_is_wilsons(right: int, count: int):
    score = Score.of([True] * right + [False] * (count - right))
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert (score.success, score.count) == (right / count, count)


def test_an_editor_that_copies_fails_and_one_that_knows_succeeds(cases: list[Case]):
    few = cases[:9]
    assert not any(o.judgment.success for o in evaluate(few, edited_by(Copying())))
    assert all(o.judgment.success for o in evaluate(few, edited_by(Knowing(few))))


def test_the_ceiling_of_a_lossless_autoencoder_is_the_truth(cases: list[Case]):
    for outcome in evaluate(cases[:3], round_trip(Lossless())):
        assert np.array_equal(outcome.output, outcome.case.truth)


def test_the_editor_gets_the_cases_options():
    class Recording(Copying):
        def edit(self, image, prompt, **options):
            self.asked = (prompt, options)
            return super().edit(image, prompt)

    editor, case = Recording(), draw_cases(0, 8)[7]
    edited_by(editor, num_inference_steps=4, guidance_scale=2.0)(case)
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 7}
    assert editor.asked == (case.instruction, options | {"true_cfg_scale": 1, "negative_prompt": None})
    edited_by(editor, num_inference_steps=4, guidance_scale=2.0, true_cfg_scale=3.0)(case)
    assert editor.asked == (case.instruction, options | {"true_cfg_scale": 3, "negative_prompt": ""})


def test_outputs_are_kept_signed_and_found_again(cases: list[Case], copier: Path, tmp_path: Path):
    editor, asked = openkontext.load(copier), cases[:2]
    first = list(evaluate(asked, edited_by(editor, 1, outputs=tmp_path / "new" / "kept")))
    files = sorted((tmp_path / "new" / "kept").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png"]
    assert not verify(files[0]).tampering

    class Gone:
        digest = editor.digest  # and nothing that edits

    again = list(evaluate(asked, edited_by(Gone(), 1, outputs=tmp_path / "new" / "kept")))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.output, other.output)
        assert (one.unchanged, one.measures) == (other.unchanged, other.measures)
        assert one.seconds == pytest.approx(other.seconds, abs=1e-3)
    with pytest.raises(InputError, match=r"00000\.png: is of another run"):
        next(evaluate(asked, edited_by(editor, 2, outputs=tmp_path / "new" / "kept")))


def test_the_report_counts_every_part(cases: list[Case]):
    failing = {0, 9, 10}  # both recolorings and the second replacement
    report = ScoreReport.of(outcomes_of(cases, failing))
    assert report.overall.success == pytest.approx(15 / 18)
    assert report.kinds["recolour"].success == 0
    assert report.kinds["replace"].success == 0.5
    assert report.kinds["look"].success == 1
    assert report.combinations["unseen"].success == pytest.approx(8 / 9)  # the first turn
    assert report.combinations["seen"].success == pytest.approx(7 / 9)
    assert set(report.phrasings) == {"unseen"}  # the first two turns
    assert report.faults == {
        "recolour": {"color": 2, "outside": 2},
        "replace": {"color": 1, "outside": 1},
    }
    assert report.seconds == 9
    assert json.loads(json.dumps(report.record()))["overall"].keys() == {"success", "low", "high", "count"}


def test_the_report_says_what_is_seen_and_what_the_goals_are():
    cases = draw_cases(seed=3, count=4, kinds=("recolour", "time"))  # unseen, then seen
    report = ScoreReport.of(outcomes_of(cases, failing={0, 3}))
    assert {part: score.success for part, score in report.parts["local"].items()} == {"seen": 1, "unseen": 0}
    assert {part: score.success for part, score in report.parts["time"].items()} == {"seen": 0, "unseen": 1}
    assert [(goal.what, goal.reached, goal.met) for goal in report.goals] == [
        ("all edits", 0.5, False),
        ("task: local", 0.5, False),
        ("task: global", 0.5, False),
        ("unseen combinations below seen", 0, True),
    ]
    better = ScoreReport.of(outcomes_of(cases, failing=set()))
    assert all(goal.met for goal in better.goals)
    worse = ScoreReport.of(outcomes_of(cases, failing={0}))
    assert (worse.goals[-1].reached, worse.goals[-1].met) == (0.5, False)
    assert report.record()["goals"][0] == {
        "what": "all edits", "bound": 0.85, "reached": 0.5, "is_gap": False, "met": False
    }  # fmt: skip


def test_pictures_beyond_the_first_of_a_kind_are_let_go(cases: list[Case]):
    outcomes = list(with_first_pictures(outcomes_of(cases, {9}), per_kind=1))
    assert [bool(outcome.output.size) for outcome in outcomes] == [True] * 9 + [False] * 9
    assert ScoreReport.of(outcomes) == ScoreReport.of(outcomes_of(cases, {9}))


def test_the_report_counts_tasks():
    cases = draw_cases(seed=3, count=len(KINDS))
    failing = {i for i, case in enumerate(cases) if case.edit.kind in ("resize", "text")}
    report = ScoreReport.of(outcomes_of(cases, failing))
    assert report.tasks["local"].success == pytest.approx(6 / 7)
    assert report.tasks["text"].success == 0
    assert {name: score.count for name, score in report.tasks.items()} == {
        name: len(kinds) for name, kinds in TASKS.items()
    }


def test_the_sheet_shows_the_first_cases_of_every_kind_whole(cases: list[Case]):
    outcomes = outcomes_of(cases, {1})
    sheet = contact_sheet(outcomes, "a title")
    assert sheet.shape[2] == 3
    # A picture that is changed shows on the sheet; one of a later case does not.
    inverted = [replace(o, output=255 - o.output) for o in outcomes]
    for index in (0, 17):
        changed = [*outcomes[:index], inverted[index], *outcomes[index + 1 :]]
        assert (contact_sheet(changed, "a title") != sheet).sum() > 10_000
    more = outcomes + outcomes_of(draw_cases(seed=3, count=36, kinds=FIRST_KINDS)[18:], set())
    other = [*more[:35], replace(more[35], output=255 - more[35].output)]
    assert np.array_equal(contact_sheet(more, "a title"), contact_sheet(other, "a title"))


class Nano(Copying):
    """Stands in for the model that the command line opens."""

    components = Lossless()
    digest = "0123456789abcdef0123"
    loras = ()

    class repository:
        config = RepositoryConfig(name="nano")


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openkontext.editor, "load", lambda *_, **__: Nano())


@pytest.mark.usefixtures("nano")
def test_the_command_prints_one_json_object(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "edits", "--seed", "3", "--count", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["model"], record["seed"], record["overall"]["count"]) == ("nano", 3, 5)
    assert (record["kind"], record["precision"]) == ("evaluation", Lossless.precision)
    assert record["subjects"] == [{"name": "nano", "digest": Nano.digest}]
    assert record["overall"]["success"] == 0
    assert list(record["kinds"]) == list(KINDS[:5])
    assert {"combinations", "phrasings", "faults", "seconds"} < record.keys()


@pytest.mark.usefixtures("nano")
def test_the_command_asks_for_the_kinds_that_are_named(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "edits", "--kinds", "time, impossible", "--count", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["kinds"]) == ["time", "impossible"]
    assert record["kinds"]["impossible"]["success"] == 1  # a copy leaves all as it is
    assert record["unchanged"] == {"global": 2, "impossible": 2}
    assert main(["evaluate", "edits", "--kinds", "time,shape"]) == 2
    assert "there is no 'shape'; choose of recolour, replace" in capsys.readouterr().err


@pytest.mark.usefixtures("nano")
def test_without_kinds_the_repositorys_own_are_asked(monkeypatch, capsys: pytest.CaptureFixture[str]):
    config = RepositoryConfig(name="nano", kinds=("count", "text"))
    monkeypatch.setattr(Nano, "repository", SimpleNamespace(config=config))
    assert main(["evaluate", "edits", "--count", "4"]) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^  (\w+:| +\w+ +\d+\.\d%)", shown, re.MULTILINE)
    assert [row.split()[0] for row in rows][:6] == ["tasks:", "local", "text", "kinds:", "count", "text"]
    assert "not met: task: local 0%, goal 70%" in shown


@pytest.mark.usefixtures("nano")
def test_others_cases_are_measured_by_the_same_command(tmp_path, capsys: pytest.CaptureFixture[str]):
    case = draw_cases(seed=0, count=1)[0]
    for name, pixels in (("a.png", case.before), ("b.png", case.truth)):
        Image.fromarray(pixels).save(tmp_path / name)
    line = {"before": "a.png", "after": "b.png", "instruction": case.instruction, "task": "local"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    asked = ["evaluate", "edits", "--cases", str(tmp_path / "mine.jsonl")]
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    assert main([*asked, "--json", "--sheet", str(sheet), "--report", str(page)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["source"], record["count"], record["overall"]) == ("mine", 1, None)
    assert record["measures"]["local"].keys() == {"changed", "outside", "ssim_input", "psnr", "ssim"}
    assert sheet.exists()
    assert "cases of mine, edited and measured" in page.read_text()
    assert main(asked) == 0
    assert "success is not judged" in " ".join(capsys.readouterr().out.split())
    for option in (["--kinds", "time"], ["--ceiling"]):
        assert main([*asked, *option]) == 2
    assert main([*asked, "--report", str(page)]) == 2
    assert "page.html: exists already" in capsys.readouterr().err
    assert main([*asked, "--report", str(tmp_path / "page.txt")]) == 2
    assert "use .html" in capsys.readouterr().err


@pytest.mark.usefixtures("nano")
def test_the_command_prints_a_table_and_writes_the_sheet(tmp_path, capsys: pytest.CaptureFixture[str]):
    sheet = tmp_path / "sheet.png"
    command = ["evaluate", "edits", "--ceiling", "--count", "2", "--sheet", str(sheet)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "recolour" in shown
    assert "100.0%" in shown
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(command) == 2
    assert "sheet.png" in capsys.readouterr().err


def test_a_refused_edit_has_failed_and_the_others_go_on(cases: list[Case]):
    class Refusing(Copying):
        def edit(self, image, prompt, **options):
            if prompt == cases[1].instruction:
                raise RefusedError("refused: the result would show nudity")
            return Knowing(cases).edit(image, prompt)

    outcomes = list(evaluate(cases[:3], edited_by(Refusing())))
    assert [o.judgment.success for o in outcomes] == [True, False, True]
    assert outcomes[1].judgment.faults[0].check == "refused"
