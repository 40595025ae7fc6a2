"""The guard that every editor has: all checks that come with openkontext, by the deployment's profile."""

import logging
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openkontext.places import list_folders
from openkontext.safety.checks import (
    BodyCheck,
    InstructionCheck,
    KnownMaterialCheck,
    LettersCheck,
    RemoteCheck,
    TextScorer,
    TogetherCheck,
)
from openkontext.safety.guard import Guard
from openkontext.safety.known.material import KnownMaterial
from openkontext.safety.operator_checks import ClassifierCheck, WordsCheck
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.verdict import Check, Stage, Subject

if TYPE_CHECKING:
    from openkontext.safety.review.queue import ReviewQueue

_log = logging.getLogger(__name__)


def review_queue(policy: Policy) -> "ReviewQueue":
    """The review queue that a policy names.

    Args:
        policy: of the deployment.

    Raises:
        InputError: it cannot be opened.
    """
    from openkontext.safety.review.queue import ReviewQueue  # SQLAlchemy takes 0.3 s to import

    review = policy.profile.review
    keep = timedelta(days=review.days)
    return ReviewQueue(review.database or None, reviewers=review.reviewers, keep=keep)


def standard_guard(policy: Policy | None = None) -> Guard:
    """The guard of an editor: all checks that come with openkontext, and the services of the profile.

    Args:
        policy: of the deployment; None for `load_policy()`.

    Raises:
        InputError: the profile, a service of it or the review queue cannot be used.
    """
    policy = policy or load_policy()
    reviews = review_queue(policy) if policy.profile.review.mode != "off" else None
    return Guard(policy, standard_checks(policy), reviews=reviews)


def standard_checks(policy: Policy) -> list[Check]:
    """All checks that come with openkontext, and those that the profile adds.

    Args:
        policy: of the deployment.

    Raises:
        InputError: a service, a list of words or a classifier of the profile cannot be used.
    """
    words, known = _words(), _known_material(list_folders())
    return [
        InstructionCheck(words),
        *(WordsCheck(name, listed) for name, listed in policy.profile.words.items()),
        KnownMaterialCheck(known),
        BodyCheck(),
        LettersCheck(words),
        *map(RemoteCheck, policy.profile.remote),
        *map(ClassifierCheck, policy.profile.classifiers),
        TogetherCheck(),
    ]


def preload(guard: Guard) -> None:
    """Have the checks of a guard open what they look with, by looking at a picture with a word in it.

    Services elsewhere are not called. A check that fails is told of in the log alone: it fails in every edit,
    too, which is refused then.

    Args:
        guard: of an editor.
    """
    picture = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(picture).text((20, 40), "night", "black", ImageFont.load_default(48))
    for check in guard.checks:
        if isinstance(check, RemoteCheck):
            continue
        for stage in sorted(check.stages):
            pixels = None if stage == Stage.PROMPT else np.asarray(picture)
            try:
                check.scores(Subject(stage, "make it night", pixels=pixels))
            except Exception as error:  # whatever it is, the guard says so where it matters
                _log.warning("check %s cannot look: %s", check.name, error)


@cache
def _words() -> TextScorer:
    from openkontext.safety.prompt import PromptCheck

    return PromptCheck()


@cache
def _known_material(folders: tuple[Path, ...]) -> KnownMaterial:
    return KnownMaterial(folders)
