"""The FLUX API's shape, from its public documents (docs.bfl.ai): submit, then poll."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from openkontext.request import MAX_PROMPT
from openkontext.service.http.access import HEADER, Caller, KeyFirst, may
from openkontext.service.http.answers import responses
from openkontext.service.http.routes.flux_inputs import DevInputs, FillInputs, FluxInputs, KontextInputs
from openkontext.service.http.state import get_state
from openkontext.service.http.submitting import submit
from openkontext.service.queue import jobs, owned
from openkontext.service.queue.job_results import Result, describe, may_poll, not_found, polling_url
from openkontext.service.queue.recovery import ended_late
from openkontext.service.storage.models import Account

router = APIRouter(tags=["FLUX API"], route_class=KeyFirst)

Editing = Annotated[Caller, Depends(may("edit"))]
Ending = Annotated[Caller, Depends(may("edit", suspended=True))]
Reading = Annotated[Caller, Depends(may("read"))]
IdempotencyKey = Annotated[
    str | None, Header(max_length=200, description="The same key and request again give the same task.")
]
UNLIMITED = 2**53 - 1
"""Credits of an account without a limit: the largest whole number that every reader of JSON holds."""


class Accepted(BaseModel):
    """A task was accepted."""

    id: str
    polling_url: str = Field(description="Works without a key.")
    cost: float | None = Field(None, description="Credits that it costs.")
    credits: float = Field(description="Credits left after it.")
    warnings: list[str] | None = Field(None, description="What was asked and has no effect.")
    status: str | None = Field(None, description="With a webhook: that it is on its way.")
    webhook_url: str | None = Field(None, description="With a webhook: where it will be told of.")


class Cancelled(BaseModel):
    """Whether a task could still be cancelled."""

    id: str
    cancelled: bool


class Credits(BaseModel):
    """Credits left."""

    credits: float = Field(description=f"{UNLIMITED} where there is no limit.")


def _accept(request: Request, inputs: FluxInputs, caller: Caller, key: str | None) -> Accepted:
    """Submit and answer as the FLUX API does."""
    state = get_state(request)
    asked = inputs.asked(request.url.path.rpartition("/")[2], key)
    (job,) = submit(request, caller, asked)
    with state.database.reading() as session:
        left = _left(session, caller.account_id)
    return Accepted(
        id=job.id,
        polling_url=polling_url(job, state.settings),
        cost=job.cost,
        credits=left,
        warnings=job.asked.get("warnings"),
        status="Pending" if job.webhook_url else None,
        webhook_url=job.webhook_url,
    )


def _left(session: Session, account_id: str) -> int:
    """Credits of an account."""
    credit = session.get_one(Account, account_id).credit
    return UNLIMITED if credit is None else credit


def _edit(
    request: Request, inputs: KontextInputs, caller: Editing, idempotency_key: IdempotencyKey = None
) -> Accepted:
    return _accept(request, inputs, caller, idempotency_key)


def _fill(
    request: Request, inputs: FillInputs, caller: Editing, idempotency_key: IdempotencyKey = None
) -> Accepted:
    return _accept(request, inputs, caller, idempotency_key)


def _create(
    request: Request, inputs: DevInputs, caller: Editing, idempotency_key: IdempotencyKey = None
) -> Accepted:
    return _accept(request, inputs, caller, idempotency_key)


MODELS: dict[str, tuple[Callable[..., Accepted], str]] = {
    "flux-kontext-dev": (_edit, "Edit or create an image with FLUX.1 Kontext [dev]"),
    "flux-kontext-pro": (_edit, "Edit or create an image with FLUX.1 Kontext [pro]"),
    "flux-kontext-max": (_edit, "Edit or create an image with FLUX.1 Kontext [max]"),
    "flux-pro-1.0-fill": (_fill, "Edit an image inside a mask with FLUX.1 Fill [pro]"),
    "flux-dev": (_create, "Create an image with FLUX.1 [dev]"),
}
"""Models of the FLUX API that there are here. All reach the service's one model."""

for _name, (_route, _summary) in MODELS.items():
    router.add_api_route(
        f"/v1/{_name}",
        _route,
        methods=["POST"],
        operation_id=_name.replace("-", "_").replace(".", "_"),
        summary=_summary,
        description=f"At most {MAX_PROMPT} characters of prompt. All models reach the service's one model.",
        responses=responses(402, 403, 413, 429),
        response_model_exclude_none=True,
    )


def polling(
    request: Request,
    id: Annotated[str, Query(max_length=100, description="Of the task.")],
    signature: Annotated[
        str | None, Query(max_length=100, pattern="^[0-9a-f]*$", description="Of `polling_url`.")
    ] = None,
) -> str | None:
    """Whose tasks may be asked for: the caller's own; None where a signed address names the task.

    Raises:
        Refused: 403.
    """
    if signature is not None and may_poll(get_state(request).settings, id, signature):
        return None
    return may("read")(request).account_id


@router.get("/v1/get_result", responses=responses(403), dependencies=[HEADER])
def get_result(
    request: Request,
    account_id: Annotated[str | None, Depends(polling)],
    id: Annotated[str, Query(max_length=100, description="Of the task.")],
) -> Result:
    """Get the state of a task, and the address of its result: with a key, or by `polling_url` without one."""
    state = get_state(request)
    with state.database.reading() as session:
        job = owned.find(session, id)
        if job is None or account_id not in (None, job.account_id):
            return not_found(id)
        if not ended_late(state.database, state.settings, job):
            return describe(job, state.settings, job.preview)
    return get_result(request, account_id, id)


@router.post("/v1/cancel", responses=responses(403))
def cancel(
    request: Request, caller: Ending, id: Annotated[str, Query(max_length=100, description="Of the task.")]
) -> Cancelled:
    """Cancel a task: at once where it waits, else after the step it is at."""
    with get_state(request).database.transaction() as session:
        job = owned.own(session, caller.account_id, id)
        return Cancelled(id=id, cancelled=job is not None and jobs.cancel(session, job))


@router.get("/v1/credits", responses=responses(403))
def get_credits(request: Request, caller: Reading) -> Credits:
    """Credits left."""
    with get_state(request).database.reading() as session:
        return Credits(credits=_left(session, caller.account_id))
