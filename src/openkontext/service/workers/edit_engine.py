"""What does the edits of a service: the editor in this process, or replicas elsewhere with the same face."""

import io
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from PIL import Image

from openkontext.editor import Editor, load
from openkontext.errors import InputError, RefusedError
from openkontext.lora import open_lora
from openkontext.request import EditRequest
from openkontext.result import EditResult, EditStep
from openkontext.runtime.batching import BatchingComponents
from openkontext.safety.verdict import FilterRefusalError, HeldError, Stage
from openkontext.service.queue.jobs import JobOutcome
from openkontext.service.queue.reviews import open_queue
from openkontext.service.settings import Settings
from openkontext.service.storage.models import JobState

PREVIEW_SIDE = 48
"""Pixels of a preview's longer side: enough to see where it goes, too few to show what filters refuse."""
PREVIEW_SECONDS = 0.5
"""At most so often a preview is decoded and judged, which takes as long as several steps of a small model."""
REPORT_SECONDS = 0.2
"""At most so often progress is told: each time is a write to the database."""

Report = Callable[[float, bytes | None], None]
"""Is told the progress, 0 to 1, and a preview as WebP; raises `Stop` to end the edit."""

log = structlog.get_logger()


class Stop(Exception):
    """Raised inside an edit to end it. Its reason: "lost", "cancelled", "deadline" or "stopping"."""


class EngineLostError(Exception):
    """What worked on an edit is gone; another may do it."""


@dataclass(frozen=True)
class Done:
    """How an edit ended."""

    outcome: JobOutcome
    content: bytes | None = None
    """The file, where there is one."""


@dataclass(frozen=True)
class Delivery:
    """How a result is wanted."""

    kind: str = "png"
    """Of the file: "png", "jpeg" or "webp"."""
    quality: int | None = None
    """Of JPEG and WebP, 0 to 100; None for the usual one."""
    previews: bool = False
    """Whether anyone wants to see coarse pictures on the way."""
    loras: Mapping[str, float] = field(default_factory=dict)
    """LoRAs that it is made with, by the service's names, and their strengths."""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "Delivery":
        """As a job keeps it."""
        return cls(
            asked.get("output_format") or "png",
            asked.get("output_compression"),
            bool(asked.get("preview")),
            asked.get("loras") or {},
        )


class Engine(Protocol):
    """Does edits, some of them side by side."""

    @property
    def concurrency(self) -> int:
        """Edits that it does side by side."""
        ...

    def preload(self) -> None:
        """Open graphs and filters, so that the first edit does not wait for them.

        Raises:
            InputError: the model repository or the signing key cannot be used.
        """
        ...

    def edit(self, request: EditRequest, delivery: Delivery, report: Report) -> Done:
        """Do one edit to its end.

        Args:
            request: what is asked.
            delivery: how its result is wanted.
            report: is told how far it is.

        Raises:
            Stop: whatever `report` raised.
            EngineLostError: what worked on it is gone.
        """
        ...


class LocalEngine:
    """The editor in this process.

    Args:
        settings: of the service.
        editor: what edits; opened from the settings when None.
    """

    def __init__(self, settings: Settings, editor: Editor | None = None) -> None:
        self.editor = editor or load(
            settings.model,
            precision=settings.precision,
            provider=settings.provider,
            arithmetic=settings.arithmetic,
            low_memory=settings.low_memory,
            offload=settings.offload,
        )
        if self.editor.guard.reviews is not None:  # people review: in the service's own database
            self.editor.guard.reviews = open_queue(settings, self.editor.guard.policy)
        self.concurrency = settings.batch
        self._loras = {name: open_lora(file)[0].path for name, file in settings.loras.items()}
        self._shared: BatchingComponents | None = None
        if settings.batch > 1:
            self._shared = BatchingComponents(
                self.editor.repository,
                self.editor.components.precision,
                settings.provider,
                arithmetic=settings.arithmetic,
                low_memory=settings.low_memory,
                offload=settings.offload,
                batch=settings.batch,
            )
            self.editor.components = self._shared

    def _lora(self, name: str) -> Path:
        if name not in self._loras:
            raise InputError(f"loras: {name!r} is no LoRA of this service any more; leave it out")
        return self._loras[name]

    def preload(self) -> None:
        """See `Engine`."""
        for path in self._loras.values():  # one that does not fit is said now, not in an edit
            self.editor.set_loras([path])
        self.editor.set_loras([])
        with self._shared.member() if self._shared else nullcontext():
            self.editor.preload()

    def edit(self, request: EditRequest, delivery: Delivery, report: Report) -> Done:
        """See `Engine`."""
        with self._shared.member() if self._shared else nullcontext():
            try:
                if self._loras or delivery.loras:
                    self.editor.set_loras([(self._lora(name), s) for name, s in delivery.loras.items()])
                result = self.editor.run(request, _Reporting(report, delivery.previews).step)
                content, facts = _encode(result, delivery)
            except HeldError as error:
                outcome = JobOutcome(
                    JobState.HELD, refusal=_refusal(error), review=error.request, seed=error.seed
                )
                return Done(outcome)
            except RefusedError as error:
                return Done(_refused(error))
            except InputError as error:
                return Done(JobOutcome(JobState.ERROR, error=str(error)))
            except Stop:
                raise
            except Exception as error:  # one edit's defect ends no worker, nor shows its inside to a client
                log.exception("edit failed", error=type(error).__name__)
                reason = "the edit failed; this is a defect of the service"
                return Done(JobOutcome(JobState.ERROR, error=reason))
        return Done(JobOutcome(JobState.READY, result=facts), content)


class _Reporting:
    """Passes steps on to a `Report`, neither too often nor with a preview too often."""

    def __init__(self, report: Report, previews: bool) -> None:
        self._report, self._previews = report, previews
        self._reported = 0.0
        self._previewed = time.monotonic()

    def step(self, step: EditStep) -> None:
        """Called after each denoising step."""
        at, preview = time.monotonic(), None
        if at - self._reported < REPORT_SECONDS:
            return
        if self._previews and at - self._previewed > PREVIEW_SECONDS and step.index < step.count:
            preview = _coarse(step.preview())
            self._previewed = time.monotonic()
        self._report(step.index / (step.count + 1), preview)
        self._reported = time.monotonic()


def _coarse(picture: Image.Image) -> bytes:
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def _encode(result: EditResult, delivery: Delivery) -> tuple[bytes, dict[str, Any]]:
    """The signed file of a result, and what a client is told of it."""
    content = result.encode(delivery.kind.upper(), quality=delivery.quality)
    facts = {
        "seed": result.seed,
        "width": result.image.width,
        "height": result.image.height,
        "steps": result.num_inference_steps,
        "guidance": result.guidance_scale,
        "model": result.model,
        "digest": result.digest,
        **({"loras": [asdict(lora) for lora in result.loras]} if result.loras else {}),
        "seconds": round(result.seconds, 3),
        "notes": list(result.notes),
        "warnings": list(result.warnings),
    }
    return content, facts


def _refusal(error: RefusedError) -> dict[str, Any]:
    """What a filter said, for the database: the verdict, with a line for the client."""
    verdict = error.verdict.record() if isinstance(error, FilterRefusalError) else {}
    return {"message": str(error), "stage": "", "category": "", "fixed": False, **verdict}


def _refused(error: RefusedError) -> JobOutcome:
    """How a refusal shows: by the request's own pictures and words, or by what came out."""
    refusal = _refusal(error)
    by_output = refusal["stage"] == Stage.OUTPUT
    state = JobState.CONTENT_MODERATED if by_output else JobState.REQUEST_MODERATED
    return JobOutcome(state, refusal=refusal)
