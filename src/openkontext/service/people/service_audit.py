"""The audit log of the service: who did what to whom. Its digests are keyed by the service's secret."""

import hmac
import json

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from openkontext.audit_log import AuditEntry, AuditLog
from openkontext.service.settings import Settings
from openkontext.service.storage.database import now
from openkontext.service.storage.models import AuditRecord

LOCK = 0x6F6C  # of PostgreSQL's advisory locks: one writer at a time, as the rows are a chain


class Audit(AuditLog[AuditRecord]):
    """Writes and verifies the log of a service."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(AuditRecord)
        self._key = settings.key("audit log")

    def broken_at(self, session: Session) -> int | None:
        """Number of the first row that was changed or follows a removed one; None for a whole log."""
        return next((fault.number for fault in self.faults(session)), None)

    def _take_turn(self, session: Session) -> None:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"select pg_advisory_xact_lock({LOCK})"))

    def _now(self, session: Session) -> float:
        return session.scalar(select(now())) or 0.0

    def _row(self, entry: AuditEntry, before: str) -> AuditRecord:
        return AuditRecord(
            number=entry.number,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
        )

    def _entry(self, row: AuditRecord) -> AuditEntry:
        return AuditEntry(row.number, row.at, row.actor, row.action, row.subject, row.detail)

    def _digest(self, row: AuditRecord, before: str) -> str:
        said = [row.number, repr(row.at), row.actor, row.action, row.subject, row.detail, before]
        message = json.dumps(said, sort_keys=True, ensure_ascii=False).encode()
        return hmac.new(self._key, message, "sha256").hexdigest()
