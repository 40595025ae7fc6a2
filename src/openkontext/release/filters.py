"""The filters that stand around a model when it is released, and their versions."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from openkontext import reports, safety
from openkontext.errors import InputError
from openkontext.places import list_folders
from openkontext.reports import ReportSubject
from openkontext.safety.known.material import KnownMaterial
from openkontext.safety.policy import load_policy
from openkontext.safety.standard import standard_guard

KIND = "filters"
"""Kind of the report that a release makes of them."""


def in_force(profile: str, subjects: Iterable[ReportSubject]) -> dict[str, Any]:
    """The report on the filters of a profile: each check with its version, and the lists of known material.

    Args:
        profile: "strict", "default", "permissive", or a TOML file.
        subjects: the models that are released.

    Raises:
        InputError: the profile cannot be used, or a filter cannot look.
    """
    policy = load_policy(profile)
    verdict = safety.check("make it night", np.full((64, 64, 3), 128, np.uint8), profile)
    if verdict.failure:
        raise InputError(f"the filters cannot look, so nothing is released: {verdict.message}")
    lists = [
        {"publisher": each.publisher, "update": each.serial, "material": each.material}
        for each in KnownMaterial(list_folders()).lists()
    ]
    return {
        **reports.head(KIND, subjects),
        "profile": policy.profile.name,
        "review": policy.profile.review.mode,
        "filters": {check.name: check.version for check in standard_guard(policy).checks},
        "lists": lists,
    }
