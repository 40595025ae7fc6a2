"""What a job shows to its client: the FLUX API's statuses, and signed addresses of results."""

import base64
import hmac
import time
from typing import Any, Literal

from pydantic import BaseModel, Field

from openkontext.service.settings import Settings
from openkontext.service.storage.models import Job, JobState

Status = Literal["Task not found", "Pending", "Request Moderated", "Content Moderated", "Ready", "Error"]

STATUS: dict[str, Status] = {
    JobState.QUEUED: "Pending",
    JobState.RUNNING: "Pending",
    JobState.HELD: "Pending",
    JobState.READY: "Ready",
    JobState.REQUEST_MODERATED: "Request Moderated",
    JobState.CONTENT_MODERATED: "Content Moderated",
    JobState.ERROR: "Error",
    JobState.CANCELLED: "Error",
}
"""States of a job as the FLUX API names them."""

SAMPLES, TASKS = "addresses of results", "addresses of tasks"
"""Purposes of the keys that addresses are signed with."""
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Media types by `output_format`."""


class Result(BaseModel):
    """The state of a task, as `GET /v1/get_result` of the FLUX API tells it."""

    id: str = Field(description="Task id for retrieving result")
    status: Status
    result: dict[str, Any] | None = Field(None, description="When Ready: `sample`, the signed address of it.")
    progress: float | None = Field(None, description="0 to 1.")
    details: dict[str, Any] | None = Field(None, description="`state`, and why it ended as it did.")
    preview: dict[str, Any] | None = Field(None, description="While Pending, if asked for: `image`.")


def describe(job: Job, settings: Settings, preview: bytes | None = None) -> Result:
    """A job as its client sees it."""
    details: dict[str, Any] = {"state": job.state}
    if job.state == JobState.HELD:
        details["review"] = "pending"
    if job.refusal:
        details |= {key: job.refusal[key] for key in ("category", "stage", "message") if key in job.refusal}
    if job.error:
        details["error"] = job.error
    result, made = None, job.result or {}
    if job.state == JobState.READY and job.output:
        result = {
            "sample": signed_url(job, settings),
            "prompt": job.asked.get("prompt"),
            "start_time": job.started,
            "end_time": job.finished,
            "duration": (job.finished or 0.0) - (job.started or 0.0),
            **made,
            "warnings": [*job.asked.get("warnings", ()), *made.get("warnings", ())],
        }
    elif job.state == JobState.READY:
        details["error"] = "the result was deleted after its retention time"
    shown = None
    if preview is not None:
        shown = {"image": "data:image/webp;base64," + base64.b64encode(preview).decode()}
    return Result(
        id=job.id,
        status=STATUS[job.state],
        result=result,
        progress=job.progress,
        details=details,
        preview=shown,
    )


def not_found(job_id: str) -> Result:
    """The answer for an id that is none of this account's."""
    return Result(id=job_id, status="Task not found", result=None, progress=None, details=None, preview=None)


def signed_url(job: Job, settings: Settings) -> str:
    """Address of a result that works without a key for `url_seconds`."""
    expires = int(time.time()) + settings.url_seconds
    extension = job.asked.get("output_format", "png")
    path = f"/v1/results/{job.id}/sample.{extension}"
    return f"{job.base_url}{path}?expires={expires}&signature={_sign(settings, SAMPLES, job.id, expires)}"


def polling_url(job: Job, settings: Settings) -> str:
    """Address of a task that works without a key, for as long as the task is kept."""
    return f"{job.base_url}/v1/get_result?id={job.id}&signature={_sign(settings, TASKS, job.id)}"


def signature_holds(settings: Settings, job_id: str, expires: int, signature: str) -> bool:
    """Whether the address of a result was signed here and has not expired."""
    return hmac.compare_digest(_sign(settings, SAMPLES, job_id, expires), signature) and time.time() < expires


def may_poll(settings: Settings, job_id: str, signature: str) -> bool:
    """Whether the address of a task was signed here."""
    return hmac.compare_digest(_sign(settings, TASKS, job_id), signature)


def _sign(settings: Settings, purpose: str, *parts: str | int) -> str:
    message = " ".join(map(str, parts)).encode()
    return hmac.new(settings.key(purpose), message, "sha256").hexdigest()
