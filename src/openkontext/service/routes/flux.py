"""The FLUX API's shape, from its public documents (docs.bfl.ai): submit, then poll."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field

from openkontext.request import MAX_PROMPT
from openkontext.service import jobs
from openkontext.service.access import Caller, may
from openkontext.service.end_users import MAX_NAME, chosen
from openkontext.service.errors import responses
from openkontext.service.models import Account, Job
from openkontext.service.results import Result, describe, not_found
from openkontext.service.state import get_state
from openkontext.service.submitting import Asked, parse_ratio, submit

router = APIRouter(tags=["FLUX API"])

Editing = Annotated[Caller, Depends(may("edit"))]
Ending = Annotated[Caller, Depends(may("edit", suspended=True))]
Reading = Annotated[Caller, Depends(may("read"))]
IdempotencyKey = Annotated[
    str | None, Header(max_length=200, description="The same key and request again give the same task.")
]


class KontextInputs(BaseModel):
    """What is asked of an edit; the fields of the FLUX API, and a few of our own at the end."""

    prompt: str = Field(description="Text prompt for image generation.", examples=["make the ball red"])
    input_image: str | None = Field(None, description="Base64 encoded image or URL to edit.")
    input_image_2: str | None = Field(None, description="A further picture to speak of.")
    input_image_3: str | None = Field(None, description="A further picture to speak of.")
    input_image_4: str | None = Field(None, description="A further picture to speak of.")
    seed: int | None = Field(None, ge=0, le=2**64 - 1, description="Optional seed for reproducibility.")
    aspect_ratio: str | None = Field(None, description="Aspect ratio between 21:9 and 9:21.", max_length=20)
    output_format: Literal["jpeg", "png", "webp"] | None = "png"
    webhook_url: str | None = Field(None, min_length=1, max_length=2083)
    webhook_secret: str | None = Field(None, description="Webhooks are signed with it.", max_length=1000)
    prompt_upsampling: bool = Field(False, description="Accepted, without effect.")
    safety_tolerance: int = Field(2, ge=0, le=6, description="0 is most strict, 6 least.")

    safety_identifier: str | None = Field(
        None, max_length=MAX_NAME, description="Whom this is for; misuse counts by it. Send no personal data."
    )
    user: str | None = Field(None, max_length=MAX_NAME, description="Older name of safety_identifier.")
    mask: str | None = Field(None, description="Base64 or URL; white where the picture may change.")
    steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps; the model's own by default.")
    guidance: float | None = Field(None, ge=0, le=100, description="How strictly to follow the prompt.")
    fit: Literal["stretch", "crop", "pad"] = Field("stretch", description="How a picture comes to the ratio.")
    keep_unchanged: bool = Field(
        True, description="Whether the picture's own pixels stay where the model changes nothing."
    )
    preview: bool = Field(False, description="Make coarse pictures on the way, as `preview` of the task.")
    parent_id: str | None = Field(
        None, max_length=36, description="Own task whose result this edits; input_image may be left out then."
    )


class Accepted(BaseModel):
    """A task was accepted."""

    id: str
    polling_url: str
    cost: float | None = Field(None, description="Credits that it costs.")
    status: str | None = Field(None, description="With a webhook: that it is on its way.")
    webhook_url: str | None = Field(None, description="With a webhook: where it will be told of.")


class Cancelled(BaseModel):
    """Whether a task could still be cancelled."""

    id: str
    cancelled: bool


class Credits(BaseModel):
    """Credits left; null is unlimited."""

    credits: float | None


def accept(request: Request, caller: Caller, asked: Asked) -> Accepted:
    """Submit and answer as the FLUX API does."""
    job = submit(request, caller, asked)
    return Accepted(
        id=job.id,
        polling_url=f"{job.base_url}/v1/get_result?id={job.id}",
        cost=job.cost,
        status="Pending" if job.webhook_url else None,
        webhook_url=job.webhook_url,
    )


def _edit(
    request: Request, inputs: KontextInputs, caller: Editing, idempotency_key: IdempotencyKey = None
) -> Accepted:
    pictures = [
        picture
        for picture in (inputs.input_image, inputs.input_image_2, inputs.input_image_3, inputs.input_image_4)
        if picture
    ]
    options: dict[str, Any] = {
        "prompt": inputs.prompt,
        "seed": inputs.seed,
        "aspect_ratio": parse_ratio(inputs.aspect_ratio) if inputs.aspect_ratio else None,
        "output_format": inputs.output_format or "png",
        "safety_tolerance": inputs.safety_tolerance,
        "steps": inputs.steps,
        "guidance": inputs.guidance,
        "fit": inputs.fit,
        "keep_unchanged": inputs.keep_unchanged,
        "preview": inputs.preview,
    }
    asked = Asked(
        model=request.url.path.rpartition("/")[2],
        options=options,
        pictures=pictures,
        mask=inputs.mask or None,
        end_user=chosen([inputs.safety_identifier, inputs.user]),
        parent_id=inputs.parent_id,
        edits_parent=inputs.parent_id is not None and not inputs.input_image,
        webhook_url=inputs.webhook_url,
        webhook_secret=inputs.webhook_secret,
        idempotency_key=idempotency_key,
    )
    return accept(request, caller, asked)


for _name in ("dev", "pro", "max"):
    router.add_api_route(
        f"/v1/flux-kontext-{_name}",
        _edit,
        methods=["POST"],
        operation_id=f"flux_kontext_{_name}",
        summary=f"Edit or create an image with FLUX.1 Kontext [{_name}]",
        description=f"At most {MAX_PROMPT} characters of prompt. All three names reach the same model.",
        responses=responses(402, 403, 413, 429),
        response_model_exclude_none=True,
    )


@router.get("/v1/get_result", responses=responses(403))
def get_result(
    request: Request, caller: Reading, id: Annotated[str, Query(max_length=100, description="Of the task.")]
) -> Result:
    """Get the state of a task, and the address of its result."""
    state = get_state(request)
    with state.database.reading() as session:
        job = session.get(Job, id) if "\0" not in id else None
        if job is None or job.account_id != caller.account_id:
            return not_found(id)
        return describe(job, state.settings, job.preview)


@router.post("/v1/cancel", responses=responses(403))
def cancel(
    request: Request, caller: Ending, id: Annotated[str, Query(max_length=100, description="Of the task.")]
) -> Cancelled:
    """Cancel a task: at once where it waits, else after the step it is at."""
    with get_state(request).database.transaction() as session:
        job = session.get(Job, id) if "\0" not in id else None
        mine = job is not None and job.account_id == caller.account_id
        return Cancelled(id=id, cancelled=bool(mine and job and jobs.cancel(session, job)))


@router.get("/v1/credits", responses=responses(403))
def get_credits(request: Request, caller: Reading) -> Credits:
    """Credits left."""
    with get_state(request).database.reading() as session:
        return Credits(credits=session.get_one(Account, caller.account_id).credit)
