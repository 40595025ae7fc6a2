"""Results by their signed address, and the progress of a task as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from openkontext.service.http.access import Caller, KeyFirst, may
from openkontext.service.http.answers import json_responses, responses
from openkontext.service.http.ranges import answer
from openkontext.service.http.state import State, get_state
from openkontext.service.queue import owned
from openkontext.service.queue.job_results import MEDIA_TYPES, Result, describe, not_found, signature_holds
from openkontext.service.queue.recovery import ended_late
from openkontext.service.rejections import Refused
from openkontext.service.storage.models import UNFINISHED, Job, JobState

router = APIRouter(tags=["Results"], route_class=KeyFirst)
LOOK_SECONDS = 0.15
"""How often a followed task is looked at."""


_CONTENT: dict[str, Any] = {"content": {kind: {} for kind in MEDIA_TYPES.values()}}
_SAMPLE: dict[str, Any] = {
    "path": "/v1/results/{id}/{name}",
    "response_class": Response,
    "responses": {
        200: _CONTENT,
        206: {"description": "The part that Range asks for", **_CONTENT},
        304: {"description": "Not changed since the ETag of If-None-Match"},
        **responses(403, 404, 416),
    },
}


@router.head(**_SAMPLE, operation_id="head_sample")
@router.get(**_SAMPLE)
def get_sample(
    request: Request,
    id: Annotated[str, Path(max_length=100)],
    name: Annotated[str, Path(max_length=100)],
    expires: Annotated[int, Query()],
    signature: Annotated[str, Query(max_length=100, pattern="^[0-9a-f]*$")],
) -> Response:
    """A result, by the address that `get_result` gave; it works for ten minutes, without a key."""
    state = get_state(request)
    if not signature_holds(state.settings, id, expires, signature):
        raise Refused(403, "this address has expired or was not made here; ask get_result for a new one")
    with state.database.reading() as session:
        job = session.get(Job, id)
        if job is None or job.state != JobState.READY or job.output is None:
            raise Refused(404, "the result is no longer there")
        digest, kind = job.output, job.asked.get("output_format", "png")
    try:
        content = state.store.get(digest)
    except KeyError as error:
        raise Refused(404, "the result is no longer there") from error
    headers = {"Content-Disposition": f'inline; filename="{id}.{kind}"', "Cache-Control": "private, no-store"}
    return answer(request, content, MEDIA_TYPES[kind], headers)


def look(
    state: State, caller: Caller, id: str, seen: float | None = None
) -> tuple[Result, bool, float | None]:
    """A task, whether it is at its end, and its progress; the preview is read only where something is new."""
    with state.database.reading() as session:
        job = owned.own(session, caller.account_id, id)
        if job is None:
            return not_found(id), True, None
        if not ended_late(state.database, state.settings, job):
            preview = job.preview if job.progress != seen else None
            return describe(job, state.settings, preview), job.state not in UNFINISHED, job.progress
    return look(state, caller, id, seen)


@router.get(
    "/v1/jobs/{id}/events", response_class=EventSourceResponse, responses=json_responses(400, 403, 404)
)
async def follow(
    request: Request,
    caller: Annotated[Caller, Depends(may("read"))],
    id: Annotated[str, Path(max_length=100)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow a task: `progress` events with the body of `get_result`, and one `done` event at its end."""
    state = get_state(request)
    last: Result | None = None
    seen: float | None = None
    while True:
        result, ended, progress = await run_in_threadpool(look, state, caller, id, seen)
        if ended:
            yield ServerSentEvent(event="done", data=result)
            return
        if last is None or progress != seen or result.details != last.details:
            yield ServerSentEvent(event="progress", data=result)
        last, seen = result, progress
        if await request.is_disconnected():
            return
        await asyncio.sleep(LOOK_SECONDS)
