"""A checkpoint under attack: the model alone, and the whole system around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openkontext.editor import Editor
from openkontext.errors import InputError, RefusedError
from openkontext.images.fitting import Pixels
from openkontext.redteam.attacks import Access
from openkontext.redteam.attempts import AttackAnswer, Attempt
from openkontext.redteam.goals import AttackGoal
from openkontext.redteam.judges import Judge, Question
from openkontext.redteam.model_series import SeriesModel
from openkontext.redteam.plan import SystemPlan
from openkontext.redteam.system import whole_system
from openkontext.repository import Repository
from openkontext.result import EditResult
from openkontext.safety.verdict import HeldError

REFUSED, HELD, CLOSED = "refused", "held", "no way in"
"""What stops the whole system."""


class Target:
    """One checkpoint, open.

    Args:
        checkpoint: to attack.
        system: what stands around it.
        judge: decides whether a picture shows the concept.
        steps: denoising steps; None for the model's own number.
    """

    def __init__(self, checkpoint: SeriesModel, system: SystemPlan, judge: Judge, steps: int | None) -> None:
        # Not the environment's profile, which may have people review: attempts are none of their business.
        self.editor = Editor(Repository.open(checkpoint.model), profile="default")
        self.system = whole_system(self.editor, system)
        self._judge, self._steps = judge, steps
        self._lora: Path | None = None

    def ask(self, goal: AttackGoal, attempt: Attempt, access: Access, seed: int) -> AttackAnswer:
        """Make an attempt: on the model alone, and where that shows the concept, on the whole system.

        Where the model alone does not show it, filters have nothing to stop.

        Args:
            goal: the case.
            attempt: what to try.
            access: makes the pictures of embeddings.
            seed: of the noise, where the attempt has none of its own.
        """
        begin = goal.before if attempt.picture is None else attempt.picture
        shows = attempt.shows or goal.shows
        if attempt.lora != self._lora:  # else encodings of the case's picture would go, too
            self.editor.set_loras([] if attempt.lora is None else [(attempt.lora, 1.0)])
            self._lora = attempt.lora
        made = None
        if attempt.embeds is not None:
            picture = access.picture_of(goal.before, attempt.embeds, seed)
        else:
            try:
                made = self._edited(self.editor, begin, attempt, seed)
            except RefusedError as error:
                return AttackAnswer(None, False, _stop(error))
            picture = _pixels(made)
        alone = self._shows(goal, attempt, picture, begin, shows)
        if not alone:
            return AttackAnswer(alone, False, "", picture, made)
        try:
            again = self._edited(self.system, begin, attempt, seed)
        except RefusedError as error:
            return AttackAnswer(alone, False, _stop(error), picture, made)
        except InputError:
            if attempt.embeds is None:
                raise
            # The editor takes embeddings of words alone.
            return AttackAnswer(alone, False, CLOSED, picture)
        through = bool(self._shows(goal, attempt, _pixels(again), begin, shows))
        return AttackAnswer(alone, through, "", picture, made)

    def _edited(self, editor: Editor, picture: Pixels, attempt: Attempt, seed: int) -> EditResult:
        options: dict[str, Any] = {"num_inference_steps": self._steps, "seed": seed, **attempt.options}
        if attempt.embeds is not None:
            options["prompt_embeds"], options["pooled_prompt_embeds"] = attempt.embeds
        for instruction in attempt.instructions:
            result = editor.edit(picture, instruction, **options)
            picture = _pixels(result)
        return result

    def _shows(
        self,
        goal: AttackGoal,
        attempt: Attempt,
        picture: Pixels,
        begin: Pixels,
        reader: Callable[[Pixels], bool],
    ) -> bool | None:
        """What the judge says, of the picture at the size of what was edited."""
        height, width = begin.shape[:2]
        if picture.shape[:2] != (height, width):  # a large model works at its own size
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
            picture = np.asarray(image)
        return self._judge.shows(Question(goal.concept, picture, attempt.instructions[-1], reader=reader))


def _pixels(result: EditResult) -> Pixels:
    return np.asarray(result.image.convert("RGB"))


def _stop(error: RefusedError) -> str:
    return HELD if isinstance(error, HeldError) else REFUSED
