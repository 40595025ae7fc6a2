"""What reviewers see and decide: requests that filters hold for a person."""

import io
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from PIL import Image
from pydantic import BaseModel, Field
from sqlalchemy import select

from openkontext.errors import InputError
from openkontext.safety.policy import load_policy
from openkontext.safety.review.queue import HeldRequest
from openkontext.safety.verdict import IN_WORDS
from openkontext.service.http.access import Caller, KeyFirst, has_role
from openkontext.service.http.answers import responses
from openkontext.service.http.state import State, get_state
from openkontext.service.rejections import Refused
from openkontext.service.storage.models import Account, Role

router = APIRouter(tags=["Review"], route_class=KeyFirst)
Reviewing = Annotated[Caller, Depends(has_role(Role.REVIEWER))]
RequestId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Of the held request.")]
PictureRole = Annotated[str, Path(max_length=32, description="As the request names its pictures.")]
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}


class FindingView(BaseModel):
    """What a filter found."""

    category: str
    words: str = Field(description="The category as a person reads it.")
    stage: str
    check: str
    score: float
    threshold: float | None
    refused: bool = Field(description="Whether the score reached the threshold.")


class Decided(BaseModel):
    """What one reviewer decided."""

    reviewer: str
    approve: bool
    reason: str
    at: float


class Held(BaseModel):
    """A request that waits, or waited, for a person. Times are seconds since 1970."""

    id: str
    state: str = Field(description="held, approved, rejected or expired.")
    created: float
    expires: float
    requester: str
    prompt: str
    options: dict[str, Any]
    category: str
    words: str
    findings: list[FindingView]
    failures: list[str] = Field(description="Checks that could not look, and why.")
    pictures: list[str]
    approvals_needed: int
    decisions: list[Decided]
    hindrance: str | None = Field(description="Why you may not decide about it; null where you may.")


class Queue(BaseModel):
    """Held requests, the oldest first."""

    reviewing: bool = Field(description="Whether this deployment has people review.")
    reviewers: int = Field(description="How many must approve what is held from now on.")
    requests: list[Held]


class DecisionInput(BaseModel):
    """A reviewer's decision."""

    approve: bool
    reason: str = Field(min_length=1, max_length=2000)


class ReviewView(BaseModel):
    """A row of the review queue's audit log."""

    number: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Log(BaseModel):
    """The audit log of the review queue, the newest first, and what of it was tampered with."""

    entries: list[ReviewView]
    faults: list[str]


@router.get("/v1/review/requests", responses=responses(403))
def list_requests(
    request: Request,
    caller: Reviewing,
    state: Annotated[Literal["held", "approved", "rejected", "expired"], Query()] = "held",
) -> Queue:
    """Requests of a state."""
    service = get_state(request)
    rules, names = load_policy().profile.review, _names(service)
    found = [_held(held, caller, names) for held in service.reviews.queue.requests(state)]
    return Queue(reviewing=rules.mode != "off", reviewers=rules.reviewers, requests=found)


@router.get("/v1/review/requests/{id}", responses=responses(403, 404))
def get_request(request: Request, caller: Reviewing, id: RequestId) -> Held:
    """One request."""
    service = get_state(request)
    return _held(_find(service, id), caller, _names(service))


@router.get(
    "/v1/review/requests/{id}/pictures/{role}",
    response_class=Response,
    responses=PICTURE | responses(403, 404),
)
def get_blurred(request: Request, caller: Reviewing, id: RequestId, role: PictureRole) -> Response:
    """A picture of a request, small and blurred."""
    return _picture(get_state(request), caller, id, role, clear=False)


@router.post(
    "/v1/review/requests/{id}/pictures/{role}/clear",
    response_class=Response,
    responses=PICTURE | responses(403, 404),
)
def get_clear(request: Request, caller: Reviewing, id: RequestId, role: PictureRole) -> Response:
    """A picture of a request, small and clear; that you saw it goes into the audit log."""
    return _picture(get_state(request), caller, id, role, clear=True)


@router.post("/v1/review/requests/{id}/decision", responses=responses(403, 404, 409))
def decide(request: Request, caller: Reviewing, id: RequestId, decision: DecisionInput) -> Held:
    """Approve or reject. One rejection rejects; approvals count up to how many it needs."""
    service = get_state(request)
    queue = service.reviews.queue
    _find(service, id)
    try:
        held = queue.decide(id, caller.account_id, approve=decision.approve, reason=decision.reason)
    except InputError as error:
        raise Refused(409, str(error)) from error
    return _held(held, caller, _names(service))


@router.get("/v1/review/log", responses=responses(403))
def get_log(request: Request, caller: Reviewing, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Log:
    """Who held, saw and decided what."""
    service = get_state(request)
    queue, names = service.reviews.queue, _names(service)
    entries = [
        ReviewView(
            number=entry.number,
            at=entry.time.timestamp(),
            actor=names.get(entry.actor, entry.actor),
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
        )
        for entry in reversed(queue.audit()[-limit:])
    ]
    return Log(entries=entries, faults=queue.audit_faults())


def _find(service: State, id: str) -> HeldRequest:
    try:
        return service.reviews.queue.get(id)
    except InputError as error:
        raise Refused(404, "there is no such request") from error


def _picture(service: State, caller: Caller, id: str, role: str, *, clear: bool) -> Response:
    held = _find(service, id)
    if role not in held.pictures:
        raise Refused(404, "this request has no such picture, or no longer")
    shown: Image.Image = service.reviews.queue.picture(id, role, caller.account_id, clear=clear)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=80)
    return Response(buffer.getvalue(), media_type="image/webp")


def _names(service: State) -> dict[str, str]:
    """Names of accounts by their ids, which the queue knows them by."""
    with service.database.reading() as session:
        return dict(session.execute(select(Account.id, Account.name)).tuples().all())


def _held(held: HeldRequest, caller: Caller, names: dict[str, str]) -> Held:
    checks = held.verdict.get("checks", [])
    found = [finding for check in checks for finding in check.get("findings", [])]
    hindrance = None
    if held.state != "held":
        hindrance = f"It is {held.state} already."
    elif held.requester == caller.account_id:
        hindrance = "It is your own request; another reviewer must decide."
    elif any(decision.reviewer == caller.account_id for decision in held.decisions):
        hindrance = "You approved it already; it needs another reviewer."
    category = str(held.verdict.get("category") or "")
    return Held(
        id=held.id,
        state=held.state,
        created=held.created.timestamp(),
        expires=held.expires.timestamp(),
        requester=names.get(held.requester, held.requester),
        prompt=held.prompt,
        options=held.options,
        category=category,
        words=IN_WORDS.get(category, category),
        findings=sorted(map(_finding, found), key=lambda finding: (not finding.refused, -finding.score)),
        failures=[f"{check['name']}: {check['failure']}" for check in checks if check.get("failure")],
        pictures=list(held.pictures),
        approvals_needed=held.approvals_needed,
        decisions=[
            Decided(
                reviewer=names.get(each.reviewer, each.reviewer),
                approve=each.approve,
                reason=each.reason,
                at=each.time.timestamp(),
            )
            for each in held.decisions
        ],
        hindrance=hindrance,
    )


def _finding(found: dict[str, Any]) -> FindingView:
    category, score, threshold = str(found["category"]), float(found["score"]), found.get("threshold")
    return FindingView(
        category=category,
        words=IN_WORDS.get(category, category),
        stage=str(found.get("stage", "")),
        check=str(found.get("check", "")),
        score=score,
        threshold=threshold,
        refused=threshold is not None and score >= threshold,
    )
