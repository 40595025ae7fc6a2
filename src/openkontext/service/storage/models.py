"""The tables: who uses the service, what was asked, what came of it. Times are seconds since 1970, UTC."""

import uuid
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import Double

from openkontext.audit_log import ChainRow
from openkontext.safety.review.tables import Words


class Role(StrEnum):
    """What an account may do; each includes those before it."""

    USER = "user"
    REVIEWER = "reviewer"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Standing(StrEnum):
    """How an account stands after its conduct."""

    GOOD = "good"
    WARNED = "warned"
    SUSPENDED = "suspended"
    BANNED = "banned"


class JobState(StrEnum):
    """Where a job is. It leaves `QUEUED`, `RUNNING` and `HELD` for one of the others, once."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    READY = "ready"
    REQUEST_MODERATED = "request_moderated"
    CONTENT_MODERATED = "content_moderated"
    ERROR = "error"
    CANCELLED = "cancelled"


UNFINISHED = (JobState.QUEUED, JobState.RUNNING, JobState.HELD)
"""States that a job leaves again."""


def receiver_of(url: str) -> str:
    """Host and port of a webhook's address."""
    return urlsplit(url).netloc.lower()


def new_id() -> str:
    """A random identifier."""
    return str(uuid.uuid4())


class Base(DeclarativeBase):
    """What all tables share: constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: Words,
        float: Double,
        dict[str, Any]: JSON,
        list[str]: JSON,
        bytes: LargeBinary,
    }


class Account(Base):
    """Someone who uses the service."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str] = mapped_column(default=Role.USER)
    standing: Mapped[str] = mapped_column(default=Standing.GOOD)
    standing_until: Mapped[float | None]
    """When a suspension ends; None where it has no end."""
    standing_reason: Mapped[str | None]
    judged_from: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """What it did before no longer counts: a person decided about it then."""
    credit: Mapped[int | None] = mapped_column(BigInteger)
    """Credits left; None is unlimited."""
    source: Mapped[str | None]
    """Keyed hash of the network it came from, to see many accounts from one source."""
    created: Mapped[float]


class EndUser(Base):
    """Someone whom an account edits for, once a filter refused them; the name itself is not kept."""

    __tablename__ = "end_users"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    """Keyed hash of the name that the account gave."""
    standing: Mapped[str] = mapped_column(default=Standing.GOOD)
    standing_until: Mapped[float | None]
    standing_reason: Mapped[str | None]
    judged_from: Mapped[float] = mapped_column(default=0.0, server_default="0")
    created: Mapped[float]


class ApiKey(Base):
    """A key of an account; the key itself is shown once and only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    """The public part, which the key begins with."""
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    hash: Mapped[str]
    scopes: Mapped[list[str]]
    label: Mapped[str]
    requests_per_minute: Mapped[int | None]
    """None for the service's setting."""
    tokens: Mapped[float | None]
    """Submissions it may make at `tokens_at` (a token bucket)."""
    tokens_at: Mapped[float | None]
    created: Mapped[float]
    last_used: Mapped[float | None]
    revoked: Mapped[float | None]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True)


class ConsentRow(Base):
    """That an account accepted a version of the terms; `version` holds their digest too."""

    __tablename__ = "consents"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    accepted: Mapped[float]


class PageSession(Base):
    """Someone signed in on the page; the cookie's value is kept as a hash."""

    __tablename__ = "page_sessions"

    hash: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key it was opened with; the session ends with it."""
    expires: Mapped[float]

    account: Mapped[Account] = relationship(lazy="joined", innerjoin=True)


class Job(Base):
    """One edit: what was asked, who works on it, what came of it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("account_id", "idempotency_key"),
        Index(None, "state", "created"),
        Index(None, "account_id", "created"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    end_user: Mapped[str | None]
    """Whom the account asks for: `EndUser.id`."""
    parent_id: Mapped[str | None]
    """The job whose result this one edits."""
    state: Mapped[str] = mapped_column(default=JobState.QUEUED)
    model: Mapped[str]
    """The model's name as the client put it."""
    asked: Mapped[dict[str, Any]]
    """The options of the edit; emptied after the retention time."""
    inputs: Mapped[list[str]]
    """Digests of the pictures in the store, the one to edit first."""
    mask: Mapped[str | None]
    """Digest of the mask."""
    cost: Mapped[int] = mapped_column(default=0)
    """Credits taken for it; given back unless it is delivered."""

    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]
    """Hash of the request that the idempotency key came with."""

    progress: Mapped[float] = mapped_column(default=0.0)
    preview: Mapped[bytes | None] = mapped_column(deferred=True)
    """A coarse picture (WebP) of what the result may be."""
    cancelling: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    lease: Mapped[str | None]
    """Token of the worker that has it; what a worker writes counts only with it."""
    leased_until: Mapped[float | None]
    deadline: Mapped[float]

    output: Mapped[str | None]
    """Digest of the result in the store."""
    result: Mapped[dict[str, Any] | None]
    """How the result was made."""
    refusal: Mapped[dict[str, Any] | None]
    """What a filter said, where one refused or held it."""
    error: Mapped[str | None]
    review: Mapped[str | None]
    """Id in the review queue, where a person decides or decided."""

    base_url: Mapped[str]
    """How the client reached the service; addresses in answers begin with it."""
    webhook_url: Mapped[str | None]
    webhook_secret: Mapped[bytes | None]
    """Encrypted."""

    created: Mapped[float]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    erased: Mapped[float | None]
    """When its pictures and instruction were deleted."""
    deleted: Mapped[float | None]
    """When its account deleted it; from then on the account has no such job."""

    account: Mapped[Account] = relationship()


class Webhook(Base):
    """A notice that a job has finished, to be delivered at least once."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "delivered", "next_attempt"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    receiver: Mapped[str] = mapped_column(default="", server_default="")
    """Host and port that it goes to."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt: Mapped[float | None]
    """None once it is delivered or given up."""
    delivered: Mapped[float | None]
    error: Mapped[str | None]


class WorkerProcess(Base):
    """A worker whose graphs and filters are loaded, for as long as it says so."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[float]
    """When it last said that it lives."""


class StoredImage(Base):
    """A picture in the store, and until when it is needed."""

    __tablename__ = "stored_images"

    digest: Mapped[str] = mapped_column(primary_key=True)
    expires: Mapped[float] = mapped_column(index=True)


class Signal(Base):
    """Something an account did that may be misuse; says nothing of the content."""

    __tablename__ = "signals"
    __table_args__ = (Index(None, "account_id", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    end_user: Mapped[str | None]
    """Whom the account asked for: `EndUser.id`."""
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[float]


class Appeal(Base):
    """An account's answer to a warning, suspension or ban."""

    __tablename__ = "appeals"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    text: Mapped[str]
    created: Mapped[float]
    decided: Mapped[float | None]
    decided_by: Mapped[str | None]
    granted: Mapped[bool | None]
    reason: Mapped[str | None]


class Feedback(Base):
    """What someone wrote to the operator."""

    __tablename__ = "feedback"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str | None] = mapped_column(ForeignKey("accounts.id"))
    job_id: Mapped[str | None]
    kind: Mapped[str]
    text: Mapped[str]
    contact: Mapped[str | None]
    created: Mapped[float]


class AuditRecord(ChainRow, Base):
    """Who did what to whom; rows are only ever added, and each seals the one before."""

    __tablename__ = "audit"

    at: Mapped[float]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column("seal")
    """HMAC-SHA256 over the row and the digest before it."""
