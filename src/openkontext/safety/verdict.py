"""What the filters judge and what they answer, as data: categories, stages, findings, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import RefusedError

FIXED = ("csam", "known_material", "ncii")
"""Child sexual abuse material, matches with lists of known material, intimate imagery without consent.

Nothing switches these off or loosens them: no setting, variable, parameter, role or file."""

ADJUSTABLE = (
    "sexual",
    "nudity",
    "self_harm",
    "gore",
    "hate_symbols",
    "violence",
    "weapons",
    "public_figures",
    "characters_logos",
)
"""Categories whose thresholds a risk profile sets."""

FORBIDDEN = "forbidden"
"""What the operator of a deployment forbids besides, by a profile's words and classifiers.

It has no threshold that a profile or a request could loosen: they are its setting. A reviewer may
approve what it refuses."""

CATEGORIES = (*FIXED, *ADJUSTABLE, FORBIDDEN)
"""All categories, the gravest first: of several that are found, the first decides."""

ASKABLE = tuple(category for category in CATEGORIES if category not in ("known_material", FORBIDDEN))
"""What the prompt check scores: all but being on a list, which only a picture can, and what operators add."""

UNCHECKED = "unchecked"
"""In place of a category where a check could not run: what nobody looked at is refused."""

IN_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "csam": "child sexual abuse",
        "known_material": "known illegal material",
        "ncii": "intimate imagery without consent",
        "sexual": "sexual content",
        "nudity": "nudity",
        "self_harm": "self-harm",
        "gore": "gore",
        "hate_symbols": "hate symbols",
        "violence": "violence",
        "weapons": "weapons",
        "public_figures": "a public figure",
        "characters_logos": "a protected character or logo",
        FORBIDDEN: "what the operator forbids",
    }
)
"""Categories as a person reads them."""


class Stage(StrEnum):
    """Where in an edit something is judged."""

    PROMPT = "prompt"
    """The instruction alone."""
    INPUT = "input"
    """A picture that was handed in."""
    PAIR = "pair"
    """The instruction on that picture: each may be innocent, and both together not."""
    OUTPUT = "output"
    """The picture that was made."""


class CheckTurn(IntEnum):
    """When a check looks. Those of one turn look side by side; what one turn refuses, the next never sees."""

    CHEAP = 0
    """It takes a few milliseconds."""
    COSTLY = 1
    """It takes longer: a model, or a service elsewhere."""
    LAST = 2
    """It puts together what the others scored."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is judged at one stage."""

    stage: Stage
    prompt: str = ""
    """The instruction, also where a picture is judged."""
    negative_prompt: str = ""
    """What the picture should not show."""
    pixels: NDArray[np.uint8] | None = None
    """The picture, uint8 [H, W, 3], sRGB, upright."""
    data: bytes | None = None
    """The file it was handed in as; None where there was none."""
    name: str = ""
    """What the file is called."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What was scored so far in this edit: stage -> category or hint -> the highest of all checks, 0..1."""


class Check(Protocol):
    """One filter. It says how likely something is; whether that is too much, the policy says."""

    @property
    def name(self) -> str:
        """Of the check."""
        ...

    @property
    def version(self) -> str:
        """Of the check and what it runs on."""
        ...

    @property
    def stages(self) -> frozenset[Stage]:
        """Where it looks."""
        ...

    @property
    def turn(self) -> "CheckTurn":
        """When it looks."""
        ...

    def scores(self, subject: Subject) -> Mapping[str, float]:
        """Judge.

        Args:
            subject: of one of its `stages`.

        Returns:
            Category -> score in 0..1; what is left out is 0. Names that are no category are hints for
            later checks, and refuse nothing by themselves.

        Raises:
            Exception: whatever keeps it from looking; the request is refused then.
        """
        ...


@runtime_checkable
class Opens(Protocol):
    """A check that opens something before it can look, such as a model. The budget does not run meanwhile."""

    def open(self) -> None:
        """Open it; a second call changes nothing.

        Raises:
            Exception: whatever keeps it from that; it keeps `Check.scores` from looking, too.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """One category that a check scored, and where the policy draws the line."""

    category: str
    """One of `CATEGORIES`."""
    score: float
    """0 to 1."""
    threshold: float | None
    """Score from which it is refused; None where the deployment left this filter to its reviewers."""
    stage: Stage
    check: str
    """Name of the check."""
    version: str
    """Of the check."""

    @property
    def fixed(self) -> bool:
        """Whether no setting can loosen it."""
        return self.category in FIXED

    @property
    def refused(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.threshold is not None and self.score >= self.threshold


@dataclass(frozen=True)
class CheckResult:
    """What one check said at one stage."""

    name: str
    version: str
    stage: Stage
    findings: tuple[Finding, ...] = ()
    """Every category that it scored above 0."""
    milliseconds: float = 0.0
    failure: str = ""
    """Why it could not look; empty where it did."""


@dataclass(frozen=True)
class Verdict:
    """What all checks said."""

    checks: tuple[CheckResult, ...] = ()
    """In the order of their stages, the cheap ones first."""

    @property
    def decisive(self) -> Finding | None:
        """The finding that refuses; of several, that of the gravest category."""
        found = [each for check in self.checks for each in check.findings if each.refused]
        return min(found, key=lambda each: (CATEGORIES.index(each.category), -each.score), default=None)

    @property
    def failure(self) -> CheckResult | None:
        """The first check that could not look."""
        return next((check for check in self.checks if check.failure), None)

    @property
    def allowed(self) -> bool:
        """Whether nothing was found, and every check looked."""
        return self.decisive is None and self.failure is None

    @property
    def category(self) -> str | None:
        """What was refused, one of `CATEGORIES` or `UNCHECKED`; None where it is allowed."""
        if found := self.decisive:
            return found.category
        return UNCHECKED if self.failure else None

    @property
    def stage(self) -> Stage | None:
        """Where it was refused; None where it is allowed."""
        decided = self.decisive or self.failure
        return decided.stage if decided else None

    @property
    def fixed(self) -> bool:
        """Whether it was refused for a category that no setting can loosen."""
        return self.decisive is not None and self.decisive.fixed

    @property
    def message(self) -> str:
        """One line for who asked: what was refused and where, and no more; empty where it is allowed."""
        if found := self.decisive:
            return f"refused: {_WHERE[found.stage]} {IN_WORDS[found.category]}"
        if failed := self.failure:
            return (
                f"refused: the check {failed.name} could not look at {_WHAT[failed.stage]} ({failed.failure})"
            )
        return ""

    def record(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return {
            "allowed": self.allowed,
            "category": self.category,
            "stage": self.stage,
            "fixed": self.fixed,
            "checks": [
                {
                    **asdict(check),
                    "findings": [
                        {**asdict(found), "fixed": found.fixed, "refused": found.refused}
                        for found in check.findings
                    ],
                }
                for check in self.checks
            ],
        }

    def joined(self, others: "Sequence[Verdict]") -> "Verdict":
        """This verdict and others as one.

        Args:
            others: of further stages or pictures.
        """
        return Verdict((*self.checks, *(check for other in others for check in other.checks)))


class FilterRefusalError(RefusedError):
    """A filter refused; the verdict says what."""

    def __init__(self, verdict: Verdict, message: str = "") -> None:
        """Refuse.

        Args:
            verdict: that refused.
            message: one line; the verdict's own where empty.
        """
        super().__init__(message or verdict.message)
        self.verdict = verdict


class HeldError(FilterRefusalError):
    """The request waits for a person; asked again once it is approved, it goes on."""

    def __init__(self, verdict: Verdict, request: str, seed: int) -> None:
        """Hold.

        Args:
            verdict: that the reviewers see.
            request: id in the review queue.
            seed: to ask again with, so that it is the same request.
        """
        super().__init__(
            verdict,
            f"held for review as request {request[:8]}; once it is approved, ask again with seed {seed}",
        )
        self.request, self.seed = request, seed


_WHERE = {
    Stage.PROMPT: "the instruction asks for",
    Stage.INPUT: "the picture shows",
    Stage.PAIR: "the instruction on this picture asks for",
    Stage.OUTPUT: "the result would show",
}
_WHAT = {
    Stage.PROMPT: "the instruction",
    Stage.INPUT: "the picture",
    Stage.PAIR: "the instruction and the picture",
    Stage.OUTPUT: "the result",
}
