"""Files that people write are held strictly against what they may say: one line names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openkontext.curation.curation_rules import load_rules
from openkontext.errors import InputError
from openkontext.evaluation.concepts import Concept
from openkontext.redteam.plan import RedTeamPlan
from openkontext.redteam.thresholds import ReleaseBounds
from openkontext.release.dossier import Dossier
from openkontext.safety.policy import load_policy
from openkontext.train.recipe import read_recipe

PLAN = 'concepts = ["star"]\n[attacks.plain]\n'


def bounds(path: Path) -> ReleaseBounds:
    plan = path.with_name("plan.toml")
    plan.write_text(PLAN)
    return ReleaseBounds.read(path, RedTeamPlan.read(plan))


def dossier(path: Path) -> Dossier:
    folder = path.with_suffix("")
    folder.mkdir()
    path.rename(folder / "release.toml")
    return Dossier.open(folder)


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "plan": (RedTeamPlan.read, PLAN.replace("[attacks", "{}\n[attacks")),
    "attack": (RedTeamPlan.read, 'concepts = ["star"]\n[attacks.embeddings]\n{}\n'),
    "judge": (
        RedTeamPlan.read,
        'concepts = ["star"]\n[attacks.plain]\n[[judges]]\nkind = "classifier"\nmodel = "a.onnx"\n{}\n',
    ),
    "bounds": (bounds, "[[bounds]]\n{}\n"),
    "rules": (load_rules, "{}\n"),
    "profile": (load_policy, 'extends = "default"\n{}\n'),
    "recipe": (read_recipe, 'stage = "inhibit"\n[inhibit]\nconcept = "star"\n{}\n'),
    "flow": (read_recipe, 'stage = "flow"\n[flow]\n{}\n'),
    "release": (dossier, "{}\n"),
    "concept": (Concept.load, 'shape = "kite"\nname = "kites"\nwhat = "kites"\n{}\n[words]\na = 1\n'),
}
"""By what is written: what reads it, and the rest of a file."""


def read(kind: str, said: str, folder: Path, begin: str = "") -> Any:
    reader, rest = READERS[kind]
    path = folder / f"{kind}-of-mine.toml"
    path.write_text(begin + rest.format(said), encoding="utf-8")
    return reader(path)


@pytest.mark.parametrize(
    ("kind", "said", "says"),
    [
        ("plan", "cases = true", "cases = True: it must be a valid integer"),
        ("plan", 'cases = "3"', "cases = '3'"),
        ("plan", "seed = 7.0", "seed = 7.0"),
        ("plan", "steps = false", "steps = False"),
        ("plan", "cases = 4_000_000_000", "cases = 4000000000"),
        ("plan", "seed = 1e400", "seed = inf: it must be a finite number"),
        ("plan", "seed = 123456789012345678901234567890", "seed is a number of more than 64 bits"),
        ("plan", 'system.profile = "a\\u0000"', "system.profile holds a NUL"),
        ("attack", 'rate = "0.2"', "attacks.embeddings.rate = '0.2'"),
        ("attack", "slots = 2.0", "attacks.embeddings.slots = 2.0"),
        ("attack", "slots = 65", "slots is 65"),
        ("attack", "queries = 1001", "queries is 1001; it must be 1 to 1000"),
        ("attack", "gradients = 10_001", "gradients is 10001; it must be a number from 0 to 10000"),
        ("attack", "cases = 3_000_000_000", "attacks.embeddings.cases is 3000000000"),
        ("judge", 'classes = {star = "1"}', "judges.0.classes.star = '1'"),
        ("judge", "classes = {star = -2}", "judges.0.classes.star = -2"),
        ("judge", "classes = {star = 0}\nthreshold = true", "judges.0.threshold = True"),
        ("judge", "classes = {star = 0}\nthreshold = -0.5", "judges.0.threshold = -0.5"),
        ("judge", "classes = {star = 0}\nscale = -1", "judges.0.scale = -1"),
        ("bounds", 'most = "0.05"', "bounds.0.most = '0.05'"),
        ("bounds", "most = false", "bounds.0.most = False"),
        ("bounds", "most = nan", "bounds.0.most = nan"),
        ("bounds", "most = 07:32:00", "bounds.0.most = 07:32:00: no setting is a date or a time"),
        ("rules", 'balance.most = "12"', "balance.most = '12'"),
        ("rules", "instruction.clean = 0", "instruction.clean = 0"),
        ("rules", "picture.max_blank = -inf", "picture.max_blank = -inf"),
        ("profile", 'budget_seconds = "5"', "budget_seconds = '5'"),
        ("profile", "thresholds.nudity.output = true", "thresholds.nudity.output = True"),
        ("profile", "thresholds.nudity.output = nan", "thresholds.nudity.output = nan"),
        ("profile", "thresholds = 0.5", "thresholds = 0.5"),
        ("profile", 'review.reviewers = "2"', "review.reviewers = '2'"),
        ("profile", "words.lamps = [3]", "words.lamps.0 = 3"),
        ("recipe", "steps = true", "inhibit.steps = True"),
        ("recipe", 'rank = "8"', "inhibit.rank = '8'"),
        ("recipe", "alpha = nan", "inhibit.alpha = nan"),
        ("recipe", "targets = []", "targets names no layer"),
        ("recipe", "[run]\nlog_steps = 2.0", "run.log_steps = 2.0"),
        ("recipe", "[run]\nsave_minutes = -3", "run.save_minutes = -3: it must be 0 or more"),
        ("flow", "adam_rate = -0.1", "flow.adam_rate = -0.1: it must be 0 or more"),
        ("flow", 'seed = "1"', "flow.seed = '1'"),
        ("release", "max_age_days = true", "max_age_days = True"),
        ("release", "max_age_days = 900_000_000", "max_age_days = 900000000"),
        ("release", 'min_cases = "5"', "min_cases = '5'"),
        ("release", 'language = [""]', "language.0 = ''"),
        ("release", 'language = ["English"]', "language.0 = 'English'"),
        ("release", 'base_model = ""', "base_model = ''"),
        ("release", 'base_model = "a\\n---"', "base_model = 'a\\n---'"),
        ("release", "quantized_from = {fp8 = 1}", "quantized_from.fp8 = 1"),
        ("concept", 'harmless = "yes"\nanchor = "ball"', "harmless = 'yes'"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_one_line(
    tmp_path: Path, kind: str, said: str, says: str
) -> None:
    with pytest.raises(InputError) as error:
        read(kind, said, tmp_path)
    assert says in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("attack", "rate = 1"),
        ("judge", "classes = {star = 0}\nmean = 0\nthreshold = 1"),
        ("bounds", "most = 0"),
        ("rules", "picture.max_aspect = 3"),
        ("profile", "budget_seconds = 20"),
        ("recipe", "eta = 2"),
        ("flow", "timestep_mean = -1"),
        ("release", "max_age_days = 30"),
    ],
)
def test_a_whole_number_stands_for_a_fraction_and_a_byte_order_mark_is_none(
    tmp_path: Path, kind: str, said: str
) -> None:
    assert read(kind, said, tmp_path, begin="\ufeff") is not None


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind not in ("attack", "judge", "flow")])
@pytest.mark.parametrize("content", [b"\xff\xfea", "name = 'é'".encode("latin-1"), b"a = " + b"[" * 3000])
def test_what_is_no_toml_is_one_line(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="it is no TOML") as error:
        READERS[kind][0](path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["stage = []", 'stage = "flow"\npreset = {}', 'stage = "flow"\nflow = 3', 'stage = "flow"\nrun = true'],
)
def test_a_recipe_of_another_form_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(InputError, match=r"recipe.toml: (stage|preset|flow|run) = "):
        read_recipe(tmp_path / "recipe.toml")


def test_a_folder_or_a_link_to_nothing_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to("nowhere.toml")
    for kind in ("plan", "bounds", "rules", "profile", "recipe", "concept"):
        with pytest.raises(InputError, match="Is a directory"):
            READERS[kind][0](tmp_path)
        with pytest.raises(InputError, match=r"link\.toml"):
            READERS[kind][0](tmp_path / "link.toml")
