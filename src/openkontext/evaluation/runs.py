"""Whole evaluations: which cases, how they are run, and how a run was made."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from openkontext.data.edits import IMPOSSIBLE, KINDS
from openkontext.data.scenes import render
from openkontext.editor import Editor
from openkontext.errors import InputError, RefusedError
from openkontext.evaluation.benchmarks import PictureCase, read_cases, spread
from openkontext.evaluation.cases import Case, draw_cases
from openkontext.evaluation.drift import DriftReport, Kept, draw_chain, follow
from openkontext.images.fitting import Pixels, from_model, to_model
from openkontext.reports import ReportSubject
from openkontext.version import __version__

COUNT = 300
"""Cases that are drawn where no number is given."""

Track = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Shows how far an evaluation is: items, what is done with them, how many there are."""
Picture = tuple[Kept | None, str, Pixels]
"""Of a chain: what is left after a turn, its instruction, and the picture."""


def own_cases(editor: Editor, seed: int, count: int | None, kinds: str | None) -> list[Case]:
    """Our own cases: of the kinds that are named, else of those that the model was taught.

    Args:
        editor: to be judged.
        seed: of the cases.
        count: how many; None for `COUNT`.
        kinds: names with commas between; None for the model's own.

    Raises:
        InputError: there is no such kind.
    """
    named = editor.repository.config.kinds or KINDS
    if kinds is not None:
        named = tuple(dict.fromkeys(kind.strip() for kind in kinds.split(",")))
        for kind in named:
            if kind not in (*KINDS, IMPOSSIBLE):
                raise InputError(
                    f"--kinds: there is no {kind!r}; choose of {', '.join((*KINDS, IMPOSSIBLE))}"
                )
    return draw_cases(seed, COUNT if count is None else count, named)


def foreign_cases(
    path: str, count: int | None, kinds: str | None, ceiling: bool, outputs: Path | None = None
) -> list[PictureCase]:
    """Cases from elsewhere; so many of them, evenly spread.

    Those that go on with an output need all outputs kept, and all cases before them.

    Raises:
        InputError: they cannot be read, or an option asks for what only our own cases have.
    """
    if kinds is not None:
        raise InputError("--kinds is for our own cases; leave it out with --cases, which brings its own")
    if ceiling:
        raise InputError("--ceiling needs cases whose true outcome is known; leave out --cases")
    cases = read_cases(path)
    if outputs is None or (count is not None and count < len(cases)):
        cases = [case for case in cases if not case.follows]
    return [replace(case, outputs=outputs) for case in spread(cases, count)]


@dataclass
class DriftRun:
    """Chains of successive edits, and what came of them."""

    kept: list[Kept] = field(default_factory=list)
    shown: list[list[Picture]] = field(default_factory=list)
    """The first chains, with their pictures."""
    refused: list[str] = field(default_factory=list)
    """Turns that a filter refused; the chain went on from where it was."""
    seconds: float = 0.0
    """Time of all edits."""

    @property
    def report(self) -> DriftReport:
        """On all turns of all chains."""
        return DriftReport.of(self.kept)


def run_drift(
    editor: Editor,
    *,
    seed: int,
    count: int,
    turns: int,
    show: int,
    track: Track,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> DriftRun:
    """Edit outputs again and again, beside the autoencoder alone.

    Args:
        editor: that edits.
        seed: of the chains and their noise.
        count: how many chains.
        turns: successive edits of a chain.
        show: chains whose pictures are kept.
        track: shows how far it is.
        num_inference_steps: denoising steps; None for the model's own number.
        guidance_scale: None for the model's own value.
    """
    run = DriftRun()

    def edit(picture: Pixels, prompt: str, noise: int) -> Pixels:
        try:
            result = editor.edit(
                picture,
                prompt,
                seed=noise,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
            )
        except RefusedError as error:  # the chain goes on from where it was
            run.refused.append(f"{prompt!r} was {error}")
            return picture
        run.seconds += result.seconds
        return np.asarray(result.image.convert("RGB"))

    def alone(picture: Pixels) -> Pixels:
        return from_model(editor.components.decode(editor.components.encode(to_model(picture))))

    kinds = editor.repository.config.kinds or KINDS
    chains = (draw_chain(seed, index, kinds, turns) for index in range(count))
    for chain in track(chains, "editing", count):
        pictures: list[Picture] = [(None, "start", render(chain.start))]
        for turn, (kept, picture) in zip(chain.turns, follow(chain, edit, alone), strict=True):
            run.kept.append(kept)
            pictures.append((kept, turn.instruction, picture))
        if len(run.shown) < show:
            run.shown.append(pictures)
    return run


def subject(editor: Editor) -> ReportSubject:
    """What a report on an editor's edits speaks of: its model in its precision, with its LoRAs."""
    loras = [(each.name, each.digest, each.strength) for each in editor.loras]
    return ReportSubject.of_model(editor.repository.config.name, editor.digest, loras)


def facts(
    editor: Editor,
    cases: str,
    *,
    seed: int,
    steps: int | None,
    guidance: float | None,
    true_cfg: float = 1.0,
    seconds: float,
) -> dict[str, str]:
    """How a run was made, by name; `seconds` are those of an edit."""
    config = editor.repository.config
    return {
        "model": config.name,
        "digest": editor.digest[:16],
        "precision": editor.components.precision,
        "cases": cases,
        "steps": str(steps or config.num_inference_steps),
        "guidance": f"{config.guidance_scale if guidance is None else guidance:g}",
        "true guidance": f"{true_cfg:g}" if true_cfg > 1 else "off",
        "seed": str(seed),
        "time an edit": f"{seconds:.2f} s",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "openkontext": __version__,
    }
