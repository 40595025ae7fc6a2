"""Tables of the review queue and its audit log."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DDL, JSON, DateTime, ForeignKey, LargeBinary, String, Text, UniqueConstraint, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from openkontext.audit_log import ChainRow


class Utc(TypeDecorator[datetime]):
    """A time in UTC, also in databases that store none with a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Words(TypeDecorator[str]):
    """Text that people wrote. PostgreSQL takes no NUL in it, so its sign (U+2400) stands for one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else value.replace("\0", "\u2400")


class Table(DeclarativeBase):
    """Base of the tables here."""

    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's way


class RequestRow(Table):
    """A held request."""

    __tablename__ = "review_request"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    created: Mapped[datetime]
    expires: Mapped[datetime] = mapped_column(Utc, index=True)
    approvals_needed: Mapped[int]
    requester: Mapped[str] = mapped_column(Words)
    prompt: Mapped[str] = mapped_column(Words)
    options: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any]]
    pictures: Mapped[list["PictureRow"]] = relationship(
        cascade="all, delete-orphan", order_by="PictureRow.place"
    )
    decisions: Mapped[list["DecisionRow"]] = relationship(order_by="DecisionRow.time")


class PictureRow(Table):
    """A thumbnail of a picture of a held request, as WebP."""

    __tablename__ = "review_picture"

    request_id: Mapped[str] = mapped_column(ForeignKey(RequestRow.id), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(String(32))
    data: Mapped[bytes] = mapped_column(LargeBinary)


class DecisionRow(Table):
    """What one reviewer decided."""

    __tablename__ = "review_decision"
    __table_args__ = (UniqueConstraint("request_id", "reviewer"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey(RequestRow.id), index=True)
    reviewer: Mapped[str] = mapped_column(Words)
    approve: Mapped[bool]
    reason: Mapped[str] = mapped_column(Words)
    time: Mapped[datetime]


class ReviewAuditRow(ChainRow, Table):
    """One entry of the audit log; see `review_audit`."""

    __tablename__ = "review_audit"

    body: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))


for _change in ("UPDATE", "DELETE"):
    event.listen(
        ReviewAuditRow.__table__,
        "after_create",
        DDL(
            f"CREATE TRIGGER review_audit_no_{_change.lower()} BEFORE {_change} ON review_audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        ).execute_if(dialect="sqlite"),
    )
