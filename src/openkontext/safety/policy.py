"""The policy: from which score on each category is refused at each stage, and whether people review.

Adjustable categories take their thresholds from a risk profile, a TOML file; `strict`, `default` and
`permissive` are shipped. The fixed categories are not in it and cannot be put there.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openkontext.errors import InputError
from openkontext.safety.picture_classifier import Activation
from openkontext.safety.prompt.word_list import WordList
from openkontext.safety.verdict import ADJUSTABLE, CATEGORIES, FIXED, FORBIDDEN, Stage
from openkontext.toml_file import checked_table, parse_toml, read_toml

PROFILES = ("strict", "default", "permissive")
"""Profiles that are shipped."""
PROFILE_VARIABLE = "OPENKONTEXT_PROFILE"
"""Environment variable that names the deployment's profile, or its file."""
OFF = "off"

_FIXED_THRESHOLD = 0.5
"""Nothing but this decides on the fixed categories, at every stage: from there on it is more likely than not.
Checks lean towards refusing by the scores that they give. It decides on what the operator forbids, too."""

_TOLERANCES = {0: "strict", 2: "default", 6: "permissive"}
"""The API's safety_tolerance -> the profile that it means; those between lie between."""
MAX_TOLERANCE = max(_TOLERANCES)
"""The largest safety_tolerance."""

Threshold = Annotated[float, Field(ge=0.05, le=1)] | Literal["off"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Thresholds(_Record):
    """Scores from which one category is refused, by stage; "off" leaves it to the reviewers."""

    prompt: Threshold
    input: Threshold
    pair: Threshold
    output: Threshold


class Review(_Record):
    """Whether people review."""

    mode: Literal["off", "refused", "every"] = "off"
    """Off; what an adjustable filter refuses waits for a person, who decides; or every result does."""
    reviewers: Annotated[int, Field(ge=1, le=5)] = 1
    """How many must approve; 2 is the two-person rule."""
    days: Annotated[float, Field(gt=0, le=90)] = 7.0
    """How long a request waits, and an approval holds."""
    database: str = ""
    """SQLAlchemy address of the queue; empty for SQLite in the folder for data."""


class Remote(_Record):
    """A moderation service that looks, too."""

    kind: Literal["hive", "generic"]
    url: str = ""
    """Where it answers; for Hive its own address when empty."""
    key_variable: str = ""
    """Environment variable that holds its key; empty where it needs none."""
    categories: tuple[str, ...] = ()
    """What a generic service answers for, such as public_figures."""
    stages: tuple[Literal["input", "output"], ...] = ("input", "output")
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds of one attempt."""
    deadline: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Seconds after which no further attempt begins."""


class ClassifierSettings(_Record):
    """An operator's own classifier of pictures: what it finds, nobody may hand in or get."""

    file: str
    """ONNX: one picture [1, 3, H, W] in, scores [1, classes] out; a relative path is beside the profile."""
    classes: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """What is forbidden: a name of the operator's own -> its place in the output."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Score of a class from which a picture is refused."""
    stages: Annotated[tuple[Literal["input", "output"], ...], Field(min_length=1)] = ("input", "output")
    """Pictures that are handed in, and results."""
    mean: float = 0.5
    """Taken off the values in 0..1."""
    scale: Annotated[float, Field(gt=0)] = 0.5
    """Divides what is left."""
    activation: Activation = "softmax"
    """What makes its output a probability: "none", "sigmoid" or "softmax"."""


class Profile(_Record):
    """A risk profile, as its file says it."""

    name: str
    thresholds: dict[str, Thresholds]
    """Of every adjustable category."""
    review: Review = Review()
    budget_seconds: Annotated[float, Field(ge=0.05, le=300)] = 120.0
    """What all checks of one stage may take together; the request is refused when it is over.

    It is there to end what hangs. Checks take about a second, and a busy machine must refuse nothing.
    """
    remote: tuple[Remote, ...] = ()
    """Moderation services, besides the checks on this machine."""
    words: dict[str, tuple[str, ...]] = {}
    """What nobody may ask for: lists of words and phrases by names of the operator's own."""
    classifiers: tuple[ClassifierSettings, ...] = ()
    """Classifiers of pictures, of the operator's own."""


@dataclass(frozen=True)
class Policy:
    """A risk profile in force, and the fixed categories.

    Raises:
        InputError: a filter is off, and nobody reviews in its place.
    """

    profile: Profile

    def __post_init__(self) -> None:
        off = [
            f"{category} ({stage})"
            for category in ADJUSTABLE
            for stage in Stage
            if getattr(self.profile.thresholds[category], stage) == OFF
        ]
        if off and self.profile.review.mode != "every":
            raise InputError(
                f"profile {self.profile.name}: the filter for {off[0]} is off, and nobody reviews results; "
                'set review.mode = "every", or a threshold'
            )

    def threshold(self, category: str, stage: Stage, tolerance: int | None = None) -> float | None:
        """Score from which something is refused.

        Args:
            category: one of `CATEGORIES`.
            stage: where it was found.
            tolerance: the request's safety_tolerance, 0 to 6: it can be stricter than the deployment's
                profile, and never looser. None for the profile alone.

        Returns:
            The threshold; None where the deployment's reviewers decide.
        """
        if category in FIXED or category == FORBIDDEN:
            return _FIXED_THRESHOLD
        own = _value(self.profile, category, stage)
        if tolerance is None:
            return own
        asked = _at_tolerance(category, stage, tolerance)
        return asked if own is None else min(own, asked)


def load_policy(profile: str | Path | None = None) -> Policy:
    """The policy of a profile.

    Args:
        profile: name of a shipped profile, or a TOML file; None for what $OPENKONTEXT_PROFILE names, else
            "default".

    Raises:
        InputError: there is no such profile, it is damaged, or it would leave results unchecked.
    """
    chosen = str(profile if profile is not None else os.environ.get(PROFILE_VARIABLE) or "default")
    if chosen in PROFILES:
        return Policy(_shipped(chosen))
    path = Path(chosen)
    missing = (
        f"profile {chosen!r}: no such file, and none of {', '.join(PROFILES)}; name one of them or a file"
    )
    read = _parse(read_toml(path, "profile", missing), str(path))
    beside = [each.model_copy(update={"file": str(path.parent / each.file)}) for each in read.classifiers]
    return Policy(read.model_copy(update={"classifiers": tuple(beside)}))


def check_tolerance(value: int | None) -> None:
    """Check a safety_tolerance.

    Args:
        value: what a request asks for.

    Raises:
        InputError: it is not a whole number from 0 to 6.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOLERANCE:
        raise InputError(
            f"safety_tolerance is {value!r}; it must be a whole number from 0 to {MAX_TOLERANCE}"
        )


@cache
def _shipped(name: str) -> Profile:
    text = resources.files("openkontext.safety").joinpath(f"profiles/{name}.toml").read_text("utf-8")
    return _parse(parse_toml(text, name, "profile"), name)


def _parse(fields: dict[str, Any], where: str) -> Profile:
    base = fields.pop("extends", None)
    if base is not None:
        if base not in PROFILES:
            raise InputError(f"{where}: extends {base!r}, which is none of {', '.join(PROFILES)}")
        fields = _merged(_shipped(base).model_dump(), fields)
    said = fields.get("thresholds", {})
    for category in said if isinstance(said, dict) else ():
        if category in FIXED:
            raise InputError(f"{where}: {category} is fixed, and no profile sets it; take it out")
        if category == FORBIDDEN:
            raise InputError(
                f"{where}: {category} has no threshold; words and classifiers decide; take it out"
            )
        if category not in ADJUSTABLE:
            raise InputError(f"{where}: {category!r} is no category; one of {', '.join(ADJUSTABLE)}")
    profile = checked_table(where, Profile, fields)
    if missing := [category for category in ADJUSTABLE if category not in profile.thresholds]:
        raise InputError(f'{where}: says nothing about {missing[0]}; add it, or: extends = "default"')
    for service in profile.remote:
        _check_service(service, where)
    for name, words in profile.words.items():
        WordList(f"{where}: words.{name}", words)
    return profile


def _check_service(service: Remote, where: str) -> None:
    if service.kind == "generic" and not (service.url and service.categories):
        raise InputError(f"{where}: a generic moderation service needs its url and its categories")
    if unknown := [name for name in service.categories if name not in CATEGORIES]:
        raise InputError(f"{where}: {unknown[0]!r} is no category; one of {', '.join(CATEGORIES)}")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _value(profile: Profile, category: str, stage: Stage) -> float | None:
    value = getattr(profile.thresholds[category], stage)
    return None if value == OFF else float(value)


def _at_tolerance(category: str, stage: Stage, tolerance: int) -> float:
    """Between the thresholds of the shipped profiles, linearly."""
    check_tolerance(tolerance)
    steps = sorted(_TOLERANCES)
    # No shipped profile has a filter off.
    values = [_value(_shipped(_TOLERANCES[step]), category, stage) or 1.0 for step in steps]
    return float(np.interp(tolerance, steps, values))
