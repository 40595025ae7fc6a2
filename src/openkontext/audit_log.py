"""An audit log in a table of a database: entries are only added, and tampering shows.

Every entry carries a digest of itself and of the entry before, so that none can be changed, left out or moved
without all after it changing too. What a row holds and how it is digested is the matter of each log.
"""

import hmac
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column


@dataclass(frozen=True)
class AuditEntry:
    """One thing that was done."""

    number: int
    """From 1, without a gap."""
    at: float
    """Seconds since 1970."""
    actor: str
    """Who did it."""
    action: str
    """What: held, approved, account.suspended, ..."""
    subject: str
    """To which request or account."""
    detail: dict[str, Any]
    """More about it."""

    @property
    def time(self) -> datetime:
        """When it was done, in UTC."""
        return datetime.fromtimestamp(self.at, UTC)


@dataclass(frozen=True)
class AuditFault:
    """A place where a log was tampered with."""

    number: int
    """Of the entry."""
    message: str
    """One line."""


class ChainRow:
    """Columns that the table of every log has."""

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(String(64))
    """Hexadecimal, over the row and the digest before it."""


Row = TypeVar("Row", bound=ChainRow)


class AuditLog(ABC, Generic[Row]):
    """The log in one table.

    Args:
        table: of its rows.
        first: what stands for the digest before the first entry.
    """

    def __init__(self, table: type[Row], first: str = "") -> None:
        self._table, self._first = table, first

    def write(self, session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
        """Add an entry; it stands once the session is committed, with what it tells.

        Args:
            session: of the database, in a transaction.
            actor: who does it.
            action: what is done.
            subject: to which request or account.
            detail: more about it; JSON.
        """
        self._take_turn(session)
        last = self.last(session)
        number, before = (last.number + 1, last.digest) if last else (1, self._first)
        row = self._row(AuditEntry(number, self._now(session), actor, action, subject, detail), before)
        row.digest = self._digest(row, before)
        session.add(row)
        session.flush()

    def entries(self, session: Session, newest: int | None = None) -> list[AuditEntry]:
        """The log, the oldest first.

        Args:
            session: of the database.
            newest: only so many from the end.
        """
        rows = session.scalars(select(self._table).order_by(self._table.number.desc()).limit(newest))
        return [self._entry(row) for row in rows][::-1]

    def last(self, session: Session) -> Row | None:
        """The newest row."""
        return session.scalar(select(self._table).order_by(self._table.number.desc()).limit(1))

    def count(self, session: Session) -> int:
        """How many entries there are; noted elsewhere, it shows later whether the end was cut off."""
        return session.scalar(select(func.count()).select_from(self._table)) or 0

    def faults(self, session: Session) -> list[AuditFault]:
        """Where the log was tampered with; empty where nothing was."""
        found: list[AuditFault] = []
        before = self._first
        for expected, row in enumerate(session.scalars(select(self._table).order_by(self._table.number)), 1):
            if row.number != expected:
                return [*found, AuditFault(expected, f"entry {expected} is missing")]
            found += [
                AuditFault(row.number, f"entry {row.number} {wrong}") for wrong in self._check(row, before)
            ]
            before = row.digest
        return found

    def _take_turn(self, session: Session) -> None:
        """Keep other writers out until the transaction ends, where it does not do so already."""

    def _now(self, session: Session) -> float:
        """The time of a new entry."""
        return time.time()

    def _check(self, row: Row, before: str) -> list[str]:
        """What is wrong with a row that follows a digest."""
        return [] if hmac.compare_digest(row.digest, self._digest(row, before)) else ["was changed"]

    @abstractmethod
    def _row(self, entry: AuditEntry, before: str) -> Row:
        """A row for an entry; its digest comes after."""

    @abstractmethod
    def _entry(self, row: Row) -> AuditEntry:
        """The entry of a row."""

    @abstractmethod
    def _digest(self, row: Row, before: str) -> str:
        """The digest of a row that follows another."""
