"""Edits and generations as OpenAI's API takes them, answered when they are done; its list of models."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from anyio import CancelScope
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.sse import format_sse_event
from PIL import Image as Pillow
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import undefer
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from openkontext.service.http.access import Caller, KeyFirst, identify, may
from openkontext.service.http.answers import openai_error
from openkontext.service.http.asking import Asked, HandedPicture
from openkontext.service.http.routes import flux
from openkontext.service.http.routes.flux import IdempotencyKey
from openkontext.service.http.routes.openai_inputs import (
    GenerationInputs,
    ImageInputs,
    body_schema,
    read_edit,
)
from openkontext.service.http.routes.results import LOOK_SECONDS
from openkontext.service.http.state import State, get_state
from openkontext.service.http.submitting import submit
from openkontext.service.queue import jobs
from openkontext.service.queue.job_results import signed_url
from openkontext.service.queue.recovery import ended_late
from openkontext.service.rejections import Refused, WrongInputError
from openkontext.service.storage.models import UNFINISHED, Job, JobState

router = APIRouter(tags=["OpenAI API"], route_class=KeyFirst)
REFUSED = (JobState.REQUEST_MODERATED, JobState.CONTENT_MODERATED)
NO_TOKENS = {
    "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0, "total_tokens": 0,
}  # fmt: skip
"""OpenAI's clients read a bill in tokens; none are billed here."""


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
    """Results of an edit or a generation."""

    created: int
    data: list[Image]
    output_format: str
    size: str
    quality: str
    background: str = "opaque"
    warnings: list[str] | None = Field(None, description="What was asked and has no effect, and the like.")
    notes: list[str] | None = Field(None, description="What was done to the picture on the way in.")


class Model(BaseModel):
    """A name by which the service's model can be called."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "openkontext"


class Models(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[Model]


def _problems(**said: str) -> dict[int | str, dict[str, Any]]:
    return {int(status[1:]): {"model": OpenAIProblem, "description": what} for status, what in said.items()}


_PROBLEMS = _problems(
    _400="The edit was refused by a filter, or failed; or the body is neither JSON nor a form",
    _401="Not authenticated",
    _402="Not enough credit",
    _403="Terms not accepted, or the account is suspended",
    _413="Content Too Large",
    _422="A value or picture cannot be used",
    _429="Too Many Requests: see Retry-After",
    _504="The edit was not done before its deadline",
)
_ANSWERS = {200: {"content": {"text/event-stream": {}}, "description": "With stream: as events"}} | _PROBLEMS
Editing = Annotated[Caller, Depends(may("edit"))]


@router.post(
    "/v1/images/edits",
    responses=_ANSWERS,
    response_model=Images,
    response_model_exclude_none=True,
    openapi_extra=dict(body_schema()),
)
async def edit_images(request: Request, caller: Editing, idempotency_key: IdempotencyKey = None) -> Any:
    """Edit a picture, and wait for the result. A client that goes away cancels its edit."""
    inputs = await read_edit(request, get_state(request).settings.max_request_bytes)
    pictures = inputs.pictures()
    if not pictures:
        name = inputs.called.get("image", "image")
        raise WrongInputError(name, "is missing; hand in the picture to edit, or use /v1/images/generations")
    answer = _Answer(request, inputs, "image_edit")
    return await answer.make(caller, idempotency_key, pictures, inputs.mask_picture())


@router.post(
    "/v1/images/generations",
    responses=_ANSWERS,
    response_model=Images,
    response_model_exclude_none=True,
)
async def generate_images(
    request: Request, caller: Editing, inputs: GenerationInputs, idempotency_key: IdempotencyKey = None
) -> Any:
    """Make a picture from words, and wait for the result. A client that goes away cancels it."""
    return await _Answer(request, inputs, "image_generation").make(caller, idempotency_key)


@router.get("/v1/models", responses=_problems(_401="Not authenticated"))
def list_models(request: Request, _: Annotated[Caller, Depends(identify)]) -> Models:
    """Names by which the service's model can be called, its own first."""
    state = get_state(request)
    return Models(data=[Model(id=name, created=_created(state)) for name in model_names(state)])


@router.get(
    "/v1/models/{id:path}", responses=_problems(_401="Not authenticated", _404="There is no such model here")
)
def get_model(
    request: Request, _: Annotated[Caller, Depends(identify)], id: Annotated[str, Path(max_length=100)]
) -> Model:
    """One of them."""
    state = get_state(request)
    if id not in (names := model_names(state)):
        there = ", ".join(names)
        raise Refused(404, f"there is no model {id} here; there are {there}", code="model_not_found")
    return Model(id=id, created=_created(state))


def model_names(state: State) -> list[str]:
    """The model's own name, where it lies on this machine, and those that clients of the FLUX API use."""
    repository = state.repository
    return [*([repository.config.name] if repository else []), *flux.MODELS]


def _created(state: State) -> int:
    """When the model came to this machine; 0 where it lies on others."""
    repository = state.repository
    return int(repository.path.stat().st_mtime) if repository else 0


class _Answer:
    """One request on its way to its answer: its jobs are made together and end together.

    Args:
        request: of the client.
        inputs: what it asks for.
        kind: what its events are called.
    """

    def __init__(self, request: Request, inputs: ImageInputs, kind: str) -> None:
        self.request, self.inputs, self.kind = request, inputs, kind
        self.state, self.format = get_state(request), inputs.output_format or "png"
        self.ids: list[str] = []

    async def make(
        self,
        caller: Caller,
        key: str | None,
        pictures: Sequence[HandedPicture] = (),
        mask: HandedPicture | None = None,
    ) -> Images | Response:
        """Submit, and answer with the results, or with the events that lead to them."""
        inputs, repository = self.inputs, self.state.repository
        asked = Asked(
            model=inputs.model,
            options=inputs.asked_options(repository.config.num_inference_steps if repository else None),
            called=inputs.called,
            pictures=pictures,
            mask=mask,
            alpha_may_mask=bool(pictures) and mask is None and not inputs.stitch,
            warnings=inputs.warnings(model_names(self.state)),
            end_user=inputs.end_user,
            idempotency_key=key,
        )
        made = await run_in_threadpool(submit, self.request, caller, asked, inputs.n)
        self.ids = [job.id for job in made]
        if inputs.stream:
            return StreamingResponse(self._events(), media_type="text/event-stream")
        async with aclosing(self._follow()) as following:
            async for found in following:
                done = found
        return await run_in_threadpool(self._images, done)

    async def _follow(self) -> AsyncGenerator[list[Job]]:
        """The jobs as they go, until all have a result.

        Raises:
            Refused: one has none; then nobody gets any, and the credits of all come back.
        """
        settings, kept = self.state.settings, False
        ends = time.monotonic() + settings.deadline_seconds + settings.lease_seconds
        try:
            while True:
                found = await run_in_threadpool(self._read)
                _check(found)
                if kept := all(job.state == JobState.READY for job in found):
                    yield found
                    return
                yield found
                if time.monotonic() > ends:
                    raise Refused(504, "the edit was not done before its deadline")
                if await self.request.is_disconnected():
                    raise Refused(400, "the client went away")
                await asyncio.sleep(LOOK_SECONDS / 3)
        except _WaitingError as error:
            kept = True
            raise Refused(400, str(error)) from error
        finally:
            if not kept:
                with CancelScope(shield=True):  # also where the server ends this for a client that left
                    await run_in_threadpool(self._withdraw)

    async def _events(self) -> AsyncIterator[bytes]:
        """Coarse pictures on the way, spread over it, then the results: OpenAI's server-sent events."""
        inputs, sent = self.inputs, 0
        try:
            async with aclosing(self._follow()) as following:
                async for found in following:
                    done, first = found, found[0]
                    due = (sent + 1) / (inputs.partial_images + 1)
                    if sent < inputs.partial_images and first.preview and first.progress >= due:
                        picture = await run_in_threadpool(_recoded, first.preview, self.format)
                        yield self._event("partial_image", picture, inputs.size, partial_image_index=sent)
                        sent += 1
            for job, image in zip(done, (await run_in_threadpool(self._images, done)).data, strict=True):
                yield self._event("completed", image.b64_json or "", _size_of([job]), usage=NO_TOKENS)
        except Refused as error:
            told = openai_error(error.status, error.reason, code=error.code)
            yield format_sse_event(event="error", data_str=json.dumps(told))

    def _event(self, what: str, picture: str, size: str, **more: Any) -> bytes:
        name = f"{self.kind}.{what}"
        data = {
            "type": name, "b64_json": picture, "created_at": int(time.time()), "size": size,
            "quality": self.inputs.quality, "background": "opaque",
            "output_format": self.format, **more,
        }  # fmt: skip
        return format_sse_event(event=name, data_str=json.dumps(data))

    def _images(self, done: list[Job]) -> Images:
        made = [job.result or {} for job in done]
        warnings = [*(done[0].asked.get("warnings") or ()), *made[0].get("warnings", ())]
        return Images(
            created=int(time.time()),
            data=[self._image(job) for job in done],
            output_format=self.format,
            size=_size_of(done),
            quality=self.inputs.quality,
            warnings=warnings or None,
            notes=made[0].get("notes") or None,
        )

    def _image(self, job: Job) -> Image:
        if self.inputs.response_format == "url" and not self.inputs.stream:
            return Image(url=signed_url(job, self.state.settings))
        return Image(b64_json=base64.b64encode(self.state.store.get(job.output or "")).decode())

    def _read(self) -> list[Job]:
        with self.state.database.reading() as session:
            mine = select(Job).where(Job.id.in_(self.ids)).options(undefer(Job.preview))
            found = sorted(session.scalars(mine), key=lambda job: self.ids.index(job.id))
        return self._read() if ended_late(self.state.database, self.state.settings, *found) else found

    def _withdraw(self) -> None:
        with self.state.database.transaction() as session:
            for id in self.ids:
                jobs.withdraw(session, session.get_one(Job, id))


class _WaitingError(Exception):
    """A person must look first."""


def _check(found: Sequence[Job]) -> None:
    """Refuse where one job ended without a result, or where a person must look.

    Raises:
        Refused: it did.
        _WaitingError: one waits for a person, and the others are at their end.
    """
    for job in found:
        if job.state not in (*UNFINISHED, JobState.READY):
            said = (job.refusal or {}).get("message") or job.error or "the edit was cancelled"
            raise Refused(400, said, code="moderation_blocked" if job.state in REFUSED else None)
    held = [job for job in found if job.state == JobState.HELD]
    if held and all(job.state in (JobState.HELD, JobState.READY) for job in found):
        ways = " and ".join(f"/v1/get_result?id={job.id}" for job in found)
        raise _WaitingError(f"the edit waits for a person's review; ask for it later: {ways}")


def _size_of(done: Sequence[Job]) -> str:
    made = done[0].result or {}
    return f"{made.get('width')}x{made.get('height')}"


def _recoded(preview: bytes, kind: str) -> str:
    """A preview in the format that was asked for, as base64."""
    buffer = io.BytesIO()
    with Pillow.open(io.BytesIO(preview)) as picture:  # our own file
        picture.convert("RGB").save(buffer, kind.upper())
    return base64.b64encode(buffer.getvalue()).decode()
