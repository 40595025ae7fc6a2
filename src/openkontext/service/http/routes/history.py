"""What an account did before: its edits, their pictures, and what is in a result's file."""

import hashlib
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from PIL import Image
from pydantic import BaseModel, Field

from openkontext import images, provenance
from openkontext.provenance.report import Report
from openkontext.service.http.access import Caller, KeyFirst, may
from openkontext.service.http.answers import responses
from openkontext.service.http.state import State, get_state
from openkontext.service.queue import owned
from openkontext.service.queue.job_options import as_called
from openkontext.service.queue.job_results import MEDIA_TYPES, Result, describe
from openkontext.service.rejections import Refused
from openkontext.service.storage.models import Job, JobState

router = APIRouter(tags=["History"], route_class=KeyFirst)
Ending = Annotated[Caller, Depends(may("edit", suspended=True))]
Reading = Annotated[Caller, Depends(may("read"))]
JobId = Annotated[str, Path(max_length=100, description="Of the task.")]

THUMBNAIL_SIDE = 160
"""Pixels of a thumbnail's longer side: sharp at 80 on fine screens."""
REFUSED = (JobState.REQUEST_MODERATED, JobState.CONTENT_MODERATED)


class EditView(Result):
    """A task as its account sees it again later."""

    parent_id: str | None = Field(description="The task whose result it edits.")
    source: str | None = Field(description="Alike for tasks that edit the same picture handed in.")
    prompt: str
    options: dict[str, Any] = Field(description="The options that were given.")
    references: int = Field(description="How many further pictures it speaks of.")
    has_mask: bool
    created: float = Field(description="Seconds since 1970.")


class EditsView(BaseModel):
    """Tasks of an account, the newest first."""

    edits: list[EditView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class StepView(BaseModel):
    """One signed record of the chain that leads to a picture."""

    action: str = Field(description="What was done last, such as c2pa.edited.")
    software: str
    signer: str
    time: str | None
    model: str | None
    unsigned_parent: bool = Field(description="It was made from a picture without a record.")


class RecordView(BaseModel):
    """What the signed record (C2PA) in a file says, and whether it holds."""

    signed: bool
    valid: bool = Field(description="There is a record, and nothing was changed since.")
    trust: str | None = Field(description="Whose word it is: anchor, own or unknown.")
    signer: str | None
    tampering: list[str]
    chain: list[StepView] = Field(description="From the first record to the picture's own.")


class InFile(BaseModel):
    """What is in a result's file besides the picture."""

    media_type: str
    bytes: int
    sha256: str
    width: int
    height: int
    metadata: dict[str, str] = Field(description="How it was made, as written into the file.")
    record: RecordView


@router.get("/v1/jobs", responses=responses(403))
def list_edits(
    request: Request,
    caller: Reading,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
    after: Annotated[
        str | None, Query(max_length=100, description="The last task of the page before: its `next`.")
    ] = None,
) -> EditsView:
    """The newest tasks whose pictures are still kept, page by page; new ones do not shift the pages."""
    state = get_state(request)
    with state.database.reading() as session:
        found = owned.newest(session, caller.account_id, limit + 1, after)
        more = len(found) > limit
        edits = [_edit(job, state) for job in found[:limit]]
        return EditsView(edits=edits, next=edits[-1].id if more else None)


@router.delete("/v1/jobs/{id}", status_code=204, response_class=Response, responses=responses(403, 404))
def delete_edit(request: Request, caller: Ending, id: JobId) -> None:
    """Delete a task with its instruction and pictures; one that is at work is cancelled.

    Edits of its result keep their own copy. What was reported, or held for a person, stays for them.
    """
    with get_state(request).database.transaction() as session:
        job = owned.own(session, caller.account_id, id)
        if job is None:
            raise Refused(404, "you have no such task")
        owned.delete(session, job)


@router.get("/v1/jobs/{id}", responses=responses(403, 404))
def get_edit(request: Request, caller: Reading, id: JobId) -> EditView:
    """One task."""
    state = get_state(request)
    return _edit(_own(state, caller, id), state)


@router.get(
    "/v1/jobs/{id}/pictures/{name}",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}, **responses(403, 404)},
)
def get_picture(
    request: Request,
    caller: Reading,
    id: JobId,
    name: Annotated[str, Path(max_length=20, description="input, mask, output, reference-1, ...")],
) -> Response:
    """A picture of a task. Those of a refused one are not given out again."""
    state = get_state(request)
    job = _own(state, caller, id)
    found = {"input": job.inputs[0] if job.inputs else None, "mask": job.mask, "output": job.output}
    found |= {f"reference-{index}": digest for index, digest in enumerate(job.inputs[1:], 1)}
    content = _content(state, job, found.get(name))
    return Response(content, media_type=images.media_type(content) or "application/octet-stream")


@router.get(
    "/v1/jobs/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}, **responses(403, 404)},
)
def get_thumbnail(request: Request, caller: Reading, id: JobId) -> Response:
    """The result of a task in small."""
    state = get_state(request)
    job = _own(state, caller, id)
    with Image.open(io.BytesIO(_content(state, job, job.output))) as picture:  # our own file
        small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return Response(buffer.getvalue(), media_type="image/webp")


@router.get("/v1/jobs/{id}/file", responses=responses(403, 404))
def get_file(request: Request, caller: Reading, id: JobId) -> InFile:
    """What is in the file of a result besides the picture."""
    state = get_state(request)
    job = _own(state, caller, id)
    content = _content(state, job, job.output)
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    return InFile(
        media_type=MEDIA_TYPES[job.asked.get("output_format", "png")],
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width=width,
        height=height,
        metadata=images.read_metadata(content),
        record=_record(provenance.verify(content)),
    )


def _record(report: Report) -> RecordView:
    return RecordView(
        signed=report.signed,
        valid=report.valid,
        trust=report.trust,
        signer=report.signature.name if report.signature else None,
        tampering=list(report.tampering),
        chain=[
            StepView(
                action=step.action,
                software=step.software,
                signer=step.signature.name,
                time=step.time,
                model=step.model,
                unsigned_parent=step.unsigned_parent,
            )
            for step in report.chain
        ],
    )


def _own(state: State, caller: Caller, id: str) -> Job:
    with state.database.reading() as session:
        job = owned.own(session, caller.account_id, id)
        if job is None:
            raise Refused(404, "you have no such task")
        return job


def _content(state: State, job: Job, digest: str | None) -> bytes:
    if job.state in REFUSED:
        raise Refused(404, "pictures of a refused task are not given out again")
    try:
        return state.store.get(digest or "")
    except KeyError as error:
        raise Refused(404, "this task has no such picture, or it was deleted") from error


def _edit(job: Job, state: State) -> EditView:
    options = {name: value for name, value in as_called(job.asked).items() if value is not None}
    for other in ("prompt", "warnings"):
        options.pop(other, None)
    return EditView(
        **describe(job, state.settings).model_dump(),
        parent_id=job.parent_id,
        source=job.inputs[0][:32] if job.inputs and job.parent_id is None else None,
        prompt=job.asked.get("prompt", ""),
        options=options,
        references=max(0, len(job.inputs) - 1),
        has_mask=job.mask is not None,
        created=job.created,
    )
