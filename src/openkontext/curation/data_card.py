"""The data card: what went in, what was kept, what was dropped and by whom, as JSON and as one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from openkontext import reports
from openkontext.curation.comparing import VERSIONS
from openkontext.curation.curation_rules import CurationRules
from openkontext.curation.filtering import KNOWN, KnownMaterialStage
from openkontext.curation.guarded import ShownPair
from openkontext.curation.looking import STAGES
from openkontext.curation.stages import LOOKING_VERSIONS
from openkontext.curation.tally import Tally
from openkontext.evaluation.html_report import embedded, page
from openkontext.safety.checks import KnownMaterialCheck
from openkontext.safety.guard import Guard

JSON, HTML = "report.json", "report.html"
SAMPLES = 24
"""Pairs of each kind on the page."""
_WORDS = 120
"""Characters of an instruction on the page."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A pair on the page."""

    number: int
    name: str
    shown: ShownPair
    why: str = ""
    """Why it was dropped; empty where it was kept."""


def versions(guard: Guard) -> dict[str, Any]:
    """Names and versions of all that judges: stages, checks, and lists of known material.

    Args:
        guard: of the run.

    Raises:
        InputError: a list is damaged.
    """
    alone = {each.name: each.version for each in STAGES}
    lists = [
        {"publisher": each.publisher, "update": each.serial, "material": each.material}
        for check in guard.checks
        if isinstance(check, KnownMaterialCheck)
        for each in check.known.lists()
    ]
    return {
        "stages": {**LOOKING_VERSIONS, KNOWN: KnownMaterialStage.version, **alone, **VERSIONS},
        "checks": {check.name: check.version for check in guard.checks},
        "lists": lists,
    }


def record(
    *, name: str, digest: str, made: datetime, tally: Tally, told: dict[str, Any], rules: CurationRules
) -> dict[str, Any]:
    """The card as JSON.

    Args:
        name: of the output.
        digest: of the output, see `kept_files.finish`.
        made: when the run began.
        tally: of all records.
        told: further fields: "source", "output", and what `versions` gives.
        rules: of the run.
    """
    head = reports.head(reports.DATA_CARD, [reports.ReportSubject(name, digest)], made)
    return {
        **head,
        **tally.record(),
        "input_digest": tally.input_digest,
        **told,
        "rules": rules.model_dump(mode="json"),
    }


def render(card: dict[str, Any], kept: Sequence[Sample], dropped: Sequence[Sample]) -> str:
    """The card as a page.

    Args:
        card: see `record`.
        kept: pairs of the output.
        dropped: pairs that were dropped for what is harmless, and that all filters pass.

    Raises:
        InputError: Jinja2 is not installed.
    """
    facts = {
        "source": card["source"],
        "output": f"{card['output']['format']}, files: {card['output']['files']}",
        "made": card["made"],
        "openkontext": card["openkontext"],
        "rules": card["rules"]["name"],
        "risk profile of the filters": card["rules"]["safety"]["profile"],
        "digest of the input": card["input_digest"],
        "digest of the output": card["subjects"][0]["digest"],
    }
    return page(
        "data_card.html",
        "openkontext.curation",
        card=card,
        facts=facts,
        **{name: _shares(card[name], card["kept"]) for name in ("licenses", "groups")},
        sides=_shares(card["shorter_side"], card["kept"]),
        kept=[_case(each) for each in kept],
        dropped=[_case(each) for each in dropped],
    )


def _shares(counts: dict[str, int], whole: int) -> list[tuple[str, int, int]]:
    return [(name, count, whole) for name, count in counts.items()]


def _case(sample: Sample) -> dict[str, Any]:
    words = " ".join(sample.shown.instruction.split())
    return {
        "name": sample.name,
        "number": sample.number,
        "words": words if len(words) <= _WORDS else f"{words[:_WORDS]}...",
        "why": sample.why,
        "pictures": [{"label": role, **embedded(pixels)} for role, pixels in sample.shown.pictures],
    }
