"""The queue: submitting, leasing to workers, progress, cancelling, finishing. No work is done here.

A job is accepted when its row is committed. A worker holds it under a lease with a token; everything a worker
writes names the token, so that a worker that was given up for dead cannot write over its successor.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import CursorResult, and_, func, or_, select, text, update
from sqlalchemy.orm import Session

from openkontext.service.rejections import NotAccepted
from openkontext.service.settings import Settings
from openkontext.service.storage import store
from openkontext.service.storage.database import now
from openkontext.service.storage.erasing import erasure, wipe
from openkontext.service.storage.models import (
    UNFINISHED,
    Account,
    ApiKey,
    Job,
    JobState,
    Webhook,
    receiver_of,
)

LOCK = 0x6F6D  # of PostgreSQL's advisory locks: submissions take turns, so that the queue's bound holds


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is asked of one edit, its pictures already in the store."""

    account_id: str
    key_id: str | None
    model: str
    asked: Mapping[str, Any]
    inputs: Sequence[str] = ()
    mask: str | None = None
    end_user: str | None = None
    parent_id: str | None = None
    base_url: str = ""
    webhook_url: str | None = None
    webhook_secret: bytes | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None

    def variant(self, idempotency_key: str | None, asked: Mapping[str, Any]) -> "Submission":
        """The same with other options: one of several that a request asks for."""
        return replace(self, idempotency_key=idempotency_key, asked=asked)


@dataclass(frozen=True)
class Lease:
    """A job that a worker was given."""

    job: Job
    token: str


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended."""

    state: JobState
    output: str | None = None
    result: Mapping[str, Any] | None = None
    refusal: Mapping[str, Any] | None = None
    error: str | None = None
    review: str | None = None
    """Where a person shall decide: the request's id in the review queue."""
    seed: int | None = None
    """Where a person shall decide: the seed that makes it the same request again."""


LATE = JobOutcome(JobState.ERROR, error="the deadline passed")


def repeated(session: Session, account_id: str, key: str | None, fingerprint: str | None) -> Job | None:
    """The job that an idempotency key already stands for, if any.

    Raises:
        NotAccepted: the key came with another request before.
    """
    if key is None:
        return None
    job = session.scalar(select(Job).where(Job.account_id == account_id, Job.idempotency_key == key))
    if job is not None and job.fingerprint != fingerprint:
        raise NotAccepted(422, "this Idempotency-Key came with another request before; use a new one")
    return job


def submit(session: Session, settings: Settings, submission: Submission) -> Job:
    """Accept a job, or say why not.

    Raises:
        NotAccepted: no credit, too many jobs, a full queue, or an idempotency key used for something else.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
    account_id = submission.account_id
    if job := repeated(session, account_id, submission.idempotency_key, submission.fingerprint):
        return job
    check_room(session, settings, account_id)
    if settings.price:
        paid = update(Account).where(Account.id == account_id)
        enough = or_(Account.credit.is_(None), Account.credit >= settings.price)
        done = session.execute(paid.where(enough).values(credit=Account.credit - settings.price))
        if not _count(done):
            raise NotAccepted(402, "not enough credit; ask the operator for more")
    created = session.scalar(select(now())) or 0.0
    job = Job(
        **{name: getattr(submission, name) for name in submission.__dataclass_fields__},
        cost=settings.price,
        deadline=created + settings.deadline_seconds,
        created=created,
    )
    job.asked, job.inputs = dict(submission.asked), list(submission.inputs)
    session.add(job)
    session.flush()
    store.hold(session, _pictures(job), settings.deadline_seconds + settings.retention_hours * 3600)
    return job


def check_room(session: Session, settings: Settings, account_id: str, count: int = 1) -> None:
    """Whether so many more jobs fit, cheaply enough to ask before their pictures are read.

    Raises:
        NotAccepted: 429, with when to come again.
    """
    counts = select(Job.state, func.count()).where(Job.state.in_(UNFINISHED)).group_by(Job.state)
    states = dict(session.execute(counts).all())
    if states.get(JobState.QUEUED, 0) + count > settings.queue_size:
        wait = _time_to_room(session, settings)
        raise NotAccepted(429, f"the queue is full; try again in {wait} seconds", wait)
    if not states and count <= settings.concurrency:
        return
    own = select(func.count()).select_from(Job)
    at_work = own.where(Job.account_id == account_id, Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
    active = session.scalar(at_work) or 0
    if active + count > settings.concurrency:
        wait = _time_to_room(session, settings)
        most = f"at most {settings.concurrency} may be"
        raise NotAccepted(429, f"{active} of your edits are unfinished and you ask for {count}; {most}", wait)


def take_turn(session: Session, settings: Settings, key_id: str, count: int = 1) -> None:
    """Count what a request asks for against its key's rate: a token bucket that holds a minute's edits.

    Raises:
        NotAccepted: 429, with when the next request may come.
    """
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id).with_for_update(of=ApiKey))
    if key is None:
        return
    at = session.scalar(select(now())) or 0.0
    size = key.requests_per_minute or settings.requests_per_minute
    rate = size / 60
    tokens = min(size, (key.tokens or 0.0) + (at - key.tokens_at) * rate) if key.tokens_at else float(size)
    if count > size:
        raise NotAccepted(429, f"this key may make {size} requests a minute and you ask for {count} at once")
    if tokens < count:
        wait = math.ceil((count - tokens) / rate)
        raise NotAccepted(429, f"this key may make {size} requests a minute; wait {wait} seconds", wait)
    values = {"tokens": tokens - count, "tokens_at": at, "last_used": at}
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(**values))


def claim(session: Session, settings: Settings, worker: str = "") -> Lease | None:
    """The job to do next: the oldest that waits, or whose worker has fallen silent.

    Args:
        session: to write in.
        settings: of the service.
        worker: who takes it, so that `give_up` finds what it held.
    """
    free = or_(Job.state == JobState.QUEUED, and_(Job.state == JobState.RUNNING, Job.leased_until < now()))
    oldest = select(Job).where(free).order_by(Job.created).limit(1)
    while job := session.scalar(oldest.with_for_update(skip_locked=True)):
        at = session.scalar(select(now())) or 0.0
        token = f"{worker}:{uuid.uuid4()}"
        job.lease, job.leased_until, job.state = token, at + settings.lease_seconds, JobState.RUNNING
        job.started = job.started or at
        session.flush()
        if job.cancelling:
            finish(session, settings, job.id, token, JobOutcome(JobState.CANCELLED))
        elif at > job.deadline:
            finish(session, settings, job.id, token, LATE)
        elif job.attempts >= settings.max_attempts:
            reason = f"{job.attempts} workers stopped while they worked on it"
            finish(session, settings, job.id, token, JobOutcome(JobState.ERROR, error=reason))
        else:
            job.attempts += 1
            session.flush()
            return Lease(job, token)
    return None


def report(
    session: Session,
    settings: Settings,
    job_id: str,
    token: str,
    progress: float | None = None,
    preview: bytes | None = None,
) -> str | None:
    """Renew a lease and tell how far the work is.

    Returns:
        None to go on; else why not: "lost" (another worker has it), "cancelled" or "deadline".
    """
    values: dict[str, Any] = {"leased_until": now() + settings.lease_seconds}
    if progress is not None:
        values["progress"] = progress
    if preview is not None:
        values["preview"] = preview
    change = update(Job).where(Job.id == job_id, Job.lease == token, Job.state == JobState.RUNNING)
    going = session.execute(change.values(**values).returning(Job.cancelling, Job.deadline < now()))
    row = going.one_or_none()
    if row is None:
        return "lost"
    cancelled, late = row
    return "cancelled" if cancelled else "deadline" if late else None


def finish(session: Session, settings: Settings, job_id: str, token: str, outcome: JobOutcome) -> bool:
    """End a job under its lease, once; returns whether the lease still held."""
    mine = select(Job).where(Job.id == job_id, Job.lease == token, Job.state == JobState.RUNNING)
    job = session.scalar(mine.with_for_update())
    if job is None:
        return False
    if job.cancelling and outcome.state in (JobState.READY, JobState.HELD):
        outcome = JobOutcome(JobState.CANCELLED)
    job.state, job.output, job.error = outcome.state, outcome.output, outcome.error
    job.result = dict(outcome.result) if outcome.result is not None else None
    job.refusal = dict(outcome.refusal) if outcome.refusal is not None else None
    job.lease = job.leased_until = job.preview = None
    job.review = outcome.review or job.review
    if outcome.seed is not None:
        job.asked = {**job.asked, "seed": outcome.seed}
    session.flush()
    store.hold(session, _pictures(job), settings.retention_hours * 3600)
    if outcome.state not in UNFINISHED:
        _settle(session, job)
    if job.deleted is not None:
        wipe(session, job)
    return True


def decide(session: Session, settings: Settings, job_id: str, outcome: JobOutcome) -> bool:
    """End a job that was held for review, once; returns whether it was still held."""
    token = str(uuid.uuid4())
    change = update(Job).where(Job.id == job_id, Job.state == JobState.HELD)
    if not _count(session.execute(change.values(state=JobState.RUNNING, lease=token))):
        return False
    return finish(session, settings, job_id, token, outcome)


def requeue(session: Session, settings: Settings, job_id: str) -> bool:
    """Have a job done that was held and is approved; returns whether it was still held."""
    values = {
        "state": JobState.QUEUED,
        "attempts": 0,
        "progress": 0.0,
        "refusal": None,
        "deadline": now() + settings.deadline_seconds,
    }
    change = update(Job).where(Job.id == job_id, Job.state == JobState.HELD)
    return bool(_count(session.execute(change.values(**values))))


def keep_held(session: Session, settings: Settings) -> None:
    """Keep the pictures of jobs that wait for a person, who may take longer than the retention time."""
    for job in session.scalars(select(Job).where(Job.state == JobState.HELD)):
        store.hold(session, _pictures(job), settings.retention_hours * 3600)


def release(session: Session, job_id: str, token: str, *, failed: bool = False) -> None:
    """Give a job back unfinished, as a worker does that is told to stop.

    Args:
        session: to write in.
        job_id: of the job.
        token: of the lease.
        failed: that what worked on it died, which counts as an attempt.
    """
    change = update(Job).where(Job.id == job_id, Job.lease == token, Job.state == JobState.RUNNING)
    values: dict[str, Any] = {"state": JobState.QUEUED, "lease": None, "leased_until": None}
    if not failed:
        values["attempts"] = Job.attempts - 1
    session.execute(change.values(**values))


def cancel(session: Session, job: Job) -> bool:
    """Cancel a job: at once where it waits, else as soon as its worker looks up. It costs nothing any more.

    Returns:
        Whether it was unfinished.
    """
    job = session.get_one(Job, job.id, populate_existing=True, with_for_update=True)
    if job.state not in UNFINISHED:
        return False
    job.cancelling = True
    _give_back(session, job)
    if job.state != JobState.RUNNING:
        job.state = JobState.CANCELLED
        _settle(session, job)
    return True


def withdraw(session: Session, job: Job) -> None:
    """Take back a job whose result nobody gets: it is cancelled, also when it is done, and costs nothing."""
    if cancel(session, job):
        return
    job = session.get_one(Job, job.id, populate_existing=True, with_for_update=True)
    if job.state == JobState.READY:
        job.state, job.output = JobState.CANCELLED, None
        _give_back(session, job)


def erase(session: Session, settings: Settings, limit: int = 100) -> int:
    """Delete the instructions of jobs that finished the retention time ago; returns how many.

    Their pictures go by themselves: nothing has held them for longer.
    """
    old = select(Job.id).where(Job.finished < now() - settings.retention_hours * 3600, Job.erased.is_(None))
    ids = list(session.scalars(old.limit(limit).with_for_update(skip_locked=True)))
    session.execute(update(Job).where(Job.id.in_(ids)).values(**erasure()))
    return len(ids)


def _settle(session: Session, job: Job) -> None:
    """What follows from an end: credits given back unless it was delivered, and its webhook."""
    job.finished = session.scalar(select(now()))
    job.progress = 1.0
    if job.state != JobState.READY:
        _give_back(session, job)
    if job.webhook_url:
        session.add(Webhook(job_id=job.id, receiver=receiver_of(job.webhook_url), next_attempt=job.finished))
    session.flush()


def _give_back(session: Session, job: Job) -> None:
    back = update(Account).where(Account.id == job.account_id, Account.credit.is_not(None))
    session.execute(back.values(credit=Account.credit + job.cost))
    job.cost = 0
    session.flush()


def _pictures(job: Job) -> list[str]:
    return [digest for digest in (*job.inputs, job.mask, job.output) if digest]


def _time_to_room(session: Session, settings: Settings) -> int:
    """Seconds until a place is free, judged by how fast jobs ended in the last ten minutes."""
    recent = select(func.count()).select_from(Job).where(Job.finished > now() - 600)
    ended = session.scalar(recent) or 0
    return min(60, max(1, math.ceil(600 / ended))) if ended else 10


def _count(result: Any) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0
