"""What an account does about itself: terms, consent, signing in on the page, appeals, feedback."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from openkontext.service.http.access import (
    COOKIE,
    Caller,
    KeyFirst,
    identify,
    is_open,
    remedy,
    sign_in,
    sign_out,
)
from openkontext.service.http.answers import responses
from openkontext.service.http.state import get_state
from openkontext.service.people import accounts
from openkontext.service.people.service_terms import service_terms
from openkontext.service.rejections import Refused
from openkontext.service.storage.database import now
from openkontext.service.storage.models import Account, Appeal, Feedback, Standing

router = APIRouter(tags=["Account"], route_class=KeyFirst)
Anyone = Annotated[Caller, Depends(identify)]
MAX_OPEN_APPEALS = 3
MAX_SIGN_IN = 4096
"""Bytes of a request to sign in."""


class TermsView(BaseModel):
    """The terms of use of this service."""

    version: str
    digest: str = Field(description="SHA-256 of the text; a changed text is to be accepted anew.")
    text: str


class ConsentGiven(BaseModel):
    """Which version is accepted."""

    version: str = Field(max_length=100)
    digest: str | None = Field(None, max_length=64, description="To accept only this very text.")


class Key(BaseModel):
    """A key to sign in with."""

    key: str = Field(max_length=200)


class Me(BaseModel):
    """Who is signed in, and how they stand."""

    account: str
    role: str
    standing: str
    standing_reason: str | None
    remedy: str | None = Field(description="What lifts a suspension or ban.")
    credit: int | None
    scopes: list[str]
    accepted_terms: bool = Field(description="Or none are asked for.")
    terms_version: str
    csrf: str | None
    open: bool = Field(description="No key is needed: this machine alone reaches the service.")


class TextView(BaseModel):
    """What someone writes."""

    text: str = Field(min_length=1, max_length=4000)


class FeedbackGiven(TextView):
    """What someone writes to the operator."""

    kind: Literal["wrong refusal", "harmful result", "fault", "other"] = "other"
    job_id: str | None = Field(None, max_length=36)
    contact: str | None = Field(None, max_length=200)


class Noted(BaseModel):
    """Under which identifier something was noted."""

    id: str


@router.get("/v1/terms")
def get_terms(request: Request) -> TermsView:
    """The terms of use, and their version."""
    terms = service_terms(get_state(request).settings)
    return TermsView(version=terms.version, digest=terms.digest, text=terms.text)


@router.post("/v1/consent", responses=responses(403, 409))
def give_consent(request: Request, caller: Anyone, given: ConsentGiven) -> ConsentGiven:
    """Accept the terms; a key works after this."""
    state = get_state(request)
    terms = service_terms(state.settings)
    if given.version != terms.version or given.digest not in (None, terms.digest):
        raise Refused(409, f"the terms are at version {terms.version}; read them: GET /v1/terms")
    with state.database.transaction() as session:
        accounts.accept_terms(session, state.audit, caller.account_id, terms)
    return given


@router.get("/v1/me", responses=responses(403))
def get_me(request: Request, caller: Anyone) -> Me:
    """Who makes this request, and how they stand."""
    state = get_state(request)
    with state.database.reading() as session:
        account = session.get_one(Account, caller.account_id)
        return Me(
            account=account.name,
            role=account.role,
            standing=account.standing,
            standing_reason=account.standing_reason,
            remedy=remedy(caller) if account.standing in (Standing.SUSPENDED, Standing.BANNED) else None,
            credit=account.credit,
            scopes=list(caller.scopes),
            accepted_terms=caller.is_local
            or accounts.has_accepted(session, account.id, service_terms(state.settings)),
            terms_version=state.settings.terms_version,
            csrf=caller.csrf,
            open=is_open(session, state.settings),
        )


@router.post(
    "/v1/session",
    responses=responses(403, 413),
    status_code=204,
    response_class=Response,
    max_body_size=MAX_SIGN_IN,  # of someone without a key yet
)
def open_session(request: Request, response: Response, given: Key) -> None:
    """Sign in on the page with a key."""
    state = get_state(request)
    opened = sign_in(state, given.key)
    if opened is None:
        raise Refused(403, "this is no valid key")
    response.set_cookie(
        COOKIE,
        opened[0],
        max_age=int(state.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.delete("/v1/session", responses=responses(403), status_code=204, response_class=Response)
def close_session(request: Request, response: Response, caller: Anyone) -> None:
    """Sign out on the page."""
    if cookie := request.cookies.get(COOKIE):
        sign_out(get_state(request), cookie)
    response.delete_cookie(COOKIE)


@router.post("/v1/appeals", responses=responses(403, 409))
def appeal(request: Request, caller: Anyone, given: TextView) -> Noted:
    """Ask a person to look again at a warning, suspension or ban."""
    state = get_state(request)
    with state.database.transaction() as session:
        mine = select(func.count()).select_from(Appeal)
        open_ones = session.scalar(
            mine.where(Appeal.account_id == caller.account_id, Appeal.decided.is_(None))
        )
        if (open_ones or 0) >= MAX_OPEN_APPEALS:
            raise Refused(409, "your earlier appeals are still open; a person will look at them")
        made = session.scalar(select(now())) or 0.0
        noted = Appeal(account_id=caller.account_id, text=given.text, created=made)
        session.add(noted)
        session.flush()
        state.audit.write(session, caller.account_id, "appeal.open", noted.id)
        return Noted(id=noted.id)


@router.post("/v1/feedback", responses=responses(403))
def give_feedback(request: Request, caller: Anyone, given: FeedbackGiven) -> Noted:
    """Write to the operator."""
    with get_state(request).database.transaction() as session:
        made = session.scalar(select(now())) or 0.0
        noted = Feedback(account_id=caller.account_id, created=made, **given.model_dump())
        session.add(noted)
        session.flush()
        return Noted(id=noted.id)
