"""Risk profiles: what they may set, and what nothing sets."""

from pathlib import Path

import pytest

from openkontext.errors import InputError
from openkontext.safety.policy import MAX_TOLERANCE, PROFILE_VARIABLE, PROFILES, Policy, load_policy
from openkontext.safety.verdict import ADJUSTABLE, CATEGORIES, FIXED, Stage

PLACES = [(category, stage) for category in ADJUSTABLE for stage in Stage]


def profile(folder: Path, text: str) -> Path:
    path = folder / "profile.toml"
    path.write_text(text)
    return path


def thresholds(policy: Policy, tolerance: int | None = None) -> list[float | None]:
    return [policy.threshold(*place, tolerance) for place in PLACES]


def test_strict_refuses_more_than_default_and_default_more_than_permissive() -> None:
    strict, default, permissive = (thresholds(load_policy(name)) for name in PROFILES)
    assert all(low < high for low, high in zip(strict, default, strict=True))
    assert all(low < high for low, high in zip(default, permissive, strict=True))


def test_tolerance_leads_from_strict_over_default_to_permissive() -> None:
    permissive = load_policy("permissive")
    for tolerance, name in [(0, "strict"), (2, "default"), (6, "permissive")]:
        assert thresholds(permissive, tolerance) == pytest.approx(thresholds(load_policy(name)))
    # 4 lies half-way between 2 and 6.
    halves = [
        (a + b) / 2 for a, b in zip(thresholds(load_policy("default")), thresholds(permissive), strict=True)
    ]
    assert thresholds(permissive, 4) == pytest.approx(halves)


@pytest.mark.parametrize("name", PROFILES)
def test_a_request_is_never_looser_than_the_deployment(name: str) -> None:
    policy = load_policy(name)
    own = thresholds(policy)
    for tolerance in range(MAX_TOLERANCE + 1):
        asked = thresholds(policy, tolerance)
        assert all(one <= other for one, other in zip(asked, own, strict=True))


@pytest.mark.parametrize("tolerance", [-1, 7, 2.5, True, "3"])
def test_a_tolerance_outside_of_its_range_is_an_error(tolerance: object) -> None:
    with pytest.raises(InputError, match="safety_tolerance"):
        load_policy().threshold("nudity", Stage.PROMPT, tolerance)  # type: ignore[arg-type]


def test_a_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    text = 'extends = "default"\nname = "studio"\n[thresholds.weapons]\nprompt = 0.9\n'
    policy = load_policy(profile(tmp_path, text))
    default = load_policy("default")
    assert policy.threshold("weapons", Stage.PROMPT) == 0.9
    for place in PLACES:
        if place != ("weapons", Stage.PROMPT):
            assert policy.threshold(*place) == default.threshold(*place)


def test_the_environment_names_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, "strict")
    assert load_policy().profile.name == "strict"
    monkeypatch.setenv(PROFILE_VARIABLE, str(profile(tmp_path, 'extends = "strict"\nname = "mine"\n')))
    assert load_policy().profile.name == "mine"
    assert load_policy("permissive").profile.name == "permissive"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "default"\n[thresholds.csam]\nprompt = 1.0\n', "csam is fixed"),
        ('extends = "default"\n[thresholds.ncii]\npair = "off"\n', "ncii is fixed"),
        ('extends = "default"\n[thresholds.cats]\nprompt = 0.5\n', "'cats' is no category"),
        ('extends = "default"\n[thresholds.gore]\nprompt = 0.0\n', "gore"),
        ('extends = "default"\n[thresholds.gore]\nprompt = nan\n', "gore"),
        ('extends = "default"\nfilters = false\n', "filters"),
        ('extends = "nobody"\n', "extends 'nobody'"),
        ('name = "bare"\n[thresholds]\n', "says nothing about"),
        ("name = \n", "no TOML"),
        ('extends = "default"\n[[remote]]\nkind = "generic"\n', "needs its url"),
    ],
)
def test_what_a_profile_may_not_say_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_policy(profile(tmp_path, text))
    assert "\n" not in str(error.value)


def test_an_unknown_profile_is_an_error() -> None:
    with pytest.raises(InputError, match="none of strict, default, permissive"):
        load_policy("lenient")


@pytest.mark.parametrize("mode", ["off", "refused"])
def test_a_filter_is_off_only_where_people_review_every_result(tmp_path: Path, mode: str) -> None:
    text = f'extends = "default"\n[thresholds.nudity]\noutput = "off"\n[review]\nmode = "{mode}"\n'
    with pytest.raises(InputError, match="nobody reviews"):
        load_policy(profile(tmp_path, text))
    policy = load_policy(profile(tmp_path, text.replace(f'mode = "{mode}"', 'mode = "every"')))
    assert policy.threshold("nudity", Stage.OUTPUT) is None
    # A request can still ask for the filter.
    assert policy.threshold("nudity", Stage.OUTPUT, 2) == load_policy().threshold("nudity", Stage.OUTPUT)


def test_fixed_categories_come_first_and_have_thresholds_of_their_own() -> None:
    assert CATEGORIES[: len(FIXED)] == FIXED
    seen = {
        tuple(
            load_policy(name).threshold(category, stage, tolerance) for category in FIXED for stage in Stage
        )
        for name in PROFILES
        for tolerance in (None, *range(MAX_TOLERANCE + 1))
    }
    assert len(seen) == 1
    assert all(threshold is not None and threshold <= 0.5 for threshold in seen.pop())
