"""An audit log in which tampering shows.

Every entry carries the SHA-256 of itself and the entry before, so that none can be changed, left out or moved
without all after it changing too. The number and digest of the newest are also kept in a file outside of the
database, the witness: it shows where the end was cut off or the whole chain was computed anew.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openkontext.files import write_whole
from openkontext.safety.review.tables import AuditRow

_BEFORE_FIRST = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One thing that was done."""

    number: int
    """From 1, without a gap."""
    time: datetime
    """UTC."""
    actor: str
    """Who did it."""
    action: str
    """What: held, seen, approved, rejected, expired, ..."""
    subject: str
    """To which request."""
    detail: dict[str, Any]
    """More about it."""
    digest: str
    """Of this entry and all before it."""


class AuditLog:
    """The log of one database."""

    def __init__(self, witness: Path) -> None:
        """Keep the newest digest in a file.

        Args:
            witness: the file; it is written after each change.
        """
        self._witness = witness

    def append(self, session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
        """Add an entry; it stands once the session is committed.

        Args:
            session: of the database, in a transaction that keeps other writers out.
            actor: who does it.
            action: what is done.
            subject: id of the request.
            detail: more about it; JSON.
        """
        last = session.scalars(select(AuditRow).order_by(AuditRow.number.desc()).limit(1)).first()
        number, previous = (last.number + 1, last.digest) if last else (1, _BEFORE_FIRST)
        entry = {
            "time": datetime.now(UTC).isoformat(),
            "actor": actor,
            "action": action,
            "subject": subject,
            "detail": detail,
        }
        body = json.dumps(entry, sort_keys=True, ensure_ascii=False)
        digest = _digest(previous, number, body)
        session.add(AuditRow(number=number, body=body, previous=previous, digest=digest))
        session.flush()

    def note(self, session: Session) -> None:
        """Write the newest entry's digest into the witness.

        Args:
            session: of the database, after the commit.
        """
        last = session.scalars(select(AuditRow).order_by(AuditRow.number.desc()).limit(1)).first()
        if last is None:
            return
        write_whole(self._witness, f"{last.number} {last.digest}\n".encode())

    def entries(self, session: Session, subject: str | None = None) -> list[AuditEntry]:
        """The log, from its beginning.

        Args:
            session: of the database.
            subject: of one request only.
        """
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number))
        found = [_entry(row) for row in rows]
        return [entry for entry in found if subject is None or entry.subject == subject]

    def faults(self, session: Session) -> list[str]:
        """What of the log was tampered with; empty where nothing was.

        Args:
            session: of the database.
        """
        found: list[str] = []
        previous = _BEFORE_FIRST
        digests: dict[int, str] = {}
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number))
        for expected, row in enumerate(rows, 1):
            if row.number != expected:
                found.append(f"entry {expected} is missing")
                break
            if row.previous != previous:
                found.append(f"entry {row.number} does not follow the one before it")
            if row.digest != _digest(row.previous, row.number, row.body):
                found.append(f"entry {row.number} was changed")
            previous = digests[row.number] = row.digest
        return found + self._faults_of_end(session, digests)

    def _faults_of_end(self, session: Session, digests: dict[int, str]) -> list[str]:
        count = session.scalar(select(func.count()).select_from(AuditRow)) or 0
        try:
            number, digest = self._witness.read_text().split()
        except FileNotFoundError:
            return [f"the witness {self._witness} is missing"] if count else []
        except (OSError, ValueError):
            return [f"the witness {self._witness} is damaged"]
        if int(number) > count:
            return [f"the log ends at entry {count}, and its witness has seen {number}"]
        if digests.get(int(number)) != digest:
            return [f"entry {number} is not the one that the witness has seen"]
        return []


def _digest(previous: str, number: int, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{number}\n{body}".encode()).hexdigest()


def _entry(row: AuditRow) -> AuditEntry:
    try:
        body = json.loads(row.body)
        time = datetime.fromisoformat(body["time"])
        return AuditEntry(
            row.number, time, body["actor"], body["action"], body["subject"], body["detail"], row.digest
        )
    except (ValueError, KeyError, TypeError):
        never = datetime.fromtimestamp(0, UTC)
        return AuditEntry(row.number, never, "?", "damaged", "", {}, row.digest)
