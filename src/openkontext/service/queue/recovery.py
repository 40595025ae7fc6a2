"""Jobs that nobody works on any more: past their deadline, cancelled, or held by a worker that is dead."""

import time
import uuid
from collections.abc import Sequence

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from openkontext.service.queue import jobs
from openkontext.service.queue.jobs import JobOutcome
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Job, JobState, WorkerProcess


def expire(session: Session, settings: Settings, job_ids: Sequence[str] = (), limit: int = 100) -> int:
    """End jobs that nobody works on and nobody will: past their deadline, or cancelled. No worker is needed.

    Args:
        session: to write in.
        settings: of the service.
        job_ids: only these; all where there are none.
        limit: how many at most.

    Returns:
        How many there were.
    """
    silent = and_(Job.state == JobState.RUNNING, Job.leased_until < now())
    over = and_(or_(Job.state == JobState.QUEUED, silent), or_(Job.deadline < now(), Job.cancelling))
    found = select(Job).where(over, *([Job.id.in_(job_ids)] if job_ids else [])).limit(limit)
    ended = session.scalars(found.with_for_update(skip_locked=True)).all()
    for job in ended:
        token = job.lease = str(uuid.uuid4())
        job.state = JobState.RUNNING
        session.flush()
        outcome = JobOutcome(JobState.CANCELLED) if job.cancelling else jobs.LATE
        jobs.finish(session, settings, job.id, token, outcome)
    return len(ended)


def ended_late(database: Database, settings: Settings, *looked_at: Job) -> bool:
    """End jobs that someone looks at, where they are overdue; returns whether to look again."""
    unfinished = (JobState.QUEUED, JobState.RUNNING)
    late = [job.id for job in looked_at if job.state in unfinished and job.deadline < time.time()]
    if not late:
        return False
    with database.transaction() as session:
        return expire(session, settings, late) > 0


def give_up(session: Session, worker: str) -> int:
    """Put back at once what a worker held that is known to be dead; each counts as an attempt.

    Returns:
        How many jobs it held.
    """
    session.execute(delete(WorkerProcess).where(WorkerProcess.id == worker))  # it is ready no more
    held = update(Job).where(Job.state == JobState.RUNNING, Job.lease.startswith(f"{worker}:"))
    values = {"state": JobState.QUEUED, "lease": None, "leased_until": None}
    return len(session.scalars(held.values(**values).returning(Job.id)).all())
