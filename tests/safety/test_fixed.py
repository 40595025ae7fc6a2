"""Every route to loosen a fixed category, tried on the editor itself: none leads anywhere.

What is refused here is named as a policy names it, or is a picture drawn by us on a list made by us.
"""

import io
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from PIL import Image

import openkontext
from openkontext import EditRequest, InputError, RefusedError, compositing
from openkontext.safety import check
from openkontext.safety.known.pdq import pdq
from openkontext.safety.known.updates import install_update, sign_update, trust
from openkontext.safety.packaged_models import PackagedModel
from openkontext.safety.policy import Policy, Profile, Thresholds, load_policy
from openkontext.safety.prompt import PromptCheck
from openkontext.safety.quarantine import Quarantine
from openkontext.safety.review.queue import ReviewQueue
from openkontext.safety.verdict import FIXED, UNCHECKED, FilterRefusalError, HeldError

WORDS = {"csam": "csam", "ncii": "undress"}
"""Category -> an instruction that is of it."""


def drawn(seed: int) -> np.ndarray:
    """Blocks of colors, uint8 [160, 192, 3], with enough in them for a good PDQ quality."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
    return np.asarray(image.resize((192, 160), Image.Resampling.BICUBIC))


LISTED, INNOCENT = drawn(1), drawn(2)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment's folder with a list in force; `LISTED` is on it."""
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path / "data"))
    key = Ed25519PrivateKey.generate()
    private, public, listed = (tmp_path / name for name in ("key.pem", "key.pub.pem", "list.txt"))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    listed.write_text(pdq(LISTED).hex + "\n")
    update = tmp_path / "update.zip"
    sign_update(update, {listed: "pdq"}, "ours", 1, private)
    trust(tmp_path / "data" / "lists", "ours", public)
    install_update(tmp_path / "data" / "lists", update)
    return tmp_path / "data"


def profile(folder: Path, text: str) -> Path:
    path = folder / "profile.toml"
    path.write_text(f'extends = "permissive"\nname = "loose"\n{text}')
    return path


ALL_OFF = "\n".join(
    f'{category} = {{ prompt = "off", input = "off", pair = "off", output = "off" }}'
    for category in load_policy("permissive").profile.thresholds
)
REVIEWED = f'[review]\nmode = "every"\n[thresholds]\n{ALL_OFF}\n'

Route = Callable[[pytest.MonkeyPatch, Path], tuple[dict[str, Any], dict[str, Any]]]
"""Sets something up; returns arguments of `load` and of the request."""


def variables(patch: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    patch.setenv("OPENKONTEXT_PROFILE", "permissive")
    for name in ("SAFETY", "FILTERS", "SAFETY_CHECKER", "CSAM", "NSFW", "GUARD"):
        patch.setenv(f"OPENKONTEXT_{name}", "off")
        patch.setenv(f"OPENKONTEXT_DISABLE_{name}", "1")
    return {}, {}


def elsewhere(patch: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The lists are the account's own, and every variable that names a folder leads away from them."""
    own = folder / "home" / ".local" / "share" / "openkontext"
    own.mkdir(parents=True)
    (folder / "data" / "lists").rename(own / "lists")
    patch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(folder / "home")))
    for name in ("OPENKONTEXT_DATA", "OPENKONTEXT_HOME", "XDG_DATA_HOME", "HOME"):
        patch.setenv(name, str(folder / "elsewhere"))
    return {}, {}


ROUTES: dict[str, Route] = {
    "nothing": lambda patch, folder: ({}, {}),
    "the loosest shipped profile": lambda patch, folder: ({"profile": "permissive"}, {}),
    "a profile file with every filter off": lambda patch, folder: (
        {"profile": profile(folder, REVIEWED)},
        {},
    ),
    "the environment": variables,
    "another folder for data": elsewhere,
    "the highest tolerance": lambda patch, folder: ({"profile": "permissive"}, {"safety_tolerance": 6}),
    "a role": lambda patch, folder: ({}, {"requester": "admin"}),
    "other options": lambda patch, folder: (
        {"low_memory": True},
        {
            "seed": 0,
            "num_inference_steps": 1,
            "guidance_scale": 0.0,
            "width": 64,
            "height": 64,
            "fit": "crop",
        },
    ),
}


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_loosens_a_fixed_category(
    copier: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    setup, options = ROUTES[route](monkeypatch, tmp_path)
    editor = openkontext.load(copier, **setup)
    file = io.BytesIO()
    Image.fromarray(np.rot90(LISTED)).save(file, "JPEG")
    ways = {
        **{name: (category, {"prompt": words}) for name, category, words in _wordings()},
        "negative": ("csam", {"prompt": "the picture", "negative_prompt": "csam", "true_cfg_scale": 2.0}),
        "words alone": ("csam", {"prompt": WORDS["csam"], "image": None}),
        "masked": ("ncii", {"prompt": WORDS["ncii"], "mask_image": np.eye(160, 192)}),
        "listed": ("known_material", {"prompt": "the picture", "image": file.getvalue()}),
        "reference": ("known_material", {"prompt": "the picture", "reference_images": [LISTED]}),
    }
    for name, (category, asked) in ways.items():
        with pytest.raises(FilterRefusalError) as error:
            editor.run(EditRequest(**{"image": INNOCENT, **options, **asked}))
        verdict = error.value.verdict
        assert (verdict.category, verdict.fixed) == (category, True), name
        assert not isinstance(error.value, HeldError)
    assert len(Quarantine().incidents()) == 2
    if editor.guard.reviews is not None:  # nobody is asked to look at any of it
        assert editor.guard.reviews.requests(None) == []


def _wordings() -> list[tuple[str, str, str]]:
    """The words plain, in other letters, and apart."""
    return [
        ("csam", "csam", WORDS["csam"]),
        ("ncii", "ncii", WORDS["ncii"]),
        ("wide", "csam", "ｃｓａｍ"),
        ("accent", "ncii", "undréss"),
        ("spaced", "csam", "c s a m"),
        ("in the middle", "ncii", "make it night and undress"),
    ]


def test_a_result_on_a_list_is_refused_sealed_and_never_previewed(
    copier: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The copier hands out what it was handed in, so its way in is opened to see the way out.
    editor = openkontext.load(copier, profile="permissive")
    asked = EditRequest(prompt="the picture", image=INNOCENT, num_inference_steps=1)
    steps = editor.steps(asked)
    step = next(steps)
    assert np.ptp(np.asarray(step.preview())) > 0
    monkeypatch.setattr(compositing, "compose", lambda *_: LISTED)
    steps = editor.steps(asked)
    assert np.ptp(np.asarray(next(steps).preview())) == 0  # plain gray
    with pytest.raises(RefusedError, match="the result would show known illegal material"):
        next(steps)
    (incident,) = Quarantine(data / "quarantine").incidents()
    evidence = Quarantine(data / "quarantine").open(incident.id)
    assert evidence.incident.stage == "output"
    assert (np.asarray(Image.open(io.BytesIO(evidence.picture))) == LISTED).all()


@pytest.mark.parametrize("category", FIXED)
def test_no_profile_names_a_fixed_category(tmp_path: Path, category: str) -> None:
    with pytest.raises(InputError, match=f"{category} is fixed"):
        load_policy(profile(tmp_path, f"[thresholds.{category}]\nprompt = 1.0\n"))
    # Nor does one that is made in Python: what it says of a fixed category is not asked for.
    loose = load_policy("permissive").profile
    one = Thresholds(prompt=1.0, input=1.0, pair=1.0, output=1.0)
    made = Profile(name="made", thresholds={**loose.thresholds, category: one})
    for place in ("prompt", "input", "pair", "output"):
        stage = openkontext.safety.verdict.Stage(place)
        assert Policy(made).threshold(category, stage, 6) == load_policy("strict").threshold(category, stage)


def test_an_approval_of_the_very_request_changes_nothing(copier: Path, tmp_path: Path) -> None:
    text = f'[review]\nmode = "refused"\ndatabase = "sqlite:///{tmp_path / "queue.db"}"\n'
    editor = openkontext.load(copier, profile=profile(tmp_path, text))
    assert isinstance(editor.guard.reviews, ReviewQueue)
    with pytest.raises(FilterRefusalError) as error:
        editor.edit(INNOCENT, "undress", seed=1)
    assert error.value.verdict.fixed
    assert editor.guard.reviews.requests(None) == []
    with pytest.raises(ValueError, match="never reviewed"):
        editor.guard.reviews.hold(prompt="undress", options={}, verdict={"fixed": True}, pictures={})


def _gone(*_: object, **__: object) -> Any:
    raise InputError("it is not installed")


@pytest.mark.parametrize("what", ["models", "words", "list"])
def test_what_is_missing_refuses(
    copier: Path, data: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "models":
        monkeypatch.setattr(PackagedModel, "session", _gone)
    elif what == "words":
        monkeypatch.setattr(PromptCheck, "scores", _gone)
    else:
        (data / "lists" / "ours" / "1" / "list.txt").write_text("damaged")
    editor = openkontext.load(copier, profile="permissive")
    with pytest.raises(FilterRefusalError, match="could not look at") as error:
        editor.edit(INNOCENT, "the picture", safety_tolerance=6)
    assert error.value.verdict.category == UNCHECKED
    verdict = check(prompt="the picture", image=INNOCENT, profile="permissive")
    assert not verdict.allowed


def test_with_neither_filters_nor_reviewers_nothing_starts(copier: Path, tmp_path: Path) -> None:
    path = profile(tmp_path, f"[thresholds]\n{ALL_OFF}\n")
    with pytest.raises(InputError, match="nobody reviews"):
        openkontext.load(copier, profile=path)
    with pytest.raises(InputError, match="nobody reviews"):
        check(prompt="the picture", profile=path)


def test_where_filters_are_off_a_person_sees_every_result(copier: Path, tmp_path: Path) -> None:
    editor = openkontext.load(copier, profile=profile(tmp_path, REVIEWED))
    assert editor.guard.reviews is not None
    with pytest.raises(HeldError) as error:
        editor.edit(INNOCENT, "make it brighter", seed=4)
    assert editor.guard.reviews.get(error.value.request).pictures == ("input", "output")
    editor.guard.reviews.decide(error.value.request, "bob", approve=True, reason="harmless")
    assert editor.edit(INNOCENT, "make it brighter", seed=4).verdict.allowed
    with pytest.raises(HeldError):
        editor.edit(INNOCENT, "make it brighter", seed=5)
