"""The guard that every editor has: all checks that come with openkontext, by the deployment's profile."""

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from openkontext.safety.checks import (
    BodyCheck,
    InstructionCheck,
    KnownMaterialCheck,
    LettersCheck,
    RemoteCheck,
    TextScorer,
    TogetherCheck,
)
from openkontext.safety.folders import list_folders
from openkontext.safety.guard import Guard
from openkontext.safety.known.material import KnownMaterial
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.verdict import Check

if TYPE_CHECKING:
    from openkontext.safety.review.queue import ReviewQueue


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
    words, known = _words(), _known_material(list_folders())
    checks: list[Check] = [
        InstructionCheck(words),
        KnownMaterialCheck(known),
        BodyCheck(),
        LettersCheck(words),
        *map(RemoteCheck, policy.profile.remote),
        TogetherCheck(),
    ]
    return Guard(
        policy, checks, reviews=review_queue(policy) if policy.profile.review.mode != "off" else None
    )


@cache
def _words() -> TextScorer:
    from openkontext.safety.prompt import PromptCheck

    return PromptCheck()


@cache
def _known_material(folders: tuple[Path, ...]) -> KnownMaterial:
    return KnownMaterial(folders)
