"""Run an editor over cases and judge what it gives."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext import images
from openkontext.errors import InputError, RefusedError
from openkontext.evaluation.benchmarks import PictureCase
from openkontext.evaluation.published import Cell
from openkontext.evaluation.scene_judge import Fault, Judgment
from openkontext.evaluation.similarity import Embeds, Pictured, measure
from openkontext.images.fitting import Pixels, from_model, to_model


class Edited(Protocol):
    """What an editor gives back."""

    def save(self, path: Path, *, metadata: Mapping[str, str]) -> None:
        """Write the picture to a file, which also says what `metadata` does."""

    @property
    def image(self) -> Image.Image:
        """The edited picture."""

    @property
    def unchanged(self) -> bool:
        """Whether it says that nothing was done."""


class EditorLike(Protocol):
    """Whatever edits as `openkontext.Editor` does."""

    @property
    def digest(self) -> str:
        """Tells its model from any other."""

    def edit(
        self,
        image: Pixels,
        prompt: str,
        *,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        negative_prompt: str | None,
        true_cfg_scale: float,
        seed: int | None,
    ) -> Edited:
        """Edit a picture as an instruction says."""


class Autoencodes(Protocol):
    """Whatever encodes and decodes as `openkontext.runtime.Components` does."""

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pictures in -1..1 -> latents."""

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents -> pictures."""


class AnyCase(Pictured, Protocol):
    """A case: ours (`cases.Case`), or one from elsewhere (`benchmarks.PictureCase`)."""

    @property
    def index(self) -> int:
        """Place among the cases."""

    @property
    def name(self) -> str:
        """What to call it in a report."""

    @property
    def instruction(self) -> str:
        """What is asked."""

    @property
    def task(self) -> str:
        """Task of KontextBench, or another word where it is of none."""

    @property
    def kind(self) -> str:
        """Kind of edit; the task where kinds are not told."""

    @property
    def unseen(self) -> bool | None:
        """Whether training never saw the like; None where that is not known."""

    @property
    def held_out_phrasing(self) -> bool | None:
        """Whether training never used the phrasing; None where that is not known."""

    def judge(self, output: Pixels) -> Judgment | None:
        """What an independent judge finds in an output; None where none can judge."""


@dataclass(frozen=True)
class EditorAnswer:
    """What an editor made of a case."""

    picture: Pixels
    """[height, width, 3]."""
    unchanged: bool = False
    """Whether the editor says that nothing was done."""
    seconds: float | None = None
    """Time that it took, where that is not the time until it was here."""


@dataclass(frozen=True)
class Outcome:
    """One case, and what came of it."""

    case: AnyCase
    output: Pixels
    """The editor's picture, [height, width, 3]."""
    judgment: Judgment | None
    """None where nobody can judge."""
    seconds: float
    """Time that the editor took."""
    unchanged: bool = False
    """Whether the editor says that nothing was done."""
    refused: str = ""
    """Why a filter refused; empty where none did."""
    measures: dict[str, float] = field(default_factory=dict)
    """What was measured, by the names of `similarity.MEASURES`."""

    def without_picture(self) -> "Outcome":
        """The same for the record alone: pictures of a whole benchmark would fill the memory."""
        return replace(self, output=np.empty((0, 0, 3), np.uint8))


def evaluate(
    cases: Iterable[AnyCase], edit: Callable[[AnyCase], EditorAnswer], clip: Embeds | None = None
) -> Iterator[Outcome]:
    """Edit case after case, judge each output and measure it; what a filter refuses has failed."""
    for case in cases:
        started = time.perf_counter()
        refused = ""
        try:
            answer = edit(case)
        except RefusedError as error:
            answer, refused = EditorAnswer(case.before), str(error)
        seconds = time.perf_counter() - started if answer.seconds is None else answer.seconds
        judgment = case.judge(answer.picture)
        if refused and judgment is not None:  # harmless as all our cases are, a refusal is a failure
            judgment = Judgment((Fault("refused", refused),))
        measures = {} if refused else measure(case, answer.picture, clip)
        yield Outcome(case, answer.picture, judgment, seconds, answer.unchanged, refused, measures)


def with_first_pictures(outcomes: Iterable[Outcome], per_kind: int) -> Iterator[Outcome]:
    """The outcomes, the first of every kind with their pictures and the others without."""
    seen = Counter[str]()
    for outcome in outcomes:
        seen[outcome.case.kind] += 1
        yield outcome if seen[outcome.case.kind] <= per_kind else outcome.without_picture()


def edited_by(
    editor: EditorLike,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    true_cfg_scale: float = 1.0,
    seed: int = 0,
    outputs: Path | None = None,
) -> Callable[[AnyCase], EditorAnswer]:
    """What an editor makes of a case, with its noise seeded by the case.

    Args:
        editor: such as `openkontext.load()` gives.
        num_inference_steps: denoising steps; None for the model's own number.
        guidance_scale: how strictly to follow the instruction; None for the model's own value.
        true_cfg_scale: how far to go away from what the model does without words; above 1 for twice the cost.
        seed: added to the case's own.
        outputs: folder where every output is kept, signed, and found again: a run that was stopped goes on.

    Raises:
        InputError: by the function that is returned: an output that lies there is of another run.
    """
    options: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "true_cfg_scale": true_cfg_scale,
    }

    def edit(case: AnyCase) -> EditorAnswer:
        before, noise = case.before, seed + case.index
        file, asked = None, ""
        if outputs is not None:
            picture = hashlib.sha256(before.tobytes()).hexdigest()
            asked = json.dumps([editor.digest, picture, case.instruction, noise, options])
            file = outputs / (getattr(case, "output", "") or f"{case.index:05}.png")
            _keep_source(case, outputs)
            if file.exists():
                return _kept(file, asked)
            file.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        result = editor.edit(
            before,
            case.instruction,
            **options,
            negative_prompt="" if true_cfg_scale > 1 else None,
            seed=noise,
        )
        seconds = time.perf_counter() - started
        if file is not None:
            said = {"asked": asked, "unchanged": str(result.unchanged), "seconds": f"{seconds:.3f}"}
            result.save(file, metadata=said)
        return EditorAnswer(np.asarray(result.image.convert("RGB")), result.unchanged, seconds)

    return edit


def _keep_source(case: AnyCase, outputs: Path) -> None:
    """Write the picture that a benchmark's judge wants beside the output, where it wants one."""
    if not isinstance(case, PictureCase) or case.source is None:
        return
    file = outputs / case.source_output
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        data = case.source.read() if isinstance(case.source, Cell) else case.source
        images.save(file, images.load(data).pixels)


def _kept(file: Path, asked: str) -> EditorAnswer:
    """An output of an earlier run."""
    said = images.read_metadata(file)
    if said.get("asked") != asked:
        raise InputError(f"{file}: is of another run, or was changed: name a new folder for --outputs")
    return EditorAnswer(images.load(file).pixels, said["unchanged"] == "True", float(said["seconds"]))


def round_trip(components: Autoencodes) -> Callable[[AnyCase], EditorAnswer]:
    """The true picture after a model's autoencoder: the best that any edit with that model can look."""

    def edit(case: AnyCase) -> EditorAnswer:
        assert case.reference is not None, "only a case with its true outcome has a ceiling"
        return EditorAnswer(from_model(components.decode(components.encode(to_model(case.reference)))))

    return edit
