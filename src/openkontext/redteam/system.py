"""The whole system around a model: every editor's filters, an operator's rule on words, and review.

It only adds to the filters that an editor has. There is no switch here that takes one away: the model alone
is asked through the same editor, whose filters let the harmless stand-ins pass.
"""

import copy
import secrets
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from openkontext.editor import Editor
from openkontext.redteam.plan import SystemPlan
from openkontext.safety.guard import Guard
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.prompt.interpretations import interpretations
from openkontext.safety.prompt.normalize import fold, tokens
from openkontext.safety.review.queue import HELD, ReviewQueue
from openkontext.safety.verdict import CheckTurn, Stage, Subject

CATEGORY = "characters_logos"
"""What an operator's words count as: a protected character or logo."""


class WordRule:
    """Refuses instructions that hold a word of a list, in any disguise that the prompt check undoes.

    Args:
        words: single words and phrases.
    """

    name = "operator's words"
    version = "1"
    stages = frozenset({Stage.PROMPT})
    turn = CheckTurn.CHEAP

    def __init__(self, words: Sequence[str]) -> None:
        self._phrases = [tuple(tokens(fold(word))) for word in words]

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """1 where a reading of the instruction holds a word of the list."""
        found = any(
            _holds(reading, phrase) for reading in interpretations(subject.prompt) for phrase in self._phrases
        )
        return {CATEGORY: 1.0} if found else {}


class UnattendedQueue:
    """A review queue that nobody looks into. It keeps nothing: sealed cases may be among what is held."""

    def approved(self, *_: Any) -> bool:
        """Nobody approves."""
        return False

    def hold(self, **_: Any) -> SimpleNamespace:
        """Held it is, for as long as the run lasts."""
        return SimpleNamespace(state=HELD, id=secrets.token_hex(16))


def whole_system(editor: Editor, plan: SystemPlan) -> Editor:
    """An editor of the same model, with the plan's profile, words and review.

    Args:
        editor: whose graphs to use.
        plan: what stands around it.

    Raises:
        InputError: the profile cannot be used.
    """
    profile = load_policy(plan.profile).profile
    review = profile.review.model_copy(update={"mode": plan.review})
    policy = Policy(profile.model_copy(update={"review": review}))
    words = [word for each in plan.words.values() for word in each]
    checks = [*editor.guard.checks, *([WordRule(words)] if words else [])]
    reviews = cast(ReviewQueue, UnattendedQueue()) if plan.review != "off" else None
    around = copy.copy(editor)
    around.guard = Guard(policy, checks, reviews=reviews)
    return around


def _holds(words: Sequence[str], phrase: tuple[str, ...]) -> bool:
    length = len(phrase)
    return any(tuple(words[at : at + length]) == phrase for at in range(len(words) - length + 1))
