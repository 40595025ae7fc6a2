"""Filters of a curation that cost nothing: known material, and a check that a word makes hang or end."""

import os
import time

from openkontext.curation.curation_rules import CurationRules
from openkontext.places import list_folders
from openkontext.safety.checks import KnownMaterialCheck
from openkontext.safety.guard import Guard
from openkontext.safety.known.material import KnownMaterial
from openkontext.safety.policy import load_policy
from openkontext.safety.verdict import CheckTurn, Stage, Subject


class WordCheck:
    """Refuses "rifle", hangs at "sleep", ends its process at "crash", and fails at "fail"."""

    name, version, stages, turn = "words", "1", frozenset({Stage.PROMPT}), CheckTurn.CHEAP

    def scores(self, subject: Subject) -> dict[str, float]:
        if "sleep" in subject.prompt:
            time.sleep(600)
        if "crash" in subject.prompt:
            os._exit(1)
        if "fail" in subject.prompt:
            raise RuntimeError("it fails")
        return {"weapons": float("rifle" in subject.prompt)}


def light_guard(rules: CurationRules) -> Guard:
    known = KnownMaterialCheck(KnownMaterial(list_folders()))
    profile = load_policy(rules.safety.profile)
    long = profile.profile.model_copy(update={"budget_seconds": 300})
    return Guard(type(profile)(long), [WordCheck(), known])
