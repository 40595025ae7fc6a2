"""Image edits as OpenAI's API takes them: a form with files, answered when the edit is done."""

import asyncio
import base64
import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from openkontext.errors import InputError
from openkontext.service import jobs
from openkontext.service.access import Caller, may
from openkontext.service.end_users import MAX_NAME, chosen
from openkontext.service.errors import Refused
from openkontext.service.models import UNFINISHED, Job, JobState
from openkontext.service.results import signed_url
from openkontext.service.routes.flux import IdempotencyKey
from openkontext.service.routes.results import LOOK_SECONDS
from openkontext.service.state import State, get_state
from openkontext.service.submitting import Asked, submit

router = APIRouter(tags=["OpenAI API"])


class ErrorBody(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """An error answer."""

    error: ErrorBody


class Image(BaseModel):
    """One result: its bytes or its address."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class Images(BaseModel):
    """Results of an edit."""

    created: int
    data: list[Image]
    output_format: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIProblem, "description": what}
    for status, what in {
        400: "The edit was refused by a filter, or failed",
        401: "Not authenticated",
        402: "Not enough credit",
        403: "Terms not accepted, or the account is suspended",
        413: "Content Too Large",
        422: "A value or picture cannot be used",
        429: "Too Many Requests: see Retry-After",
        504: "The edit was not done before its deadline",
    }.items()
}


@router.post("/v1/images/edits", responses=_PROBLEMS, response_model_exclude_none=True)
async def edit_images(
    request: Request,
    caller: Annotated[Caller, Depends(may("edit"))],
    prompt: Annotated[str, Form()],
    image: Annotated[list[UploadFile] | None, File(description="Picture, then references.")] = None,
    image_list: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    mask: Annotated[UploadFile | None, File(description="Transparent where the picture may change.")] = None,
    model: Annotated[str, Form(max_length=100)] = "flux-kontext-dev",
    n: Annotated[int, Form(ge=1, le=4)] = 1,
    size: Annotated[str, Form(max_length=20)] = "auto",
    response_format: Annotated[Literal["b64_json", "url"], Form()] = "b64_json",
    output_format: Annotated[Literal["png", "jpeg", "webp"], Form()] = "png",
    safety_identifier: Annotated[str | None, Form(max_length=MAX_NAME, description="Whom it is for.")] = None,
    user: Annotated[str | None, Form(max_length=MAX_NAME, description="Its older name.")] = None,
    stream: Annotated[bool, Form(description="Not taken: follow a task at /v1/jobs/{id}/events.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Images:
    """Edit a picture, and wait for the result. A client that goes away cancels its edit."""
    if stream:
        raise InputError("stream: is not taken here; submit to /v1/flux-kontext-dev and follow its events")
    files = [*(image or []), *(image_list or [])]
    if not 1 <= len(files) <= 4:
        raise InputError("image: hand in one to four pictures")
    pictures = [await file.read() for file in files]
    mask_bytes = await mask.read() if mask is not None else None
    width, height = _parse_size(size)
    options = {"prompt": prompt, "width": width, "height": height, "output_format": output_format}
    made = []
    for index in range(n):
        asked = Asked(
            model=model,
            options=options,
            pictures=pictures,
            mask=mask_bytes,
            alpha_is_mask=mask_bytes is not None,
            end_user=chosen([safety_identifier, user]),
            idempotency_key=f"{idempotency_key}/{index}" if idempotency_key else None,
        )
        made.append(await run_in_threadpool(submit, request, caller, asked))
    state = get_state(request)
    done = await _wait(request, state, [job.id for job in made])
    data = [await run_in_threadpool(_image, state, job, response_format) for job in done]
    return Images(created=int(time.time()), data=data, output_format=output_format)


async def _wait(request: Request, state: State, ids: list[str]) -> list[Job]:
    ends = time.monotonic() + state.settings.deadline_seconds + state.settings.lease_seconds
    while True:
        found = await run_in_threadpool(_read, state, ids)
        if all(job.state not in UNFINISHED or job.state == JobState.HELD for job in found):
            return found
        if time.monotonic() > ends:
            raise Refused(504, "the edit was not done before its deadline")
        if await request.is_disconnected():
            await run_in_threadpool(_cancel, state, ids)
            raise Refused(400, "the client went away")
        await asyncio.sleep(LOOK_SECONDS / 3)


def _read(state: State, ids: list[str]) -> list[Job]:
    with state.database.reading() as session:
        return [session.get_one(Job, id) for id in ids]


def _cancel(state: State, ids: list[str]) -> None:
    with state.database.transaction() as session:
        for id in ids:
            jobs.cancel(session, session.get_one(Job, id))


def _image(state: State, job: Job, response_format: str) -> Image:
    if job.state == JobState.HELD:
        raise Refused(
            400, f"the edit waits for a person's review; ask for it later: /v1/get_result?id={job.id}"
        )
    if job.state != JobState.READY or job.output is None:
        refusal = (job.refusal or {}).get("message")
        raise Refused(400, refusal or job.error or "the edit was cancelled")
    if response_format == "url":
        return Image(url=signed_url(job, state.settings))
    return Image(b64_json=base64.b64encode(state.store.get(job.output)).decode())


def _parse_size(size: str) -> tuple[int | None, int | None]:
    if size == "auto":
        return None, None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size, re.ASCII)
    if not match:
        raise InputError(f"size: {size!r} is none; give auto or one such as 1024x768")
    return int(match[1]), int(match[2])
