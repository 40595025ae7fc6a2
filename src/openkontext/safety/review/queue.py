"""The queue of requests that wait for a person: hold, look, decide, expire."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from openkontext.audit_log import AuditEntry
from openkontext.errors import InputError
from openkontext.places import data_folder
from openkontext.safety.review.review_audit import ReviewAudit
from openkontext.safety.review.tables import DecisionRow, PictureRow, RequestRow, ReviewAuditRow, Table
from openkontext.safety.review.thumbnails import shown, thumbnail

HELD, APPROVED, REJECTED, EXPIRED = "held", "approved", "rejected", "expired"
STATES = (HELD, APPROVED, REJECTED, EXPIRED)
"""What becomes of a request: it is held until it is approved or rejected, or nobody decided in time."""

SYSTEM = "openkontext"
"""Who acts in the audit log where no person does."""


@dataclass(frozen=True)
class Decision:
    """What one reviewer decided."""

    reviewer: str
    approve: bool
    reason: str
    time: datetime


@dataclass(frozen=True)
class HeldRequest:
    """A request in the queue."""

    id: str
    """32 hexadecimal digits."""
    fingerprint: str
    """What the decision is about: the same words, pictures and options have the same."""
    state: str
    """One of `STATES`."""
    created: datetime
    """UTC."""
    expires: datetime
    """UTC; when an open request is refused, an approval ends, and the pictures go."""
    approvals_needed: int
    """Reviewers who must approve."""
    requester: str
    """Who asked; empty where that is not known."""
    prompt: str
    """The instruction."""
    options: dict[str, Any]
    """The rest of the request."""
    verdict: dict[str, Any]
    """What the filters said."""
    pictures: tuple[str, ...]
    """What pictures there are to see: "input", "output", ..."""
    decisions: tuple[Decision, ...]
    """So far, the first first."""


class ReviewQueue:
    """The queue in one database."""

    def __init__(
        self,
        url: str | None = None,
        *,
        reviewers: int = 1,
        keep: timedelta = timedelta(days=7),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open the queue, making it where it does not exist yet.

        Args:
            url: of the database as SQLAlchemy writes it; None for SQLite in `data_folder()`.
            reviewers: how many must approve what is held from now on; 2 for the two-person rule.
            keep: how long a request waits, and an approval holds.
            clock: what time it is.

        Raises:
            InputError: the database cannot be opened.
        """
        if reviewers < 1:
            raise InputError("a review queue needs at least one reviewer for each request")
        folder = data_folder() / "review"
        self._reviewers, self._keep, self._clock = reviewers, keep, clock
        self._engine = _engine(url or f"sqlite:///{folder / 'queue.db'}")
        database = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        self._log = ReviewAudit(Path(database + ".witness") if database else folder / "audit.witness")
        try:
            (Path(database).parent if database else folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            if database:
                # A file that is there is not opened: closing it would drop the locks that SQLite holds
                # for this process's other connections (sqlite.org/howtocorrupt.html, section 2.2).
                with suppress(FileExistsError):
                    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            Table.metadata.create_all(self._engine)
        except (OSError, SQLAlchemyError) as error:
            where = self._engine.url.render_as_string(hide_password=True)
            raise InputError(
                f"{where}: the review queue cannot be opened ({type(error).__name__})"
            ) from error

    def hold(
        self,
        *,
        prompt: str,
        options: Mapping[str, Any],
        verdict: Mapping[str, Any],
        pictures: Mapping[str, NDArray[np.uint8]],
        requester: str = "",
    ) -> HeldRequest:
        """Have a person look at a request. The same request asked again is held once.

        Args:
            prompt: the instruction.
            options: the rest of the request; JSON.
            verdict: what the filters said; JSON, with `fixed` where a fixed category was found.
            pictures: role -> uint8 [H, W, 3] of what there is to see.
            requester: who asks.

        Raises:
            ValueError: the verdict is of a fixed category, which nobody reviews.
        """
        if verdict.get("fixed"):
            raise ValueError("a fixed category is never reviewed")
        mark = fingerprint(prompt, options, pictures)
        with self._transaction() as session:
            now = self._clock()
            query = select(RequestRow).where(RequestRow.fingerprint == mark, RequestRow.expires > now)
            row = session.scalars(query.order_by(RequestRow.created.desc())).first()
            if row is None:
                row = RequestRow(
                    id=secrets.token_hex(16),
                    fingerprint=mark,
                    state=HELD,
                    created=now,
                    expires=now + self._keep,
                    approvals_needed=self._reviewers,
                    requester=requester,
                    prompt=prompt,
                    options=dict(options),
                    verdict=dict(verdict),
                    pictures=[
                        PictureRow(place=place, role=role, data=thumbnail(pixels))
                        for place, (role, pixels) in enumerate(pictures.items())
                    ],
                )
                session.add(row)
                category = str(verdict.get("category", ""))
                self._log.write(session, requester or SYSTEM, "held", row.id, category=category)
            return _request(row)

    def approved(
        self, prompt: str, options: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]
    ) -> bool:
        """Whether this very request was approved, and that still holds.

        Args:
            prompt: as for `hold`.
            options: as for `hold`.
            pictures: as for `hold`.
        """
        query = select(RequestRow).where(
            RequestRow.fingerprint == fingerprint(prompt, options, pictures),
            RequestRow.state == APPROVED,
            RequestRow.expires > self._clock(),
        )
        with Session(self._engine) as session:
            return session.scalars(query).first() is not None

    def requests(self, state: str | None = HELD) -> list[HeldRequest]:
        """Requests of a state, the oldest first; None for all.

        Args:
            state: one of `STATES`.
        """
        self.expire()
        query = select(RequestRow).order_by(RequestRow.created)
        with Session(self._engine) as session:
            rows = session.scalars(query if state is None else query.where(RequestRow.state == state))
            return [_request(row) for row in rows]

    def get(self, request: str) -> HeldRequest:
        """One request.

        Args:
            request: its id, or as much of its beginning as tells it from the others.

        Raises:
            InputError: there is none, or more than one.
        """
        self.expire()
        with Session(self._engine) as session:
            return _request(_find(session, request))

    def picture(self, request: str, role: str, reviewer: str, *, clear: bool = False) -> Image.Image:
        """A thumbnail: blurred, or clear where a reviewer asks for it, which the audit log records.

        Args:
            request: id of the request.
            role: which of its pictures.
            reviewer: who looks.
            clear: whether to see it unblurred.

        Raises:
            InputError: there is no such request or picture.
        """
        with self._transaction() as session:
            row = _find(session, request)
            found = {picture.role: picture.data for picture in row.pictures}
            if role not in found:
                known = ", ".join(found) or "none any more"
                raise InputError(f"request {row.id[:8]} has no picture {role!r}; it has {known}")
            if clear:
                self._log.write(session, reviewer, "seen", row.id, picture=role)
            return shown(found[role], clear=clear)

    def decide(self, request: str, reviewer: str, *, approve: bool, reason: str) -> HeldRequest:
        """Approve or reject a request. One rejection rejects; approvals count up to how many it needs.

        Args:
            request: id of the request.
            reviewer: who decides; each once, and nobody on what they asked for themselves.
            approve: or reject.
            reason: why, for the audit log.

        Raises:
            InputError: there is no such request, it is decided already, there is no reason, or this
                reviewer may not decide on it.
        """
        if not reason.strip():
            raise InputError("a decision needs a reason")
        with self._transaction() as session:
            row = _find(session, request)
            self._expire(session, row)
            short = row.id[:8]
            if row.state != HELD:
                raise InputError(f"request {short} is {row.state} already")
            if reviewer == row.requester:
                raise InputError(f"request {short} is your own; another reviewer must decide")
            if any(decision.reviewer == reviewer for decision in row.decisions):
                raise InputError(f"you approved request {short} already; it needs another reviewer")
            time = self._clock()
            row.decisions.append(
                DecisionRow(reviewer=reviewer, approve=approve, reason=reason.strip(), time=time)
            )
            if not approve:
                row.state = REJECTED
            elif sum(decision.approve for decision in row.decisions) >= row.approvals_needed:
                row.state, row.expires = APPROVED, time + self._keep
            action = "approved" if approve else "rejected"
            self._log.write(session, reviewer, action, row.id, reason=reason.strip(), state=row.state)
            return _request(row)

    def expire(self) -> int:
        """Close what nobody decided in time and drop the pictures of all that is over.

        Returns:
            How many requests ran out.
        """
        with Session(self._engine) as session:
            due = session.scalars(select(RequestRow).where(RequestRow.expires <= self._clock())).all()
            if not any(row.state == HELD or row.pictures for row in due):
                return 0
        with self._transaction() as session:
            due = session.scalars(select(RequestRow).where(RequestRow.expires <= self._clock())).all()
            return sum(self._expire(session, row) for row in due)

    def audit(self, request: str | None = None) -> list[AuditEntry]:
        """The audit log, from its beginning.

        Args:
            request: id of one request; None for all.
        """
        with Session(self._engine) as session:
            subject = None if request is None else _find(session, request).id
            entries = self._log.entries(session)
            return [entry for entry in entries if subject in (None, entry.subject)]

    def audit_faults(self) -> list[str]:
        """What of the audit log was tampered with; empty where nothing was."""
        with Session(self._engine) as session:
            faults = [fault.message for fault in self._log.faults(session)]
            return faults + self._log.witnessed(session)

    def _expire(self, session: Session, row: RequestRow) -> bool:
        """Close a request whose time is over; whether it ran out."""
        if row.expires > self._clock():
            return False
        row.pictures.clear()
        if row.state != HELD:
            return False
        row.state = EXPIRED
        self._log.write(session, SYSTEM, "expired", row.id)
        return True

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        # One writer at a time, from the beginning of its transaction: the audit log needs their order.
        writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        with Session(writing, expire_on_commit=False) as session:
            with session.begin():
                if self._engine.dialect.name == "postgresql":
                    session.execute(text(f"LOCK TABLE {ReviewAuditRow.__tablename__} IN EXCLUSIVE MODE"))
                yield session
            self._log.note(session)


def fingerprint(prompt: str, options: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> str:
    """What a decision is about.

    Args:
        prompt: the instruction.
        options: the rest of the request; JSON.
        pictures: role -> uint8 [H, W, 3].

    Returns:
        64 hexadecimal digits: the same for the same words, options and pixels.
    """
    parts: dict[str, Any] = {"prompt": prompt, "options": dict(options)}
    parts["pictures"] = {
        role: [list(pixels.shape), hashlib.sha256(pixels.tobytes()).hexdigest()]
        for role, pixels in pictures.items()
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _engine(url: str) -> Engine:
    try:
        engine = create_engine(make_url(url))
    except (ArgumentError, ModuleNotFoundError) as error:
        raise InputError(f"the URL of the review queue cannot be used ({type(error).__name__})") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _no_implicit_begin)
        event.listen(engine, "begin", _begin)
    return engine


def _no_implicit_begin(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 120000")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _find(session: Session, request: str) -> RequestRow:
    query = select(RequestRow).where(RequestRow.id.startswith(request, autoescape=True))
    rows = session.scalars(query.limit(2)).all() if request else []
    if len(rows) != 1:
        state = "more than one request begins" if rows else "no request begins"
        raise InputError(f"{state} with {request!r}; see: openkontext review list")
    return rows[0]


def _request(row: RequestRow) -> HeldRequest:
    return HeldRequest(
        id=row.id,
        fingerprint=row.fingerprint,
        state=row.state,
        created=row.created,
        expires=row.expires,
        approvals_needed=row.approvals_needed,
        requester=row.requester,
        prompt=row.prompt,
        options=row.options,
        verdict=row.verdict,
        pictures=tuple(picture.role for picture in row.pictures),
        decisions=tuple(
            Decision(each.reviewer, each.approve, each.reason, each.time) for each in row.decisions
        ),
    )
