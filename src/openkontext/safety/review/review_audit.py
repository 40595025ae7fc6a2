"""The audit log of the review queue.

The number and digest of the newest entry are also kept in a file outside of the database, the witness: it
shows where the end was cut off or the whole chain was computed anew.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from openkontext.audit_log import AuditEntry, AuditLog
from openkontext.files import write_whole
from openkontext.safety.review.tables import ReviewAuditRow

_BEFORE_FIRST = "0" * 64


class ReviewAudit(AuditLog[ReviewAuditRow]):
    """The log of one database.

    Args:
        witness: file of the newest digest; it is written after each change.
    """

    def __init__(self, witness: Path) -> None:
        super().__init__(ReviewAuditRow, _BEFORE_FIRST)
        self._witness = witness

    def note(self, session: Session) -> None:
        """Write the newest entry's digest into the witness.

        Args:
            session: of the database, after the commit.
        """
        last = self.last(session)
        if last is not None:
            write_whole(self._witness, f"{last.number} {last.digest}\n".encode())

    def witnessed(self, session: Session) -> list[str]:
        """What the witness says against the end of the log; empty where nothing is wrong.

        Args:
            session: of the database.
        """
        count = self.count(session)
        try:
            number, digest = self._witness.read_text().split()
            seen = int(number)
        except FileNotFoundError:
            return [f"the witness {self._witness} is missing"] if count else []
        except (OSError, ValueError):
            return [f"the witness {self._witness} is damaged"]
        if seen > count:
            return [f"the log ends at entry {count}, and its witness has seen {seen}"]
        there = select(ReviewAuditRow.digest).where(ReviewAuditRow.number == seen)
        if session.scalar(there) != digest:
            return [f"entry {seen} is not the one that the witness has seen"]
        return []

    def _row(self, entry: AuditEntry, before: str) -> ReviewAuditRow:
        said = {
            "time": entry.time.isoformat(),
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
        }
        body = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return ReviewAuditRow(number=entry.number, body=body, previous=before)

    def _entry(self, row: ReviewAuditRow) -> AuditEntry:
        try:
            said = json.loads(row.body)
            at = datetime.fromisoformat(said["time"]).timestamp()
            return AuditEntry(row.number, at, said["actor"], said["action"], said["subject"], said["detail"])
        except (ValueError, KeyError, TypeError):
            return AuditEntry(row.number, 0.0, "?", "damaged", "", {})

    def _check(self, row: ReviewAuditRow, before: str) -> list[str]:
        strange = [] if row.previous == before else ["does not follow the one before it"]
        return strange + super()._check(row, row.previous)

    def _digest(self, row: ReviewAuditRow, before: str) -> str:
        return hashlib.sha256(f"{before}\n{row.number}\n{row.body}".encode()).hexdigest()
