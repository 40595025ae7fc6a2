"""The audit log: who did what to whom. Rows are only added, and each seals the one before it."""

import hmac
import json
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from openkontext.service.settings import Settings
from openkontext.service.storage.database import now
from openkontext.service.storage.models import AuditEntry

LOCK = 0x6F6C  # of PostgreSQL's advisory locks: one writer at a time, as the rows are a chain


class Audit:
    """Writes and verifies the log of a service."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.key("audit log")

    def write(self, session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
        """Add a row, in the transaction of what it tells."""
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
        last = session.scalar(select(AuditEntry).order_by(AuditEntry.number.desc()).limit(1))
        entry = AuditEntry(
            number=last.number + 1 if last else 1,
            at=session.scalar(select(now())) or 0.0,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
        )
        entry.seal = self._seal(entry, last.seal if last else "")
        session.add(entry)
        session.flush()

    def broken_at(self, session: Session) -> int | None:
        """Number of the first row that was changed or follows a removed one; None for a whole log."""
        before, expected = "", 1
        for entry in session.scalars(select(AuditEntry).order_by(AuditEntry.number)):
            if entry.number != expected or not hmac.compare_digest(entry.seal, self._seal(entry, before)):
                return expected
            before, expected = entry.seal, expected + 1
        return None

    def count(self, session: Session) -> int:
        """Rows in the log; note it elsewhere to see later whether its end was cut off."""
        return session.scalar(select(func.count()).select_from(AuditEntry)) or 0

    def _seal(self, entry: AuditEntry, before: str) -> str:
        row = [entry.number, repr(entry.at), entry.actor, entry.action, entry.subject, entry.detail, before]
        message = json.dumps(row, sort_keys=True, ensure_ascii=False).encode()
        return hmac.new(self._key, message, "sha256").hexdigest()
