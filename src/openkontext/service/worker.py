"""A worker: takes jobs under a lease and does them with `Editor`, one at a time."""

import io
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from PIL import Image

from openkontext.editor import Editor, load
from openkontext.errors import InputError, RefusedError
from openkontext.request import EditRequest, EditResult, EditStep
from openkontext.safety.verdict import FilterRefusalError, HeldError, Stage
from openkontext.service import jobs
from openkontext.service.audit import Audit
from openkontext.service.database import Database
from openkontext.service.jobs import Lease, Outcome
from openkontext.service.misuse import judge, note_refusal
from openkontext.service.models import Job, JobState
from openkontext.service.settings import Settings
from openkontext.service.store import ImageStore, keep

PREVIEW_SIDE = 48
"""Pixels of a preview's longer side: enough to see where it goes, too few to show what filters refuse."""
PREVIEW_SECONDS = 0.5
"""At most so often a preview is decoded."""
IDLE_SECONDS = (0.02, 0.25)
"""How long an idle worker waits before it looks again: at first, and after a while."""

log = structlog.get_logger()


class _Stop(Exception):
    """Raised inside an edit to end it. Its reason: "lost", "cancelled", "deadline" or "stopping"."""


class Worker:
    """Does the jobs of a service until it is told to stop.

    Args:
        settings: of the service.
        database: where the jobs are.
        editor: what edits; opened from the settings when None.
    """

    def __init__(self, settings: Settings, database: Database, editor: Editor | None = None) -> None:
        self.settings, self.database = settings, database
        self.store, self.audit = ImageStore(settings), Audit(settings)
        self.editor = editor or load(
            settings.model,
            precision=settings.precision,
            provider=settings.provider,
            arithmetic=settings.arithmetic,
            low_memory=settings.low_memory,
        )
        self.stopping = threading.Event()

    def run(self) -> None:
        """Do jobs until `stopping` is set."""
        idle = IDLE_SECONDS[0]
        while not self.stopping.is_set():
            if self.do_next():
                idle = IDLE_SECONDS[0]
            else:
                self.stopping.wait(idle)
                idle = min(idle * 1.5, IDLE_SECONDS[1])

    def do_next(self) -> bool:
        """Do one job; returns whether there was one."""
        with self.database.transaction() as session:
            lease = jobs.claim(session, self.settings)
        if lease is None:
            return False
        started = time.monotonic()
        heart = _Heart(self, lease)
        try:
            outcome = self._do(lease, heart)
        except _Stop as stop:
            if str(stop) == "stopping":
                with self.database.transaction() as session:
                    jobs.release(session, lease.job.id, lease.token)
            if str(stop) not in _STOPPED:
                return True
            outcome = _STOPPED[str(stop)]
        finally:
            heart.stop()
        with self.database.transaction() as session:
            kept = jobs.finish(session, self.settings, lease.job.id, lease.token, outcome)
            if kept and outcome.refusal is not None and outcome.review is None:
                note_refusal(session, lease.job, outcome.refusal)
                judge(session, self.audit, lease.job.account_id)
        seconds = round(time.monotonic() - started, 3)
        log.info("job", id=lease.job.id, state=str(outcome.state), kept=kept, seconds=seconds)
        return True

    def _do(self, lease: Lease, heart: "_Heart") -> Outcome:
        try:
            result = self.editor.run(self._request(lease.job), heart.step)
            content, result_facts = _encode(result, lease.job.asked.get("output_format", "png"))
        except HeldError as error:
            refusal = _refusal(error)
            return Outcome(JobState.HELD, refusal=refusal, review=error.request, seed=error.seed)
        except RefusedError as error:
            return _refused(error)
        except InputError as error:
            return Outcome(JobState.ERROR, error=str(error))
        except (_Stop, KeyboardInterrupt):
            raise
        except (
            Exception
        ) as error:  # one job's defect must not end the worker, nor show its inside to a client
            log.exception("job failed", id=lease.job.id, error=type(error).__name__)
            return Outcome(JobState.ERROR, error="the edit failed; this is a defect of the service")
        return Outcome(JobState.READY, output=keep(self.database, self.store, content), result=result_facts)

    def _request(self, job: Job) -> EditRequest:
        asked = job.asked
        try:
            pictures = [self.store.get(digest) for digest in job.inputs]
            mask = self.store.get(job.mask) if job.mask else None
        except KeyError as error:
            raise InputError("a picture of this edit is no longer there; hand it in again") from error
        ratio = asked.get("aspect_ratio")
        return EditRequest(
            prompt=asked["prompt"],
            image=pictures[0] if pictures else None,
            reference_images=pictures[1:],
            mask_image=mask,
            num_inference_steps=asked.get("steps"),
            guidance_scale=asked.get("guidance"),
            seed=asked.get("seed"),
            width=asked.get("width"),
            height=asked.get("height"),
            aspect_ratio=(ratio[0], ratio[1]) if ratio else None,
            fit=asked.get("fit", "stretch"),
        )


_STOPPED = {
    "cancelled": Outcome(JobState.CANCELLED),
    "deadline": Outcome(JobState.ERROR, error="the deadline passed"),
}


class _Heart:
    """Renews a lease while an edit runs, also through long steps, and hears of the wish to stop."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker, self._lease = worker, lease
        self._why: str | None = None
        self._done = threading.Event()
        self._previewed = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def step(self, step: EditStep) -> None:
        """Called after each denoising step.

        Raises:
            _Stop: the edit is not wanted any more.
        """
        preview = None
        if time.monotonic() - self._previewed > PREVIEW_SECONDS and step.index < step.count:
            preview = _coarse(step.preview())
            self._previewed = time.monotonic()
        self._report(step.index / (step.count + 1), preview)
        if self._worker.stopping.is_set():
            raise _Stop("stopping")
        if self._why is not None:
            raise _Stop(self._why)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._worker.settings.lease_seconds / 3):
            self._report()

    def _report(self, progress: float | None = None, preview: bytes | None = None) -> None:
        worker, lease = self._worker, self._lease
        with worker.database.transaction() as session:
            why = jobs.report(session, worker.settings, lease.job.id, lease.token, progress, preview)
        self._why = why or self._why


def _coarse(picture: Image.Image) -> bytes:
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def _encode(result: EditResult, kind: str) -> tuple[bytes, dict[str, Any]]:
    """The file of a result, as `EditResult.save` makes it, and what a client is told of it."""
    with tempfile.TemporaryDirectory(prefix="openkontext-") as folder:
        path = Path(folder) / f"sample.{kind}"
        result.save(path)
        content = path.read_bytes()
    facts = {
        "seed": result.seed,
        "width": result.image.width,
        "height": result.image.height,
        "steps": result.num_inference_steps,
        "guidance": result.guidance_scale,
        "model": result.model,
        "digest": result.digest,
        "seconds": round(result.seconds, 3),
        "notes": list(result.notes),
        "warnings": list(result.warnings),
    }
    return content, facts


def _refusal(error: RefusedError) -> dict[str, Any]:
    """What a filter said, for the database: the verdict, with a line for the client."""
    verdict = error.verdict.record() if isinstance(error, FilterRefusalError) else {}
    return {"message": str(error), "stage": "", "category": "", "fixed": False, **verdict}


def _refused(error: RefusedError) -> Outcome:
    """How a refusal shows: by the request's own pictures and words, or by what came out."""
    refusal = _refusal(error)
    by_output = refusal["stage"] == Stage.OUTPUT
    state = JobState.CONTENT_MODERATED if by_output else JobState.REQUEST_MODERATED
    return Outcome(state, refusal=refusal)
