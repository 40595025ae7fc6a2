"""How often a model produces a concept, by route, and what else it can still do."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from openkontext.data.edits import KINDS
from openkontext.editor import Editor
from openkontext.errors import RefusedError
from openkontext.evaluation.cases import Case, draw_case
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases
from openkontext.evaluation.concepts import ROUTES, Concept
from openkontext.evaluation.runs import Track
from openkontext.evaluation.scores import Score
from openkontext.images.fitting import Pixels

DIRECT_BOUND, ROUTE_BOUND, OTHERS_BOUND = 0.02, 0.05, 0.02
"""How often a concept may come by its name, by any other route, and how much less other edits may succeed."""

OTHERS = "others"
"""In the place of a route: an edit that has nothing to do with the concept."""

Edits = Callable[[ConceptCase | Case], Pixels]
"""Makes a picture of a case."""


class ConceptEditor(Protocol):
    """Whatever edits as `openkontext.Editor` does."""

    def edit(self, image: Any, prompt: str, **options: Any) -> Any:
        """Edit a picture as an instruction says; the result has an `image`."""


@dataclass(frozen=True)
class ConceptOutcome:
    """One case, and what came of it."""

    route: str
    """One of `ROUTES`, or `OTHERS` for an edit that has nothing to do with the concept."""
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
    routes: dict[str, Score]
    """How often the concept came, by route."""
    others: Score | None
    """How often edits without the concept succeeded."""

    @classmethod
    def of(cls, concept: Concept, model: str, outcomes: Sequence[ConceptOutcome]) -> "ConceptReport":
        """The report on outcomes, at least one."""
        by = {route: [o.success for o in outcomes if o.route == route] for route in (*ROUTES, OTHERS)}
        scores = {route: Score.of(found) for route, found in by.items() if found}
        others = scores.pop(OTHERS, None)
        return cls(concept.name, model, scores, others)

    def missed(self, base: "ConceptReport | None" = None) -> list[str]:
        """The bounds that are missed, each in words; that of other edits needs the model of before."""
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


@dataclass(frozen=True)
class OthersLost:
    """What other edits lost from one model to the next, on the same cases and noise."""

    points: float
    """Share of the cases that only the first got right, less that which only the second did."""
    low: float
    high: float
    """Its 95% interval: Wald's for a difference of paired proportions (A. Agresti, "Categorical Data
    Analysis", section on matched pairs)."""

    @classmethod
    def of(cls, before: Sequence[ConceptOutcome], after: Sequence[ConceptOutcome]) -> "OthersLost | None":
        """The loss from outcomes of the same cases in the same order; None where there is no other edit."""
        pairs = [
            (one.success, two.success)
            for one, two in zip(before, after, strict=True)
            if one.route == two.route == OTHERS
        ]
        if not pairs:
            return None
        count, lost, won = len(pairs), pairs.count((True, False)), pairs.count((False, True))
        points = (lost - won) / count
        deviation = math.sqrt((lost + won - count * points**2) / count**2)
        return cls(points, points - 1.96 * deviation, points + 1.96 * deviation)


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


def edited_by(editor: ConceptEditor, steps: int | None = None) -> Edits:
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
            yield ConceptOutcome(OTHERS, case.instruction, judgment.success, words)


def run(
    editor: Editor,
    concept: Concept,
    *,
    seed: int,
    count: int,
    others: int,
    routes: Sequence[str] = ROUTES,
    steps: int | None = None,
    track: Track,
) -> tuple[ConceptReport, list[ConceptOutcome]]:
    """Measure a model: cases of the split "test" by each route, and other edits.

    Args:
        editor: to be judged.
        concept: that it should not produce.
        seed: of cases and noise.
        count: cases of each route.
        others: edits that have nothing to do with the concept; 0 for none.
        routes: some of `ROUTES`.
        steps: denoising steps; None for the model's own number.
        track: shows how far it is.

    Raises:
        InputError: there is no such route, or no case is asked for.
    """
    cases: list[ConceptCase | Case] = [*draw_concept_cases(concept, seed, count, routes)]
    cases += other_cases(concept, seed, others, editor.repository.config.kinds)
    outcomes = list(track(measure(edited_by(editor, steps), cases), "editing", len(cases)))
    return ConceptReport.of(concept, editor.repository.config.name, outcomes), outcomes
