"""Any moderation service, through a small contract of ours.

It gets a form with the fields `image` (JPEG) and, where there is one, `prompt`, and `authorization: Bearer
KEY`. It answers 200 and `{"scores": {"<category>": <0 to 1>, ...}}` with every category that it was set up
for. So a face recognizer can answer for public figures, and a logo detector for marks.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, SecretStr, ValidationError

from openkontext.safety.remote.client import RemoteClient, RemoteError

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Answer(BaseModel):
    scores: dict[str, Score]


class GenericModerator:
    """A service that answers with a score for each category."""

    def __init__(
        self, url: str, categories: Sequence[str], *, key: SecretStr | None = None, **limits: float
    ) -> None:
        """Call nothing yet.

        Args:
            url: to post to.
            categories: what it must answer for.
            key: sent with each call; None where it needs none.
            **limits: `timeout`, `attempts`, `deadline`, `failures` and `rest` of `RemoteClient`.
        """
        self.categories = tuple(categories)
        self._client = RemoteClient("the moderation service", url, key, **limits)  # type: ignore[arg-type]

    def scores(self, pixels: NDArray[np.uint8], prompt: str | None = None) -> dict[str, float]:
        """What the service says of a picture.

        Args:
            pixels: uint8 [H, W, 3].
            prompt: the instruction that goes with it.

        Returns:
            Category -> score in 0..1, of the categories that it was set up for.

        Raises:
            RemoteError: it gave no usable answer, or none for one of the categories.
        """
        data = {} if prompt is None else {"prompt": prompt}
        try:
            answer = _Answer.model_validate(self._client.post(pixels, "image", data))
        except ValidationError:
            raise RemoteError("the moderation service answered in another form than agreed") from None
        if missing := [name for name in self.categories if name not in answer.scores]:
            raise RemoteError(f"the moderation service says nothing about {missing[0]}")
        return {name: answer.scores[name] for name in self.categories}
