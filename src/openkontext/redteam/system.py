"""The whole system around a model: every editor's filters, what an operator adds to them, and review.

It only adds to the filters that an editor has. There is no switch here that takes one away: the model alone
is asked through the same editor, whose filters let the harmless stand-ins pass.
"""

import copy
import secrets
from types import SimpleNamespace
from typing import Any, cast

from openkontext.editor import Editor
from openkontext.redteam.plan import SystemPlan
from openkontext.safety.guard import Guard
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.review.queue import HELD, ReviewQueue
from openkontext.safety.standard import standard_checks


class UnattendedQueue:
    """A review queue that nobody looks into. It keeps nothing: sealed cases may be among what is held."""

    def approved(self, *_: Any) -> bool:
        """Nobody approves."""
        return False

    def hold(self, **_: Any) -> SimpleNamespace:
        """Held it is, for as long as the run lasts."""
        return SimpleNamespace(state=HELD, id=secrets.token_hex(16))


def system_policy(plan: SystemPlan) -> Policy:
    """The plan's profile with its words, besides the profile's own, and its review.

    Args:
        plan: what stands around a model.

    Raises:
        InputError: the profile cannot be used.
    """
    profile = load_policy(plan.profile).profile
    words = {name: (*profile.words.get(name, ()), *listed) for name, listed in plan.words.items()}
    review = profile.review.model_copy(update={"mode": plan.review})
    return Policy(profile.model_copy(update={"review": review, "words": {**profile.words, **words}}))


def filters_of(plan: SystemPlan) -> dict[str, str]:
    """The filters of the whole system: name -> version, which names what an operator added, too.

    Args:
        plan: what stands around a model.

    Raises:
        InputError: the profile cannot be used.
    """
    return {check.name: check.version for check in standard_checks(system_policy(plan))}


def whole_system(editor: Editor, plan: SystemPlan) -> Editor:
    """An editor of the same model, with the plan's profile, words and review.

    Args:
        editor: whose graphs to use.
        plan: what stands around it.

    Raises:
        InputError: the profile cannot be used.
    """
    policy = system_policy(plan)
    reviews = cast(ReviewQueue, UnattendedQueue()) if plan.review != "off" else None
    around = copy.copy(editor)
    around.guard = Guard(policy, standard_checks(policy), reviews=reviews)
    return around
