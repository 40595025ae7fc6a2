"""What a precision or an arithmetic costs: the same edits with the same noise, beside those of a reference.

Each candidate runs in a process of its own, so that its peak memory is its own.
"""

import concurrent.futures
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openkontext.data.edits import KINDS
from openkontext.editor import load
from openkontext.errors import InputError, RefusedError
from openkontext.evaluation.cases import draw_cases
from openkontext.evaluation.scene_judge import judge
from openkontext.evaluation.similarity import psnr, ssim
from openkontext.images.fitting import Pixels
from openkontext.repository import Repository

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_COLORS = ((46, 110, 180), (206, 62, 56), (46, 148, 86), (150, 90, 170), (220, 150, 40), (60, 60, 60))


@dataclass(frozen=True)
class Candidate:
    """A repository in a precision, computed in an arithmetic."""

    model: str
    precision: str
    arithmetic: str = "auto"

    @property
    def label(self) -> str:
        """How it is called in the table."""
        name = Path(self.model).name
        return self.precision if self.model == "nano" else f"{name} {self.precision}"


@dataclass(frozen=True)
class FidelityRun:
    """What a candidate made of the cases."""

    latents: list[NDArray[np.float32]]
    """Of each case the target's tokens as they go into each step, [steps, tokens, channels]."""
    pictures: list[Pixels | None]
    """The results; None where a filter refused one, which counts as failed."""
    successes: list[bool]
    seconds: float
    """Of all edits, without opening the repository."""
    peak_mib: float
    """Largest memory of the process, opening included."""
    arithmetic: str = "faithful"
    """How they were computed, also where "auto" was asked for."""


@dataclass(frozen=True)
class Fidelity:
    """How near a candidate comes to the reference."""

    label: str
    success: float
    """Share of edits that did what was asked."""
    latent_error: tuple[float, ...]
    """Going into each step but the first: distance of the latents over the reference's size, over cases."""
    psnr: float
    """Of the pictures against the reference's, dB, median over cases that no filter refused: a mean would be
    infinite where one picture is equal, as it is where nothing was changed."""
    ssim: float
    """Structural similarity of the same, mean over the cases: 1 where equal."""
    megabytes: float
    """Of the transformer's files."""
    seconds: float
    """Of one edit."""
    peak_mib: float


def run(candidate: Candidate, seed: int, count: int, steps: int | None) -> FidelityRun:
    """Edit the cases of a seed with one candidate, in this process."""
    editor = load(candidate.model, precision=candidate.precision, arithmetic=candidate.arithmetic)
    components: Any = editor.components
    transform, seen = components.transformer, []

    def transformer(**arrays: NDArray[Any]) -> NDArray[np.float32]:
        target = arrays["img_ids"][:, 0] == 0
        seen.append(np.asarray(arrays["hidden_states"])[0, target])
        return transform(**arrays)

    components.transformer = transformer
    latents: list[NDArray[np.float32]] = []
    pictures: list[Pixels | None] = []
    successes, seconds = [], 0.0
    for case in draw_cases(seed, count, editor.repository.config.kinds or KINDS):
        seen.clear()
        start = time.perf_counter()
        picture = None
        with suppress(RefusedError):
            result = editor.edit(case.before, case.instruction, num_inference_steps=steps, seed=case.index)
            picture = np.asarray(result.image.convert("RGB"))
        seconds += time.perf_counter() - start
        latents.append(np.stack(seen))
        pictures.append(picture)
        successes.append(picture is not None and judge(case.edit, picture).success)
    return FidelityRun(latents, pictures, successes, seconds, _peak_mib(), editor.components.arithmetic)


def _peak_mib() -> float:
    """Largest memory of this process so far; not a number where the system does not tell, as on Windows."""
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def compare(
    candidates: Sequence[Candidate], seed: int = 0, count: int = 27, steps: int | None = None
) -> list[Fidelity]:
    """Run all candidates on the same cases with the same noise; the first is the reference.

    Raises:
        InputError: there are fewer than two, or one cannot be opened.
    """
    if len(candidates) < 2:
        raise InputError(
            "a comparison needs two precisions or more, such as --precision bf16,fp8,fp4, or two arithmetics"
        )
    for each in candidates:
        repository = Repository.open(each.model)
        repository.verify(repository.precision(each.precision))
    runs = []
    for each in candidates:  # a fresh process for each: peak memory never goes down within one
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            runs.append(pool.submit(run, each, seed, count, steps).result())
    return [_against(runs[0], each, found) for each, found in zip(candidates, runs, strict=True)]


def plot(found: Sequence[Fidelity], title: str) -> Image.Image:
    """Latent error over the steps, one line a candidate, on a logarithmic scale of decades."""
    width, height, left, top, bottom = 720, 420, 70, 50, 50
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    draw.text((left, 14), title, "black", font)
    values = [value for each in found[1:] for value in each.latent_error if value > 0]
    low, high = (
        math.floor(math.log10(min(values, default=0.1))),
        math.ceil(math.log10(max(values, default=1))),
    )
    high = max(high, low + 1)
    count = max(len(each.latent_error) for each in found)

    def point(step: int, value: float) -> tuple[float, float]:
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        x = left + step * (width - left - 170) / max(count - 1, 1)
        return x, height - bottom - share * (height - top - bottom)

    for decade in range(low, high + 1):
        y = point(0, 10**decade)[1]
        draw.line((left, y, width - 170, y), (225, 225, 225))
        draw.text((left - 8, y), f"{10**decade:g}", "black", small, anchor="rm")
    draw.text(((left + width - 170) / 2, height - 16), f"step 2 to {count + 1}", "black", small, anchor="mm")
    for i, each in enumerate(found[1:]):
        color = _COLORS[i % len(_COLORS)]
        draw.line([point(step, value) for step, value in enumerate(each.latent_error)], color, 2)
        draw.text((width - 160, top + 20 * i), each.label, color, small)
    return picture


def _against(reference: FidelityRun, candidate: Candidate, found: FidelityRun) -> Fidelity:
    errors = [
        np.linalg.norm((ours - theirs)[1:], axis=(1, 2)) / np.linalg.norm(theirs[1:], axis=(1, 2))
        for ours, theirs in zip(found.latents, reference.latents, strict=True)
    ]
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(found.pictures, reference.pictures, strict=True)
        if ours is not None and theirs is not None
    ]
    folder = Repository.open(candidate.model).graph("transformer", candidate.precision).parent
    return Fidelity(
        label=candidate.label + ("" if found.arithmetic == "faithful" else f" {found.arithmetic}"),
        success=float(np.mean(found.successes)),
        latent_error=tuple(float(value) for value in np.mean(errors, axis=0)),
        psnr=float(np.median([psnr(*pair) for pair in pairs])),
        ssim=float(np.mean([ssim(*pair) for pair in pairs])),
        megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        seconds=found.seconds / len(found.pictures),
        peak_mib=found.peak_mib,
    )
