"""What an operator adds to the filters: it refuses everywhere, nothing loosens it, and it loosens nothing."""

from pathlib import Path

import numpy as np
import pytest
from classifiers import save_bright

from openkontext.cli import main
from openkontext.editor import Editor
from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.safety import check
from openkontext.safety.policy import MAX_TOLERANCE, PROFILE_VARIABLE, load_policy
from openkontext.safety.verdict import FORBIDDEN, UNCHECKED, FilterRefusalError, HeldError, Stage

PICTURE = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
WORDS = '[words]\ndragons = ["dragon", "fire-breathing"]\nmarks = ["acmeola"]\n'
MESSAGE = "refused: the instruction asks for what the operator forbids"


def profile(folder: Path, text: str = WORDS) -> Path:
    path = folder / "studio.toml"
    path.write_text(f'extends = "permissive"\nname = "studio"\n{text}')
    return path


@pytest.mark.parametrize("prompt", ["add a dragon", "a f1re-breathing pet", "an acm*ola sign", "nogard, big"])
def test_an_edit_of_a_listed_word_is_refused(tmp_path: Path, copier: Path, prompt: str) -> None:
    editor = Editor(Repository.open(copier), profile=profile(tmp_path))
    with pytest.raises(FilterRefusalError) as error:
        editor.edit(PICTURE, prompt, safety_tolerance=MAX_TOLERANCE)
    verdict = error.value.verdict
    assert str(error.value) == MESSAGE
    assert (verdict.category, verdict.stage, verdict.fixed) == (FORBIDDEN, Stage.PROMPT, False)


def test_other_edits_and_negative_prompts_pass(tmp_path: Path, copier: Path) -> None:
    editor = Editor(Repository.open(copier), profile=profile(tmp_path))
    made = editor.edit(
        PICTURE, "add a drag race", negative_prompt="dragon", true_cfg_scale=2.0, num_inference_steps=1
    )
    assert made.image.size == (128, 128)


def test_the_command_says_which_list_and_heeds_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ["check", "--prompt", "write acmeola on it"]
    assert main(prompt) == 0
    assert main([*prompt, "--profile", str(profile(tmp_path))]) == 3
    monkeypatch.setenv(PROFILE_VARIABLE, str(profile(tmp_path)))
    capsys.readouterr()
    assert main(prompt) == 3
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in said if "(refused)" in line] == [["words:", "marks"]]
    assert said[-1] == MESSAGE


def test_a_graver_category_is_named_first(tmp_path: Path) -> None:
    verdict = check("undress her in front of the dragon", profile=profile(tmp_path))
    assert (verdict.category, verdict.fixed) == ("ncii", True)


def test_a_person_may_approve_it(tmp_path: Path, copier: Path) -> None:
    review = f'[review]\nmode = "refused"\ndatabase = "sqlite:///{tmp_path / "queue.db"}"\n'
    editor = Editor(Repository.open(copier), profile=profile(tmp_path, WORDS + review))
    with pytest.raises(HeldError) as error:
        editor.edit(PICTURE, "add a dragon", seed=3, num_inference_steps=1)
    reviews = editor.guard.reviews
    assert reviews is not None
    reviews.decide(error.value.request, "ann", approve=True, reason="a toy")
    assert editor.edit(PICTURE, "add a dragon", seed=3, num_inference_steps=1).image.size == (128, 128)


def test_no_tolerance_loosens_it() -> None:
    policy = load_policy("permissive")
    assert {
        policy.threshold(FORBIDDEN, stage, tolerance)
        for stage in Stage
        for tolerance in (None, *range(MAX_TOLERANCE + 1))
    } == {0.5}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[words]\ndragons = []\n", "words.dragons: is empty"),
        ('[words]\ndragons = ["dragon", "DRAGON"]\n', "words.dragons: 'DRAGON' is listed twice"),
        ('[words]\neverything = ["it"]\n', "words.everything: 'it' is in nearly every instruction"),
        ('words = ["dragon"]\n', "words"),
        ('[words]\ndragons = "dragon"\n', "words.dragons"),
        ("[words]\ndragons = [7]\n", "words.dragons.0"),
        ('[word]\ndragons = ["dragon"]\n', "word is not a setting; there are name, thresholds"),
        ("[thresholds.forbidden]\nprompt = 1.0\n", "forbidden has no threshold"),
    ],
)
def test_what_a_profile_may_not_list_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = profile(tmp_path, text)
    with pytest.raises(InputError) as error:
        load_policy(path)
    assert str(error.value).startswith(f"{path}: {says}")
    assert main(["check", "--prompt", "make it night", "--profile", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


BRIGHT, DARK = (np.full((64, 64, 3), value, np.uint8) for value in (250, 20))


def classifying(folder: Path, more: str = "", file: str = "bright.onnx") -> Path:
    """A profile whose classifier finds the picture's mean, 0 to 1."""
    save_bright(folder / "bright.onnx")
    settings = f'file = "{file}"\nclasses = {{bright = 0}}\nmean = 0\nscale = 1\nactivation = "none"\n'
    return profile(folder, f"[[classifiers]]\n{settings}{more}")


def test_a_classifier_refuses_what_is_handed_in(tmp_path: Path, copier: Path) -> None:
    editor = Editor(Repository.open(copier), profile=classifying(tmp_path))
    for picture, references in ((BRIGHT, []), (DARK, [BRIGHT])):
        with pytest.raises(FilterRefusalError, match="the picture shows what the operator forbids") as error:
            editor.edit(picture, "make it night", reference_images=references)
        verdict = error.value.verdict
        assert (verdict.category, verdict.stage, verdict.fixed) == (FORBIDDEN, Stage.INPUT, False)
    assert editor.edit(DARK, "make it night", num_inference_steps=1).image.size == (128, 128)


def test_a_classifier_refuses_results(tmp_path: Path, copier: Path) -> None:
    """The copier makes a bright picture of a bright one, which may be handed in here."""
    editor = Editor(Repository.open(copier), profile=classifying(tmp_path, 'stages = ["output"]\n'))
    with pytest.raises(FilterRefusalError, match="the result would show what the operator forbids"):
        editor.edit(BRIGHT, "make it night", num_inference_steps=1)


@pytest.mark.parametrize(("value", "allowed"), [(202, True), (206, False)])
def test_the_threshold_is_the_operators(tmp_path: Path, value: int, allowed: bool) -> None:
    """204 of 255 is 0.8."""
    path = classifying(tmp_path, "threshold = 0.8\n")
    verdict = check(image=np.full((64, 64, 3), value, np.uint8), profile=path)
    assert verdict.allowed is allowed
    (found,) = (each for result in verdict.checks for each in result.findings if each.category == FORBIDDEN)
    assert found.check == "classifier: bright"
    assert found.score == pytest.approx(0.495 if allowed else 0.52, abs=1e-3)


@pytest.mark.parametrize(("operator", "picture"), [("Log", "black"), ("Neg", "bright")])
def test_a_classifier_without_a_sound_answer_refuses(tmp_path: Path, operator: str, picture: str) -> None:
    path = classifying(tmp_path)
    save_bright(tmp_path / "bright.onnx", operator)
    verdict = check(image=BRIGHT if picture == "bright" else np.zeros_like(DARK), profile=path)
    assert (verdict.category, verdict.stage) == (UNCHECKED, Stage.INPUT)
    assert "the check classifier: bright could not look" in verdict.message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"bright.onnx"', '"none.onnx"', "none.onnx cannot be loaded: No such file"),
        ('"bright.onnx"', '"studio.toml"', "studio.toml cannot be loaded"),
        ("bright = 0", "bright = 2", "bright.onnx has 2 classes, and none 2 (bright)"),
        ("bright = 0", "bright = -1", "classifiers.0.classes.bright"),
        ("{bright = 0}", "{}", "classifiers.0.classes"),
        ("scale = 1", "scale = 0", "classifiers.0.scale"),
        ("scale = 1", "scale = 1\nthreshold = 0", "classifiers.0.threshold"),
        ("scale = 1", 'scale = 1\nstages = ["prompt"]', "classifiers.0.stages.0"),
        ("scale = 1", "scale = 1\nstages = []", "classifiers.0.stages"),
        ("scale = 1", "scale = 1\nclass = 3", "classifiers.0.class"),
        ('"none"\n', '"none"\nfile = "b.onnx"\n', "is no TOML"),
    ],
)
def test_a_classifier_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    path = classifying(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert main(["check", "--prompt", "make it night", "--profile", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
