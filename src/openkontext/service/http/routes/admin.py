"""What admins see and do: trends, accounts and their standing, appeals, feedback, the audit log."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import select

from openkontext.errors import InputError
from openkontext.safety.verdict import IN_WORDS
from openkontext.service.http.access import Caller, KeyFirst, has_role
from openkontext.service.http.answers import responses
from openkontext.service.http.state import get_state
from openkontext.service.people import accounts, trends
from openkontext.service.people.misuse import DAY
from openkontext.service.rejections import Refused
from openkontext.service.storage.database import now
from openkontext.service.storage.models import Account, Appeal, EndUser, Feedback, Role, Standing

router = APIRouter(prefix="/v1/admin", tags=["Administration"], route_class=KeyFirst)
Admin = Annotated[Caller, Depends(has_role(Role.ADMIN))]
Identifier = Annotated[str, Path(max_length=36)]
Days = Annotated[int, Query(ge=1, le=90)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class DayView(BaseModel):
    """One day, UTC."""

    begins: float
    jobs: dict[str, int] = Field(description="How many of each state were submitted on it.")
    signals: dict[str, int] = Field(description="Signs of misuse by kind.")


class Trends(BaseModel):
    """What went on."""

    days: list[DayView]
    categories: dict[str, int] = Field(description="Refusals by category, in words.")


class EndUserRow(BaseModel):
    """Someone whom an account asked for and a filter refused."""

    id: str = Field(description="Stands for the name that the account gave, which is not kept.")
    standing: str
    standing_reason: str | None
    standing_until: float | None
    signals: dict[str, int]


class AccountRow(BaseModel):
    """An account and its conduct."""

    id: str
    name: str
    role: str
    standing: str
    standing_reason: str | None
    standing_until: float | None
    credit: int | None
    created: float
    keys: int
    last_used: float | None
    edits: int
    refused: int
    signals: dict[str, int] = Field(description="Those of its end users among them.")
    end_users: list[EndUserRow] = Field(description="At most 20, those with most signals first.")


class Accounts(BaseModel):
    """Accounts, those with signs of misuse first."""

    accounts: list[AccountRow]


class NewStanding(BaseModel):
    """What an admin decides about an account."""

    standing: Standing
    reason: str = Field(min_length=1, max_length=2000, description="For the audit log and the account.")
    days: float | None = Field(None, gt=0, le=3650, description="How long a suspension lasts.")
    end_user: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Id of an end user, to decide about them and not about the account.",
    )


class AppealRow(BaseModel):
    """An appeal."""

    id: str
    account_id: str
    account: str
    standing: str
    standing_reason: str | None
    text: str
    created: float
    decided: float | None
    decided_by: str | None
    granted: bool | None
    reason: str | None


class Appeals(BaseModel):
    """Appeals, open ones first."""

    appeals: list[AppealRow]


class AppealDecision(BaseModel):
    """What an admin decides about an appeal."""

    grant: bool
    reason: str = Field(min_length=1, max_length=2000)


class FeedbackRow(BaseModel):
    """What someone wrote."""

    id: str
    account: str | None
    job_id: str | None
    kind: str
    text: str
    contact: str | None
    created: float


class FeedbackList(BaseModel):
    """What people wrote, the newest first."""

    feedback: list[FeedbackRow]


class AuditRow(BaseModel):
    """A row of the audit log."""

    number: int
    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditTail(BaseModel):
    """The end of the audit log, the newest first, and where it was tampered with."""

    entries: list[AuditRow]
    broken_at: int | None


@router.get("/trends", responses=responses(403))
def get_trends(request: Request, caller: Admin, days: Days = 14) -> Trends:
    """Edits, refusals and signs of misuse by day."""
    with get_state(request).database.reading() as session:
        found = [
            DayView(begins=day.begins, jobs=day.jobs, signals=day.signals)
            for day in trends.by_day(session, days)
        ]
        counts = trends.refused_categories(session, days)
    return Trends(days=found, categories={IN_WORDS.get(name, name): count for name, count in counts.items()})


@router.get("/accounts", responses=responses(403))
def list_accounts(request: Request, caller: Admin, days: Days = 14) -> Accounts:
    """Accounts and their conduct."""
    with get_state(request).database.reading() as session:
        rows = [
            AccountRow(
                **_values(each.account, AccountRow),
                keys=each.keys,
                last_used=each.last_used,
                edits=each.edits,
                refused=each.refused,
                signals=each.signals,
                end_users=[
                    EndUserRow(**_values(end_user, EndUserRow), signals=signals)
                    for end_user, signals in each.end_users
                ],
            )
            for each in trends.conduct(session, days)
        ]
    return Accounts(accounts=rows)


@router.post(
    "/accounts/{id}/standing", status_code=204, response_class=Response, responses=responses(403, 404, 409)
)
def set_standing(request: Request, caller: Admin, id: Identifier, given: NewStanding) -> None:
    """Warn, suspend, ban or restore an account."""
    state = get_state(request)
    if id == caller.account_id:
        raise Refused(409, "it is your own account; another admin must decide about it")
    with state.database.transaction() as session:
        if "\0" in id or session.get(Account, id) is None:
            raise Refused(404, "there is no such account")
        if given.end_user is not None and session.get(EndUser, (id, given.end_user)) is None:
            raise Refused(404, "there is no such end user; it is known once a filter refused it something")
        at = session.scalar(select(now())) or 0.0
        until = at + given.days * DAY if given.days and given.standing == Standing.SUSPENDED else None
        accounts.set_standing(
            session,
            state.audit,
            id,
            given.standing,
            given.reason,
            end_user=given.end_user,
            until=until,
            actor=caller.account_id,
        )


@router.get("/appeals", responses=responses(403))
def list_appeals(request: Request, caller: Admin, limit: Limit = 100) -> Appeals:
    """What accounts say against a warning, suspension or ban."""
    with get_state(request).database.reading() as session:
        both = select(Appeal, Account).join(Account, Account.id == Appeal.account_id)
        rows = session.execute(both.order_by(Appeal.decided.is_not(None), Appeal.created.desc()).limit(limit))
        names = _names(session.execute(select(Account.id, Account.name)).all())
        found = [
            AppealRow(
                id=appeal.id,
                account_id=account.id,
                account=account.name,
                standing=account.standing,
                standing_reason=account.standing_reason,
                text=appeal.text,
                created=appeal.created,
                decided=appeal.decided,
                decided_by=names.get(appeal.decided_by or "", appeal.decided_by),
                granted=appeal.granted,
                reason=appeal.reason,
            )
            for appeal, account in rows
        ]
    return Appeals(appeals=found)


@router.post(
    "/appeals/{id}/decision", status_code=204, response_class=Response, responses=responses(403, 404, 409)
)
def decide_appeal(request: Request, caller: Admin, id: Identifier, given: AppealDecision) -> None:
    """Decide about an appeal; one that is granted restores the account."""
    state = get_state(request)
    with state.database.transaction() as session:
        appeal = session.get(Appeal, id) if "\0" not in id else None
        if appeal is None:
            raise Refused(404, "there is no such appeal")
        if appeal.account_id == caller.account_id:
            raise Refused(409, "it is your own appeal; another admin must decide about it")
        try:
            accounts.decide_appeal(
                session, state.audit, id, grant=given.grant, reason=given.reason, actor=caller.account_id
            )
        except InputError as error:
            raise Refused(409, "it is decided already") from error


@router.get("/feedback", responses=responses(403))
def list_feedback(request: Request, caller: Admin, limit: Limit = 100) -> FeedbackList:
    """What people wrote to the operator."""
    with get_state(request).database.reading() as session:
        both = select(Feedback, Account.name).outerjoin(Account, Account.id == Feedback.account_id)
        rows = [
            FeedbackRow(
                id=written.id,
                account=name,
                job_id=written.job_id,
                kind=written.kind,
                text=written.text,
                contact=written.contact,
                created=written.created,
            )
            for written, name in session.execute(both.order_by(Feedback.created.desc()).limit(limit))
        ]
    return FeedbackList(feedback=rows)


@router.get("/audit", responses=responses(403))
def get_audit(request: Request, caller: Admin, limit: Limit = 100) -> AuditTail:
    """The end of the audit log, and whether anyone changed it."""
    state = get_state(request)
    with state.database.reading() as session:
        names = _names(session.execute(select(Account.id, Account.name)).all())
        rows = [
            AuditRow(
                number=entry.number,
                at=entry.at,
                actor=names.get(entry.actor, entry.actor),
                action=entry.action,
                subject=_subject(names, entry.subject),
                detail=entry.detail,
            )
            for entry in reversed(state.audit.entries(session, limit))
        ]
        return AuditTail(entries=rows, broken_at=state.audit.broken_at(session))


def _subject(names: dict[str, str], subject: str) -> str:
    """Whom a row is about, an account by its name; an end user stands after it."""
    account, slash, end_user = subject.partition("/")
    return names.get(account, account) + slash + end_user[:12]


def _values(row: Account | EndUser, model: type[BaseModel]) -> dict[str, Any]:
    """What a row has of a model's fields."""
    names = model.model_fields.keys() & set(type(row).__table__.columns.keys())
    return {name: getattr(row, name) for name in names}


def _names(rows: Any) -> dict[str, str]:
    return dict(rows)
