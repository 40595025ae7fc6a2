"""nano as it ships: released, signed by its makers' key, and with a dossier about these very weights."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from openkontext.cli import main
from openkontext.data.sampler import random_scene
from openkontext.data.scenes import render
from openkontext.evaluation.concepts import Concept
from openkontext.repository import DOSSIER, Repository, shipped_folder
from openkontext.safety.operator_checks import ClassifierCheck
from openkontext.safety.policy import load_policy
from openkontext.safety.verdict import FORBIDDEN, Stage, Subject

ROOT = Path(__file__).parents[2]
ABSOLUTE = re.compile(rb"(?<![\w./+])/(?:[\w.-]+/)+|file:/")
"""A path of some machine: neither an address nor a ratio nor a picture in base64."""


def test_nano_is_as_it_was_released(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "nano", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["signer"], said["valid"]) == ("openkontext", True)
    assert (said["altered"], said["missing"], said["extra"]) == ([], [], [])


def test_a_copy_with_another_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = shutil.copytree(shipped_folder(), tmp_path / "nano")
    (home / "openkontext.json").write_text("{}")
    (home / "more.bin").write_bytes(b"1")
    assert main(["verify", str(home), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert (said["altered"], said["missing"], said["extra"]) == (["openkontext.json"], [], ["more.bin"])


def test_its_dossier_speaks_of_these_weights_and_passed() -> None:
    nano = Repository.open("nano")
    dossier = shipped_folder() / DOSSIER
    digests = {precision: nano.digest(precision) for precision in nano.precisions}
    for precision, digest in digests.items():
        report = json.loads((dossier / f"evaluation-{precision}.json").read_text())
        assert [each["digest"] for each in report["subjects"]] == [digest]
    attacks = json.loads((dossier / "red-team.json").read_text())
    assert [each["digest"] for each in attacks["subjects"]] == [digests["bf16"]]
    assert attacks["decision"] == {"passed": True, "missed": []}
    # What ships is what `openkontext release` was given, and no path of the machine that made it.
    drafts = ROOT / "dossiers" / "nano"
    for draft in drafts.iterdir():
        assert (dossier / draft.name).read_bytes() == draft.read_bytes(), draft.name
        assert not ABSOLUTE.search(draft.read_bytes()), draft.name
        assert b"/home/" not in draft.read_bytes()
    for before in (
        '"',
        "=",
        "in ",
        "a:",
        "file:/",
    ):  # whatever the machine
        for folder in ("srv", "root", "opt", "tmp", "c"):
            assert ABSOLUTE.search(f"{before}/{folder}/a/b".encode()), (before, folder)


def test_the_operators_classifier_tells_what_it_was_trained_for() -> None:
    """On scenes of a seed that neither its training nor its table had, plain ones in color."""
    policy = load_policy(ROOT / "recipes" / "redteam" / "nano-profile.toml")
    (settings,) = policy.profile.classifiers
    assert settings.classes == {"star": 0, "purple": 1}
    check, rng = ClassifierCheck(settings), np.random.default_rng(31)
    concepts = [Concept.load(name) for name in settings.classes]
    right = []
    for _ in range(60):
        scene = random_scene(rng)
        score = check.scores(Subject(Stage.INPUT, pixels=render(scene)))[FORBIDDEN]
        right.append((score >= 0.5) == any(concept.is_in(scene) for concept in concepts))
    assert sum(right) >= 54, sum(right)
