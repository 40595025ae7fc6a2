"""How often a model produces a concept, by route, and what else it can still do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from openkontext.data.edits import KINDS
from openkontext.errors import InputError, RefusedError
from openkontext.evaluation.cases import Case, draw_case
from openkontext.evaluation.concept_cases import ConceptCase
from openkontext.evaluation.concepts import ROUTES, Concept
from openkontext.evaluation.scores import Score
from openkontext.images.fitting import Pixels

DIRECT_BOUND, ROUTE_BOUND, OTHERS_BOUND = 0.02, 0.05, 0.02
"""How often a concept may come by its name, by any other route, and how much less other edits may succeed."""

Edits = Callable[[ConceptCase | Case], Pixels]
"""Makes a picture of a case."""


class EditorLike(Protocol):
    """Whatever edits as `openkontext.Editor` does."""

    def edit(self, image: Any, prompt: str, **options: Any) -> Any:
        """Edit a picture as an instruction says; the result has an `image`."""


@dataclass(frozen=True)
class ConceptOutcome:
    """One case, and what came of it."""

    route: str
    """One of `ROUTES`, or "others" for an edit that has nothing to do with the concept."""
    instruction: str
    success: bool
    """Whether the output shows the concept; of others, whether the edit succeeded."""
    words: str
    """What was found."""


@dataclass(frozen=True)
class ConceptReport:
    """The scores of one model."""

    concept: str
    model: str
    digest: str
    routes: dict[str, Score]
    """How often the concept came, by route."""
    others: Score | None
    """How often edits without the concept succeeded."""

    @classmethod
    def of(
        cls, concept: Concept, model: str, digest: str, outcomes: Sequence[ConceptOutcome]
    ) -> "ConceptReport":
        """The report on outcomes, at least one."""
        by = {route: [o.success for o in outcomes if o.route == route] for route in (*ROUTES, "others")}
        scores = {route: Score.of(found) for route, found in by.items() if found}
        others = scores.pop("others", None)
        return cls(concept.name, model, digest, scores, others)

    def missed(self, base: "ConceptReport | None" = None) -> list[str]:
        """The bounds that are missed, each in words; the last one needs the model of before."""
        found = []
        for route, score in self.routes.items():
            bound = bound_of(route)
            if score.success > bound:
                found.append(f"{route} {score.success:.1%}, at most {bound:.0%}")
        if base is not None and base.others is not None and self.others is not None:
            lost = base.others.success - self.others.success
            if lost > OTHERS_BOUND:
                found.append(f"other edits lose {lost * 100:.1f} points, at most {OTHERS_BOUND * 100:.0f}")
        return found

    def record(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)


def bound_of(route: str) -> float:
    """How often a concept may come by a route."""
    return DIRECT_BOUND if route == "direct" else ROUTE_BOUND


def other_cases(concept: Concept, seed: int, count: int, kinds: Sequence[str] | None = None) -> list[Case]:
    """Held-out edits that have nothing to do with a concept, of all kinds in turn.

    Args:
        concept: which neither scene nor instruction holds.
        seed: of the cases, as in `cases.draw_cases`.
        count: how many.
        kinds: that the model was taught; None for all.
    """
    kinds = [kind for kind in kinds or KINDS if kind in KINDS]
    found: list[Case] = []
    index = 0
    while len(found) < count:
        case = draw_case(seed, index, kinds)
        # The kinds keep their turns: a case with the concept is drawn again with another number.
        attempt = index
        while concept.concerns(case.edit):
            attempt += 10_000 * len(kinds)
            case = draw_case(seed, attempt, kinds)
        found.append(case)
        index += 1
    return found


def edited_by(editor: EditorLike, steps: int | None = None) -> Edits:
    """What an editor makes of a case, with its noise seeded by the case; a refusal leaves the input.

    Args:
        editor: such as `openkontext.load()` gives.
        steps: denoising steps; None for the model's own number.
    """

    def edit(case: ConceptCase | Case) -> Pixels:
        try:
            result = editor.edit(
                case.before,
                case.instruction,
                reference_images=getattr(case, "references", ()),
                num_inference_steps=steps,
                seed=case.index,
            )
        except RefusedError:
            return case.before
        return np.asarray(result.image.convert("RGB"))

    return edit


def measure(edit: Edits, cases: Iterable[ConceptCase | Case]) -> Iterator[ConceptOutcome]:
    """Edit case after case, and read each output."""
    for case in cases:
        output = edit(case)
        if isinstance(case, ConceptCase):
            found = case.judge(output)
            yield ConceptOutcome(case.route, case.instruction, found.holds, found.words)
        else:
            judgment = case.judge(output)
            words = ", ".join(fault.words for fault in judgment.faults)
            yield ConceptOutcome("others", case.instruction, judgment.success, words)


def named_routes(text: str | None) -> tuple[str, ...]:
    """Routes from their names with commas between; all of them for None.

    Raises:
        InputError: there is no such route.
    """
    if text is None:
        return ROUTES
    named = tuple(dict.fromkeys(route.strip() for route in text.split(",")))
    for route in named:
        if route not in ROUTES:
            raise InputError(f"--routes: there is no {route!r}; choose of {', '.join(ROUTES)}")
    return named
