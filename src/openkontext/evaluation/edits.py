"""Run an editor over cases and read what it gives."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import RefusedError
from openkontext.evaluation.cases import Case
from openkontext.evaluation.reader import Fault, Reading, read
from openkontext.images.fitting import Pixels, from_model, to_model


class Edited(Protocol):
    """What an editor gives back."""

    @property
    def image(self) -> Image.Image:
        """The edited picture."""


class Edits(Protocol):
    """Whatever edits as `openkontext.Editor` does."""

    def edit(
        self,
        image: Pixels,
        prompt: str,
        *,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        seed: int | None,
    ) -> Edited:
        """Edit a picture as an instruction says."""


class Autoencodes(Protocol):
    """Whatever encodes and decodes as `openkontext.runtime.Components` does."""

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pictures in -1..1 -> latents."""

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents -> pictures."""


@dataclass(frozen=True)
class Outcome:
    """One case, and what came of it."""

    case: Case
    output: Pixels
    """The editor's picture, [height, width, 3]."""
    reading: Reading
    seconds: float
    """Time that the editor took."""


def evaluate(cases: Iterable[Case], edit: Callable[[Case], Pixels]) -> Iterator[Outcome]:
    """Edit case after case and read each output; what a filter refuses has failed."""
    for case in cases:
        started = time.perf_counter()
        try:
            output = edit(case)
            reading = None
        except RefusedError as error:  # harmless as all cases are, a refusal is a failure
            output, reading = case.before, Reading((Fault("refused", str(error)),))
        seconds = time.perf_counter() - started
        yield Outcome(case, output, reading or read(case.edit, output), seconds)


def edited_by(
    editor: Edits, num_inference_steps: int | None = None, guidance_scale: float | None = None
) -> Callable[[Case], Pixels]:
    """What an editor makes of a case, with its noise seeded by the case.

    Args:
        editor: such as `openkontext.load()` gives.
        num_inference_steps: denoising steps; None for the model's own number.
        guidance_scale: how strictly to follow the instruction; None for the model's own value.
    """

    def edit(case: Case) -> Pixels:
        result = editor.edit(
            case.before,
            case.instruction,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=case.index,
        )
        return np.asarray(result.image.convert("RGB"))

    return edit


def round_trip(components: Autoencodes) -> Callable[[Case], Pixels]:
    """The true picture after a model's autoencoder: the best that any edit with that model can look."""

    def edit(case: Case) -> Pixels:
        return from_model(components.decode(components.encode(to_model(case.truth))))

    return edit
