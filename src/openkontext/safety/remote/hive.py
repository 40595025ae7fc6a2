"""Hive's visual moderation, V2: https://docs.thehive.ai/docs/visual-moderation-api.

A picture goes as the field `media` of a form to /api/v2/task/sync, with `authorization: token KEY`. The
answer holds one status for each model of the project, with code 0 where it worked, and an output for each
frame: classes with a score in 0..1. The classes of one head sum to 1; those that say "no" are left out here.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, SecretStr, ValidationError

from openkontext.safety.remote.client import RemoteClient, RemoteError

URL = "https://api.thehive.ai/api/v2/task/sync"

CLASSES: Mapping[str, tuple[str, ...]] = {
    "nudity": ("yes_female_nudity", "yes_male_nudity", "yes_undressed"),
    "sexual": ("general_nsfw", "yes_sexual_activity", "yes_sexual_intent", "yes_realistic_nsfw"),
    "gore": ("very_bloody", "human_corpse"),
    "violence": ("yes_fight", "hanging", "noose"),
    "self_harm": ("yes_self_harm",),
    "weapons": ("gun_in_hand", "gun_not_in_hand", "knife_in_hand", "knife_not_in_hand"),
    "hate_symbols": ("yes_nazi", "yes_kkk", "yes_terrorist", "yes_confederate"),
}
"""Category -> the classes of Hive that are evidence of it; the strongest counts."""

CHILD = "yes_child_present"
"""The class that says that a child is in the picture."""


class _Class(BaseModel):
    name: str = Field(alias="class")
    score: float = Field(ge=0, le=1, allow_inf_nan=False)


class _Output(BaseModel):
    classes: list[_Class]


class _Response(BaseModel):
    output: list[_Output] = Field(min_length=1)


class _State(BaseModel):
    code: int


class _Status(BaseModel):
    status: _State
    response: _Response


class _Answer(BaseModel):
    status: list[_Status] = Field(min_length=1)


class Hive:
    """A visual moderation project of Hive."""

    def __init__(self, key: SecretStr, *, url: str = URL, **limits: float) -> None:
        """Call nothing yet.

        Args:
            key: API key of the project.
            url: where it answers.
            **limits: `timeout`, `attempts`, `deadline`, `failures` and `rest` of `RemoteClient`.
        """
        self._client = RemoteClient("Hive", url, key, scheme="token", **limits)  # type: ignore[arg-type]

    def classes(self, pixels: NDArray[np.uint8]) -> dict[str, float]:
        """What Hive sees in a picture.

        Args:
            pixels: uint8 [H, W, 3].

        Returns:
            Class -> score in 0..1.

        Raises:
            RemoteError: Hive gave no usable answer.
        """
        try:
            answer = _Answer.model_validate(self._client.post(pixels, "media"))
        except ValidationError:
            raise RemoteError("Hive answered in another form than documented") from None
        if any(each.status.code != 0 for each in answer.status):
            raise RemoteError("Hive could not process the picture")
        scores: dict[str, float] = {}
        for each in answer.status:
            for output in each.response.output:
                for found in output.classes:
                    scores[found.name] = max(found.score, scores.get(found.name, 0.0))
        if missing := [category for category, classes in CLASSES.items() if not scores.keys() & set(classes)]:
            # The key of another project would answer, too, and find nothing of what it is asked for.
            raise RemoteError(
                f"Hive's answer says nothing about {missing[0]}; is its key of visual moderation?"
            )
        return scores


def by_category(classes: Mapping[str, float]) -> dict[str, float]:
    """Scores of our categories.

    Args:
        classes: as `Hive.classes` gives them.
    """
    return {category: max(classes.get(name, 0.0) for name in names) for category, names in CLASSES.items()}
